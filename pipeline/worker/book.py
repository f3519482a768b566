"""The offset book: what was read, what of it is durable, what is committed. Pure; the engine holds one per leg."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class OffsetBook:
    """Three offsets a partition, each the *next* one to read: `read ≥ durable ≥ committed`.

    They move only on the engine's own calls: `note` when a batch was taken in, `mark` and `settle` around a flush,
    `committed_at` after the broker confirmed. Nothing here moves on cancellation or on an exception.
    """

    def __init__(self) -> None:
        self._read: dict[TopicPartition, int] = {}
        self._durable: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}

    def note(self, tp: TopicPartition, first: int, last: int) -> None:
        """A batch of offsets `first`..`last` was taken in. Batches of a partition come in order and never overlap."""
        before = self._read.get(tp)
        assert first <= last
        assert before is None or first >= before, f"{tp.topic}/{tp.partition} went back from {before} to {first}"
        self._read[tp] = last + 1

    def has_read(self, tp: TopicPartition, offset: int) -> bool:
        return offset < self._read.get(tp, -1)

    def next_offset(self, tp: TopicPartition) -> int | None:
        return self._read.get(tp)

    def mark(self) -> dict[TopicPartition, int]:
        """What a flush that begins now will make durable."""
        return dict(self._read)

    def settle(self, mark: dict[TopicPartition, int]) -> None:
        """The flush that began at `mark` is durable, and so is every one before it."""
        for tp, offset in mark.items():
            assert offset >= self._durable.get(tp, 0), "flushes settle in order"
            self._durable[tp] = offset

    def to_commit(self) -> dict[TopicPartition, int]:
        """Durable offsets that the broker does not have yet."""
        return {tp: o for tp, o in self._durable.items() if o != self._committed.get(tp)}

    def committed_at(self, offsets: dict[TopicPartition, int]) -> None:
        self._committed.update(offsets)

    def forget(self, tps: Iterable[TopicPartition] | None = None) -> None:
        """These partitions (all, if None) are no longer ours, or will be read again from the committed offset."""
        for tp in list(self._read) if tps is None else tps:
            for offsets in (self._read, self._durable, self._committed):
                offsets.pop(tp, None)
