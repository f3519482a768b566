"""The keys of very many people: bytes per person in memory and on RocksDB, and how long until a table is there again.

Keys are made once, by `SubjectKeys`, and their rows put into a file. Each store is filled from it in a process of its
own, whose memory is then its own:

    python -m bench.subject_keys STORE SUBJECTS DIRECTORY      # one JSON object; STORE `made` writes the rows

`changelog` is the way through Kafka into a worker that starts.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bench.measure import apart, rss_bytes
from bench.recovery import recover
from bench.setting import setting
from pipeline import wiring
from pipeline.adapters import keyfile
from pipeline.adapters.memory_table import MemoryTable
from pipeline.adapters.topic_specs import changelog_name
from pipeline.crypto.subjects import SubjectKeys
from pipeline.errors import Misuse
from pipeline.ports import Table

KEY_FILE, ROWS = "keys.json", "rows"
BATCH = 10_000
LOOK_UPS = 10_000
Row = tuple[bytes, bytes]
Say = Callable[[str], None]


def subject(number: int) -> str:
    return f"user_id.1.{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"


def measured(subjects: int, stores: Sequence[str], bootstrap: str | None, say: Say) -> dict[str, Any]:
    """Return store → figures. `bootstrap`: for the changelog."""
    with tempfile.TemporaryDirectory(prefix="sealstream-bench-") as made:
        directory = Path(made)
        keyfile.create(directory / KEY_FILE, wiring.throw_away_ring())
        say(f"making {subjects:,} keys")
        found = {"made": apart("subject_keys", "made", subjects, directory)}
        for store in stores:
            say(f"store: {store}")
            if store in STORES:
                found[store] = apart("subject_keys", store, subjects, directory)
            else:
                found[store] = _changelog(bootstrap or "", directory, say)
    return found


def make(subjects: int, directory: Path) -> dict[str, Any]:
    """Make the keys, as the protect leg does for people it does not know, and write their rows."""
    before, table = _rss(), MemoryTable()
    keys = _keys(table, directory)
    began = time.process_time()
    for number in range(subjects):
        keys.get(subject(number), 0)
    took, grown = time.process_time() - began, _rss() - before
    with (directory / ROWS).open("wb") as file:
        for row in table.items():
            pickle.dump(row, file)
    return {
        "microseconds_each": round(took / subjects * 1e6, 2),
        "bytes_each": round(grown / subjects),
        "row_bytes_each": round(sum(len(key) + len(value) for key, value in table.items()) / subjects),
    }


def in_memory(subjects: int, directory: Path) -> dict[str, Any]:
    before, table = _rss(), MemoryTable()
    began = time.monotonic()
    for key, value in _rows(directory):
        table.put(key, value)
    seconds = time.monotonic() - began
    return {"read_from_file_seconds": round(seconds, 1), **_looked_up(table, subjects, directory, before)}


def on_rocksdb(subjects: int, directory: Path) -> dict[str, Any]:
    from bench.rocks_table import RocksTable

    files = directory / "rocksdb"
    began = time.monotonic()
    table, left = RocksTable(files), _rows(directory)
    while batch := list(islice(left, BATCH)):
        table.fill(batch)
    table.close()
    written = time.monotonic() - began
    del table
    size = sum(f.stat().st_size for f in files.rglob("*") if f.is_file())
    before = _rss()
    began = time.monotonic()
    table = RocksTable(files)
    opened = time.monotonic() - began
    found = _looked_up(table, subjects, directory, before)
    table.close()
    return {
        "written_seconds": round(written, 1),
        "open_seconds": round(opened, 1),
        "disk_bytes_each": round(size / subjects),
        **found,
    }


STORES = {"made": make, "memory": in_memory, "rocksdb": on_rocksdb}


def _looked_up(table: Table, subjects: int, directory: Path, before: int) -> dict[str, Any]:
    """Memory with the rows alone and once keys are looked up; the first look-up, and others of people at random."""
    rows = _rss() - before
    keys = _keys(table, directory, random=_none)
    began = time.monotonic()
    keys.get(subject(0), 0)
    first = time.monotonic() - began
    with_index = _rss() - before
    drawn = [subject(n) for n in random.Random(7).sample(range(subjects), min(LOOK_UPS, subjects))]
    began = time.process_time()
    for each in drawn:
        keys.get(each, 0)
    took = time.process_time() - began
    return {
        "bytes_each": round(rows / subjects),
        "bytes_each_in_use": round(with_index / subjects),
        "first_look_up_seconds": round(first, 2),
        "look_up_microseconds": round(took / len(drawn) * 1e6, 2),
    }


def _changelog(bootstrap: str, directory: Path, say: Say) -> dict[str, Any]:
    with setting(bootstrap) as s:
        name = changelog_name("protect", "subject-keys", prefix=s.prefix)
        began = time.monotonic()
        count = s.broker.fill(name, ((key, value, []) for key, value in _rows(directory)))
        written = time.monotonic() - began
        say("a worker starts")
        found = recover(s, "protect", [name], SEALSTREAM_KEY_FILE=str(directory / KEY_FILE))
        return {"written_seconds": round(written, 1), **found._asdict(), "bytes_each": round(found.rss_bytes / count)}


def _keys(table: Table, directory: Path, random: Callable[[int], bytes] = os.urandom) -> SubjectKeys:
    return SubjectKeys(table, keyfile.load(directory / KEY_FILE).epochs(), random)


def _rows(directory: Path) -> Iterator[Row]:
    with (directory / ROWS).open("rb") as file:
        while file.peek(1):
            yield pickle.load(file)


def _none(count: int) -> bytes:
    raise RuntimeError("a key was not found, and would be made anew")


def _rss() -> int:
    gc.collect()
    return rss_bytes(os.getpid())


def needs(store: str) -> None:
    """`Misuse` if a store cannot be had here."""
    if store == "rocksdb":
        try:
            import rocksdict  # noqa: F401
        except ImportError:
            raise Misuse("the store rocksdb needs rocksdict: pip install 'sealstream[bench]'") from None


if __name__ == "__main__":
    print(json.dumps(STORES[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
