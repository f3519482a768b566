"""When a leg's tables are read: by the engine, between what the group assigns and the first batch.

Faust has no tables of ours. Its recovery task, which serves one assignment after another, asks the engine to read them
(`LegEngine.recover`) and resumes the streams only if the assignment still stands then.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import structlog
from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery

log = structlog.get_logger(__name__)

SAY_EVERY = 5.0
"""Seconds between two lines of the log about a long recovery."""


class Assignment(NamedTuple):
    """What the group gave a worker: the generation of the group, and numbers of partitions of every source."""

    generation: int
    numbers: tuple[int, ...]


class Recovery(FaustRecovery):  # type: ignore[misc]
    async def _resume_streams(self, generation_id: int = 0) -> None:
        if await self.app.engine.recover(generation_id):
            await super()._resume_streams(generation_id)


class TableManager(FaustTableManager):  # type: ignore[misc]
    _recovery: Recovery | None

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Faust waits 1 s for tables that are still to be added."""
        await self._update_channels()
        await self.recovery.start()


class Progress:
    """Says how far a long recovery is. `total` and `add`: offsets, of which compaction leaves some empty."""

    def __init__(self, leg: str, total: int) -> None:
        self._leg, self._total, self._done = leg, total, 0
        self._said_at = time.monotonic()

    def add(self, offsets: int) -> None:
        self._done += offsets
        if (now := time.monotonic()) - self._said_at >= SAY_EVERY:
            self._said_at = now
            log.info("reading tables", leg=self._leg, percent=100 * self._done // max(1, self._total))
