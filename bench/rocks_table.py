"""A table on RocksDB by `rocksdict`, which Faust uses as well: for the benchmarks alone, no worker has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch


class RocksTable:
    """`ports.Table`."""

    def __init__(self, directory: Path) -> None:
        self._db = Rdict(str(directory), Options(raw_mode=True))

    def fill(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Put new rows in one batch."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            batch.put(key, value)
        self._db.write(batch)

    def get(self, key: bytes) -> bytes | None:
        found = self._db.get(key)
        return found if isinstance(found, bytes) else None

    def put(self, key: bytes, value: bytes) -> None:
        self._db.put(key, value)

    def touch(self, key: bytes) -> None:
        """There is no changelog."""

    def delete(self, key: bytes) -> None:
        self._db.delete(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._db.items()

    def __len__(self) -> int:
        return sum(1 for _ in self.items())

    def close(self) -> None:
        self._db.close()
