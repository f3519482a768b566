"""State tables: rows of bytes by partition, read from changelogs and written to them by the engine.

Faust's own `Table` sends a changelog record per `__setitem__` and does not await it, and its recovery leaves rows out
where one rebalance overtakes another (docs/decisions.md). Here a leg puts rows into a `PartitionTable`; at a checkpoint
the engine takes what changed, the last value of each key, and writes it as one batch that is awaited before the
acknowledgement. Which of a changelog's records count is `fencing`'s rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from ..adapters.topic_specs import is_claim
from ..errors import Corrupt
from ..ports import Out
from .records import Written

Check = Callable[[bytes, bytes], None]
"""(key, value) of a row → `Corrupt` if it does not read back as it was written."""


def unchecked(key: bytes, value: bytes) -> None:
    """Any bytes may be a row."""


class PartitionTable:
    """One partition of a table (`ports.Table`): a dict of bytes, and which keys changed since the last `changes`."""

    __slots__ = ("_changed", "_check", "_passed_over", "_writer", "next_offset", "rows", "unreadable")

    def __init__(self, check: Check = unchecked) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.next_offset = 0
        """Of the changelog: what lies before was read, or written by this worker."""
        self.unreadable: dict[bytes, int] = {}
        """Row key → offset in the changelog of a recovered row that does not read back."""
        self._check = check
        self._changed: dict[bytes, bytes | None] = {}
        self._writer: int | None = None  # by the last claim read; None: any
        self._passed_over: set[bytes] = set()  # keys whose last record does not count

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if self.rows.get(key) != value:
            self.rows[key] = self._changed[key] = value

    def touch(self, key: bytes) -> None:
        self.write_again((key,))

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            self._changed[key] = None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.rows.items())

    def __len__(self) -> int:
        return len(self.rows)

    def changes(self, timestamp: int) -> list[Out]:
        """The last value of each key that changed since the last call (None: deleted), as changelog records."""
        changed, self._changed = self._changed, {}
        return [Out(k, v, timestamp) for k, v in changed.items()]

    def recover(self, records: Iterable[Written]) -> None:
        """Apply the records of a changelog that count. A row that does not read back may still be overwritten."""
        rows, unreadable, check = self.rows, self.unreadable, self._check
        for r in records:
            self.next_offset = r.offset + 1
            key, value = r.key, r.value
            if not key:
                continue  # nobody's row (`topic_specs.is_row`)
            if is_claim(key):
                self._writer = r.producer_id
                continue
            if self._writer not in (None, r.producer_id):
                self._passed_over.add(key)
                continue
            self._passed_over.discard(key)
            unreadable.pop(key, None)
            if value is None:
                rows.pop(key, None)
                continue
            rows[key] = value
            try:
                check(key, value)
            except Corrupt:
                unreadable[key] = r.offset

    def claimed(self, next_offset: int, writer: int) -> None:
        """`writer` has claimed the partition, and its log goes on at `next_offset`; all before that was recovered.

        What a fenced writer put last is written anew.
        """
        self.next_offset, self._writer = next_offset, writer
        self.write_again(self._passed_over)
        self._passed_over = set()

    def write_again(self, keys: Collection[bytes]) -> None:
        """Have the next `changes` hold the rows of `keys`, changed or not."""
        for key in keys:
            self._changed[key] = self.rows.get(key)
