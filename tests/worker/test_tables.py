"""A partition's rows and what its changelog must hold.

Mutations seen red: `changes` keeps what it gave; `delete` writes no tombstone; `recover` ignores tombstones.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import RawRecord
from pipeline.worker.tables import PartitionTable

KEYS = st.sampled_from([b"a", b"b", b"c"])
OPS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=30)


def apply(table: PartitionTable, ops: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in ops:
        if value is None:
            table.delete(key)
        else:
            table.put(key, value)


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
    log: list[RawRecord] = []
    for ops in checkpoints:
        apply(table, ops)
        log += [RawRecord(0, o.timestamp, o.key, o.value) for o in table.changes(0)]
    recovered.recover(log)
    assert dict(recovered.items()) == dict(table.items())
    assert len(recovered) == len(table)
    assert recovered.changes(0) == []


@given(OPS)
def test_a_changelog_read_twice_gives_the_same_rows(ops: list[tuple[bytes, bytes | None]]) -> None:
    table, recovered = PartitionTable(), PartitionTable()
    apply(table, ops)
    log = [RawRecord(0, o.timestamp, o.key, o.value) for o in table.changes(0)]
    recovered.recover(log)
    recovered.recover(log)
    assert dict(recovered.items()) == dict(table.items())
