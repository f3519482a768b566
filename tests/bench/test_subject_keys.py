"""`bench subject-keys` fills each store with keys that are found again, and a recovery ends when the leg runs.

Mutations seen red: rows lost on their way into a store; a key made anew where none is found; a run of the worker before
taken for this one; a batch of RocksDB that is not written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bench import subject_keys
from bench.measure import Running
from bench.recovery import recover
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.subjects import SubjectKeys


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    subject_keys.make(300, tmp_path / "rows")
    return tmp_path / "rows"


def test_every_key_is_found_again(rows: Path) -> None:
    assert len({key for key, _ in subject_keys._rows(rows)}) == 300
    found = subject_keys.in_memory(300, rows)
    assert found["look_up_microseconds"] > 0
    with pytest.raises(RuntimeError, match="made anew"):
        subject_keys.in_memory(301, rows)


def test_keys_on_rocksdb_are_found_again(rows: Path) -> None:
    pytest.importorskip("rocksdict")
    assert subject_keys.on_rocksdb(300, rows)["disk_bytes_each"] > 100
    from bench.rocks_table import RocksTable

    table, plain = RocksTable(rows.with_name("rocksdb")), MemoryTable()
    assert dict(table.items()) == dict(subject_keys._rows(rows))
    for keys in (SubjectKeys(t, subject_keys.KEK, random=bytes) for t in (table, plain)):
        keys.get("somebody else")
    assert len(table) == 301
    (new,) = plain.items()
    assert table.get(new[0]) == new[1]
    table.delete(new[0])
    assert table.get(new[0]) is None
    table.close()


def test_each_store_has_a_process_of_its_own() -> None:
    found = subject_keys.measured(200, ["memory"], None, lambda _: None)
    assert found["made"]["row_bytes_each"] == sum(map(len, _a_row()))
    assert found["memory"].keys() >= {"bytes_each", "bytes_each_in_use", "read_from_file_seconds"}


def _a_row() -> tuple[bytes, bytes]:
    table = MemoryTable()
    SubjectKeys(table, subject_keys.KEK).get(subject_keys.subject(0))
    return next(table.items())


class World:
    """A setting whose worker says that it runs after a while."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.broker = directory, self

    def end(self, *topics: str) -> int:
        return 100 * len(topics)

    def worker(self, leg: str) -> Running:
        says = 'import time; time.sleep(0.5); print(\'{"event": "partitions assigned"}\', flush=True); time.sleep(60)'
        return Running([sys.executable, "-c", says], {}, self.directory / f"{leg}.log")


def test_a_recovery_lasts_until_the_leg_runs(tmp_path: Path) -> None:
    world: Any = World(tmp_path)
    for _ in range(2):  # the log of the first run stays
        found = recover(world, "protect", ["a", "b"])
        assert found.records == 200
        assert 0.5 <= found.seconds < 20
        assert found.rss_bytes > 1 << 20
