"""A partition's rows and what its changelog must hold.

Mutations seen red: `changes` keeps what it gave; `delete` writes no tombstone; `recover` ignores tombstones;
a claim is a row; an earlier writer's record counts after a claim; its keys are not written again; claims have one key
(compaction takes them); a claim is not noted as the table's writer; rows are not checked; an overwritten row stays
unreadable; the empty key is a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters.topic_specs import CLAIM
from pipeline.errors import Corrupt
from pipeline.ports import Out
from pipeline.worker.records import Written
from pipeline.worker.tables import PartitionTable

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


class Claims:
    """The log of a changelog's partition, claimed by owners in turn."""

    def __init__(self) -> None:
        self.log: list[Written] = []
        self._made = itertools.count()

    def claim(self, table: PartitionTable, writer: int) -> None:
        """As the engine does: claims, then reads what stands between what the table has and that."""
        write(self.log, [Out(CLAIM + b"%d" % next(self._made), b"", 0)], writer)
        self.read(table, self.log[:-1])
        table.claimed(self.log[-1].offset + 1, writer)

    @staticmethod
    def read(table: PartitionTable, log: Iterable[Written]) -> None:
        table.recover(r for r in log if r.offset >= table.next_offset)


@given(st.lists(st.tuples(OPS, OPS, st.booleans()), max_size=6))
def test_after_a_claim_only_its_writers_rows_count(terms: list[tuple[list[Any], list[Any], bool]]) -> None:
    """Owners in turn; the former one may write after its heir's claim, and is passed over."""
    claims = Claims()
    log = claims.log
    former = PartitionTable()
    for writer, (theirs, ours, compacts) in enumerate(terms, 1):
        owner = PartitionTable()
        claims.claim(owner, writer)
        rows = dict(owner.rows)
        apply(former, theirs)
        write(log, former.changes(0), writer - 1)
        apply(owner, ours)
        write(log, owner.changes(0), writer)
        reader = PartitionTable()
        reader.recover(log)
        assert reader.rows == owner.rows
        if not ours:
            assert owner.rows == rows
        heir = PartitionTable()  # writes anew what compaction would lose
        claims.claim(heir, writer)
        write(log, heir.changes(0), writer)
        if compacts:
            log[:] = compacted(log)
            reader = PartitionTable()
            reader.recover(log)
            assert reader.rows == owner.rows
        former = owner


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3]), OPS, OPS, st.integers(0, 30), st.integers(0, 30)), max_size=8),
)
@example([(1, [(b"a", b"1")], [], 0, 0), (2, [(b"b", b"2")], [], 0, 0), (3, [], [], 0, 0), (1, [], [], 2, 30)])
@example([(1, [(b"a", b"1")], [], 0, 0), (2, [], [(b"a", b"2")], 0, 0), (2, [], [], 0, 0)])
def test_rows_are_right_whatever_was_compacted_while_they_were_read(
    terms: list[tuple[int, list[Any], list[Any], int, int]],
) -> None:
    """Owners come back, and a reader has got so far when compaction takes earlier records away from behind it.

    Or a replica takes over that was compacted further: what is read next is not what stood there before. The one who
    owned the partition before may be late with rows, which are not compacted before the next owner has seen them.
    """
    claims, log = Claims(), list[Written]()
    tables = {writer: PartitionTable() for writer in (1, 2, 3)}
    rows: dict[bytes, bytes] = {}
    former = settled = 0
    for writer, ours, late, read, clean in terms:
        reader = PartitionTable()
        Claims.read(reader, log[:read])
        log = claims.log = compacted(log[: min(clean, settled)]) + log[min(clean, settled) :]
        table = tables[writer]
        claims.claim(table, writer)  # goes on from what it had when it was the owner last
        apply(table, ours)
        last = {**rows, **dict(ours)}
        rows = {key: value for key, value in last.items() if value is not None}
        write(log, table.changes(0), writer)
        table.next_offset = log[-1].offset + 1
        settled = len(log)
        if former != writer:
            write(log, [Out(key, value, 0) for key, value in late], former)
        Claims.read(reader, log)
        assert reader.rows == table.rows == rows
        former = writer


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_is_no_row_and_no_claim(key: bytes | None) -> None:
    """As an earlier version claimed, with the empty key."""

    def check(key: bytes, value: bytes) -> None:
        if not key:
            raise Corrupt("said elsewhere")

    table = PartitionTable(check)
    table.recover([Written(0, 0, b"a", b"1", 1), Written(1, 0, key, b"claim", 2), Written(2, 0, b"b", b"2", 1)])
    assert (table.rows, table.unreadable, table.next_offset) == ({b"a": b"1", b"b": b"2"}, {}, 3)


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
