"""A table without a changelog: for commands that need no broker, and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator


class MemoryTable:
    """`ports.Table`."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._rows[key] = value

    def touch(self, key: bytes) -> None:
        """There is no changelog."""

    def delete(self, key: bytes) -> None:
        self._rows.pop(key, None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._rows.items())

    def __len__(self) -> int:
        return len(self._rows)
