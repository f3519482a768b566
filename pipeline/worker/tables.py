"""State tables: rows of bytes by partition, recovered by Faust from changelogs, written by the engine.

Faust's own `Table` sends a changelog record per `__setitem__` and does not await it. Here a leg puts rows into a
`PartitionTable`; at a checkpoint the engine takes what changed, the last value of each key, and writes it as one
batch that is awaited before the acknowledgement. Recovery is Faust's, by whole fetches instead of single records; which
of the records count is `fencing`'s rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal

from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.table import Table as FaustTable
from faust.types import TP, EventT

from ..adapters.topic_specs import CLAIM
from ..errors import Corrupt
from ..ports import Out
from .records import Written

POLL_SECONDS = 0.02
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
            if key is None:
                continue  # nobody's row: Kafka refuses it in a compacted topic
            if key == CLAIM:
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

    def claimed(self, next_offset: int) -> None:
        """The partition is claimed; its log goes on at `next_offset`. What a fenced writer put last is written anew."""
        self.next_offset = next_offset
        self.write_again(self._passed_over)
        self._passed_over = set()

    def write_again(self, keys: Collection[bytes]) -> None:
        """Have the next `changes` hold the rows of `keys`, changed or not."""
        for key in keys:
            self._changed[key] = self.rows.get(key)


class ChangelogTable(FaustTable):  # type: ignore[misc]
    """Faust's view of a table: name, changelog topic, recovery. Its own storage is not used."""

    def __init__(self, app: Any, check: Check, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._check = check
        self.partitions: dict[int, PartitionTable] = {}

    def partition(self, number: int) -> PartitionTable:
        found = self.partitions.get(number)
        if found is None:
            found = self.partitions[number] = PartitionTable(self._check)
        return found

    def persisted_offset(self, tp: TP) -> int | None:
        return None

    def apply_changelog_batch(self, batch: Iterable[EventT]) -> None:
        for event in batch:
            # Faust applies what it fetched for a partition that is no longer ours to whichever table came last
            if event.message.topic == self.changelog_topic_name:
                self.partition(event.message.partition).recover(event.message.value)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Keep only rows of partitions that stayed; others may go on elsewhere and are recovered when they return."""
        mine = {tp.partition for tp in assigned if tp.topic == self.changelog_topic_name}
        for number in [n for n in self.partitions if n not in mine]:
            del self.partitions[number]

    def send_changelog(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("changelog records are written by the engine's checkpoint only")


class TableManager(FaustTableManager):  # type: ignore[misc]
    async def on_start(self) -> None:
        """Faust waits 1 s for tables that are still to be added; a leg's are all there before its start."""
        await self._update_channels()
        await self.recovery.start()


class RecoveryEnd(asyncio.Event):
    """The end of Faust's recovery by what there is to be read, in place of the event that Faust sets and clears.

    Faust's task sets the event once and clears it with the next record; on one loop with whole fetches that may be
    before anybody waits for it, and then the leg would wait for ever.
    """

    def __init__(self, recovery: Any) -> None:
        super().__init__()
        self._recovery = recovery

    async def wait(self) -> Literal[True]:
        while self._recovery.need_recovery():  # noqa: ASYNC110 - a condition of Faust's, which nobody signals reliably
            await asyncio.sleep(POLL_SECONDS)
        self._recovery.flush_buffers()
        return True
