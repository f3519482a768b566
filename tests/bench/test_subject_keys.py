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
from bench.rocks_table import RocksTable
from pipeline import wiring
from pipeline.adapters import keyfile


@pytest.fixture
def made(tmp_path: Path) -> Path:
    keyfile.create(tmp_path / subject_keys.KEY_FILE, wiring.throw_away_ring())
    subject_keys.make(300, tmp_path)
    return tmp_path


def test_every_key_is_found_again(made: Path) -> None:
    rows = dict(subject_keys._rows(made))
    assert len(rows) == 300
    assert subject_keys.in_memory(300, made)["look_up_microseconds"] > 0
    with pytest.raises(RuntimeError, match="made anew"):
        subject_keys.in_memory(301, made)


def test_keys_on_rocksdb_are_found_again(made: Path) -> None:
    assert subject_keys.on_rocksdb(300, made)["disk_bytes_each"] > 100
    table = RocksTable(made / "rocksdb")
    rows = dict(subject_keys._rows(made))
    assert dict(table.items()) == rows
    table.put(b"key", b"value")
    assert (table.get(b"key"), len(table)) == (b"value", 301)
    table.delete(b"key")
    assert table.get(b"key") is None
    assert dict(table.items()) == rows
    table.close()


def test_each_store_has_a_process_of_its_own() -> None:
    found = subject_keys.measured(200, ["memory"], None, lambda _: None)
    assert found["made"]["row_bytes_each"] > 100
    assert found["memory"].keys() >= {"bytes_each", "bytes_each_in_use", "read_from_file_seconds"}


class World:
    """A setting whose worker says that it runs after a while."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.broker = directory, self

    def end(self, *topics: str) -> int:
        return 100 * len(topics)

    def worker(self, leg: str, **env: str) -> Running:
        assert env == {"SEALSTREAM_KEY_FILE": "keys"}
        says = 'import time; time.sleep(0.5); print(\'{"event": "partitions assigned"}\', flush=True); time.sleep(60)'
        return Running([sys.executable, "-c", says], {}, self.directory / f"{leg}.log")


def test_a_recovery_lasts_until_the_leg_runs(tmp_path: Path) -> None:
    world: Any = World(tmp_path)
    for _ in range(2):  # the log of the first run stays
        found = recover(world, "protect", ["a", "b"], SEALSTREAM_KEY_FILE="keys")
        assert found.records == 200
        assert 0.5 <= found.seconds < 20
        assert found.rss_bytes > 1 << 20
