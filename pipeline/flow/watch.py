"""The watch leg: events → counts by window → watched keys → alerts.

    events.protected ┐
                     ├ measure ─► watch (partials, progress) ─► gather ─► score ─► alert ─► alerts
    events.rejected  ┘

A source is spread over all partitions. Each partition counts what it sees (`stages.measure`) and sends its counts,
absolute and by window, to the owner of the watched key, by way of the topic `watch`; the owner merges them
(`stages.gather`), asks how far out they lie (`stages.score`) and moves the key's episodes (`stages.alert`).

A checkpoint's order is (messages, STATE, outputs), and each crash between two of them is harmless:

- before STATE: the input is read again from where it was acknowledged, and what was durable before says which origins
  are counted and which windows are judged. Partials are sent again; they are absolute.
- STATE in part: each row holds its counts with their marks, or a key's whole state; any mix replays correctly.
- before outputs: the alerts stand in the outboxes of the durable rows and leave at the start of the next life. So
  every alert that was published belongs to an episode that the state knows, and is resolved some day. An alert may be
  published twice, in equal bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from ..events import SourceBatch, Topic
from ..ports import STATE, Effects, Out, PartitionLeg, Table
from ..stages.gather import Gather
from ..stages.measure import Measure
from ..stages.score import RobustScorer, Scorer
from ..stages.watch_rows import Progress, WatchConfig, check_row, progress_keys

__all__ = ["WatchConfig", "WatchLeg"]

OPEN, STATE_TABLE = "watch-open", "watch-state"


class WatchLeg:
    """Makes watch partitions (`ports.Leg`). `scorer`: another judge of feature rows; by default robust statistics."""

    name = "watch"
    pace = 0.2
    stretch = 1
    sources = (Topic.PROTECTED.value, Topic.REJECTED.value, Topic.WATCH.value)
    tables = (OPEN, STATE_TABLE)

    def __init__(self, config: WatchConfig, scorer: Scorer | None = None) -> None:
        self._config, self._scorer = config, scorer or RobustScorer(config)
        self._progress_keys = progress_keys(config.partitions)

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg:
        return _Partition(partition, self._config, tables, self._scorer, self._progress_keys)

    def check(self, table: str, key: bytes, value: bytes) -> None:
        check_row(table, key, value)


class _Partition:
    """`ports.PartitionLeg`: measures its events, and judges the watched keys that it owns."""

    def __init__(
        self,
        partition: int,
        config: WatchConfig,
        tables: dict[str, Table],
        scorer: Scorer,
        progress_keys: list[bytes],
    ) -> None:
        self._config, self._progress_keys = config, progress_keys
        self._measure = Measure(partition, config, tables[OPEN])
        self._gather = Gather(config, tables[STATE_TABLE], scorer)
        self._told: Progress | None = None
        self._told_at = 0  # worker's time, ms
        self._now: int | None = None
        self._encode = msgspec.json.Encoder().encode

    def on_batch(self, batch: SourceBatch) -> None:
        if batch.topic == Topic.WATCH:
            self._gather.fold(batch.records)
        else:
            self._measure.fold(batch.records, rejected=batch.topic == Topic.REJECTED)

    def on_tick(self, now: int, caught_up: bool) -> None:
        self._now = now
        self._measure.tick(now, caught_up)
        self._gather.tick(now, caught_up)

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        """Nothing here is the last word on a key: alerts are a log."""

    def drain(self) -> Effects:
        encode, size = self._encode, self._config.window_ms
        messages = [Out(p.watched.encode(), encode(p), p.window * size) for p in self._measure.close()]
        messages += self._progress()
        self._measure.save()
        self._gather.judge()
        alerts = [Out(a.dedup_key.encode(), encode(a), at) for at, a in self._gather.save()]
        return Effects(
            phases=({Topic.WATCH.value: messages}, STATE, {Topic.ALERTS.value: alerts}),
            counts=self._counts(),
        )

    def _progress(self) -> list[Out]:
        """How far we are, to every owner, behind the partials in one batch: when it changed, and to stay alive."""
        if self._now is None:
            return []
        progress = self._measure.progress()
        alive = progress.idle or self._now - self._told_at < self._config.stale_ms // 3
        if progress == self._told and alive:
            return []
        self._told, self._told_at = progress, self._now
        value = self._encode(progress)
        return [Out(key, value, progress.until * self._config.window_ms) for key in self._progress_keys]

    def _counts(self) -> dict[tuple[str, str], int]:
        counts: Counter[tuple[str, str]] = self._measure.counts + self._gather.counts
        self._measure.counts.clear()
        self._gather.counts.clear()
        return dict(counts)
