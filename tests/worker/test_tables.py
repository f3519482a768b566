"""A partition's rows and what its changelog must hold.

Mutations seen red: `changes` keeps what it gave; `delete` writes no tombstone; `recover` ignores tombstones;
Faust's own event for the end of recovery; a table takes any record; a claim is a row; an earlier writer's record counts
after a claim; its keys are not written again; rows are not checked; an overwritten row stays unreadable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.topic_specs import CLAIM
from pipeline.errors import Corrupt
from pipeline.ports import Out
from pipeline.worker.records import Written
from pipeline.worker.tables import ChangelogTable, PartitionTable, RecoveryEnd, unchecked

KEYS = st.sampled_from([b"a", b"b", b"c"])
OPS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=30)


def apply(table: PartitionTable, ops: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in ops:
        if value is None:
            table.delete(key)
        else:
            table.put(key, value)


def write(log: list[Written], outs: Iterable[Out], writer: int = 1) -> None:
    at = log[-1].offset + 1 if log else 0
    log += [Written(at + i, o.timestamp, o.key, o.value, writer) for i, o in enumerate(outs)]


def compacted(log: list[Written]) -> list[Written]:
    last = {r.key: r.offset for r in log}
    return [r for r in log if last[r.key] == r.offset]


def test_a_change_is_written_once_with_its_last_value() -> None:
    table = PartitionTable()
    apply(table, [(b"a", b"1"), (b"a", b"2")])
    assert [(o.key, o.value, o.timestamp) for o in table.changes(7)] == [(b"a", b"2", 7)]
    assert table.changes(8) == []


def test_putting_equal_bytes_costs_nothing() -> None:
    table = PartitionTable()
    table.put(b"a", b"1")
    table.changes(0)
    table.put(b"a", b"1")
    assert table.changes(0) == []


def test_deleting_what_is_not_there_writes_no_tombstone() -> None:
    table = PartitionTable()
    table.delete(b"a")
    assert table.changes(0) == []


@given(st.lists(OPS, max_size=5))
def test_rows_recovered_from_the_changelog_equal_the_rows(checkpoints: list[list[tuple[bytes, bytes | None]]]) -> None:
    table, recovered = PartitionTable(), PartitionTable()
    log: list[Written] = []
    for ops in checkpoints:
        apply(table, ops)
        write(log, table.changes(0))
    recovered.recover(log)
    assert dict(recovered.items()) == dict(table.items())
    assert len(recovered) == len(table)
    assert recovered.changes(0) == []


@given(OPS)
def test_a_changelog_read_twice_gives_the_same_rows(ops: list[tuple[bytes, bytes | None]]) -> None:
    table, recovered = PartitionTable(), PartitionTable()
    apply(table, ops)
    log: list[Written] = []
    write(log, table.changes(0))
    recovered.recover(log)
    recovered.recover(log)
    assert dict(recovered.items()) == dict(table.items())


@given(st.lists(st.tuples(st.booleans(), OPS, OPS, st.booleans()), max_size=6))
def test_after_a_claim_only_its_writers_rows_count(terms: list[tuple[bool, list[Any], list[Any], bool]]) -> None:
    """Owners in turn; the former one may write between the heir's recovery and claim (counts), and after (does not)."""
    log: list[Written] = []
    former = PartitionTable()
    for writer, (late, theirs, ours, compacts) in enumerate(terms, 1):
        owner = PartitionTable()
        owner.recover(log)
        apply(former, theirs)
        if late:
            write(log, former.changes(0), writer - 1)
        write(log, [Out(CLAIM, b"", 0)], writer)
        owner.recover(r for r in log[:-1] if r.offset >= owner.next_offset)
        owner.claimed(log[-1].offset + 1)
        rows = dict(owner.rows)
        apply(former, theirs[::-1])
        write(log, former.changes(0), writer - 1)
        apply(owner, ours)
        write(log, owner.changes(0), writer)
        reader = PartitionTable()
        reader.recover(log)
        assert reader.rows == owner.rows
        assert CLAIM not in owner.rows
        if not ours:
            assert owner.rows == rows
        heir = PartitionTable()  # writes anew what compaction would lose
        heir.recover(log)
        write(log, [Out(CLAIM, b"", 0)], writer)
        heir.claimed(log[-1].offset + 1)
        write(log, heir.changes(0), writer)
        if compacts:
            log = compacted(log)
            reader = PartitionTable()
            reader.recover(log)
            assert reader.rows == owner.rows
        former = owner


class Recovery:
    """Faust's, as far as `RecoveryEnd` asks it."""

    def __init__(self, left: int) -> None:
        self.left, self.flushed = left, False

    def need_recovery(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def flush_buffers(self) -> None:
        self.flushed = True


async def test_recovery_ends_when_all_is_read_whether_or_not_somebody_said_so() -> None:
    recovery = Recovery(3)
    end = RecoveryEnd(recovery)
    end.set()
    end.clear()  # as Faust does before anybody waits
    assert await asyncio.wait_for(end.wait(), 5)
    assert recovery.left < 0
    assert recovery.flushed


async def test_a_signal_from_an_earlier_recovery_does_not_end_this_one() -> None:
    recovery = Recovery(1_000_000)
    end = RecoveryEnd(recovery)
    end.set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(end.wait(), 0.1)
    assert not recovery.flushed


def test_a_table_takes_records_of_its_own_changelog_only() -> None:
    class Mine(ChangelogTable):
        changelog_topic_name = "mine"

        def __init__(self) -> None:
            self.partitions: dict[int, PartitionTable] = {}
            self._check = unchecked

    table = Mine()

    def event(topic: str) -> Any:
        return SimpleNamespace(message=SimpleNamespace(topic=topic, partition=0, value=[Written(0, 0, b"k", b"v", 1)]))

    table.apply_changelog_batch([event("another's")])
    assert table.partitions == {}
    table.apply_changelog_batch([event("mine")])
    assert table.partitions[0].rows == {b"k": b"v"}


def test_a_recovered_row_that_does_not_read_back_is_known_by_its_offset_until_it_is_overwritten() -> None:
    def check(key: bytes, value: bytes) -> None:
        if b"bad" in key + value:
            raise Corrupt("said elsewhere")

    def log(*rows: tuple[bytes, bytes | None]) -> list[Written]:
        return [Written(offset, 0, key, value, 1) for offset, (key, value) in enumerate(rows)]

    table = PartitionTable(check)
    table.recover(log((b"a", b"1"), (b"b", b"bad"), (b"bad", b"1"), (b"c", b"bad"), (b"d", b"bad")))
    assert table.unreadable == {b"b": 1, b"bad": 2, b"c": 3, b"d": 4}
    table.recover(log((b"b", b"2"), (b"bad", None), (b"d", b"bad")))
    assert table.unreadable == {b"c": 3, b"d": 2}
