"""The identify leg in memory: every partition in this process, and `identity` between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from pipeline.adapters.memory_table import MemoryTable
from pipeline.adapters.partitioner import partitions
from pipeline.events import RawRecord, SourceBatch, Topic
from pipeline.flow.identify import IdentifyLeg
from pipeline.ports import Out
from pipeline.stages.link import Rules

Keyed = tuple[bytes, bytes]
"""A protected event's key and value."""


class Folding:
    """Takes in protected events with all that they cause. `profile` is told each record of `profiles`."""

    def __init__(self, rules: Rules, count: int, at: int, profile: Callable[[Out], object] = lambda _: None) -> None:
        """`count` partitions; `at`: the Kafka time of every record."""
        leg = IdentifyLeg(rules)
        self.tables = [{name: MemoryTable() for name in leg.tables} for _ in range(count)]
        self._parts = [leg.open(p, dict(tables)) for p, tables in enumerate(self.tables)]
        self._waiting: dict[str, list[list[RawRecord]]] = {t: [[] for _ in self._parts] for t in leg.sources}
        self._at, self._profile = at, profile
        self.cpu_seconds = 0.0
        """In the leg alone, which decodes and encodes; without Kafka."""

    def take(self, events: Iterable[Keyed]) -> None:
        self._send(Topic.PROTECTED, events)
        while any(records for logs in self._waiting.values() for records in logs):
            began = time.process_time()
            for topic, logs in self._waiting.items():
                for p, records in enumerate(logs):
                    if records:
                        self._parts[p].on_batch(SourceBatch(topic, "", p, records[:]))
                        records.clear()
            phases = [phase for part in self._parts for phase in part.drain().phases if isinstance(phase, dict)]
            self.cpu_seconds += time.process_time() - began
            for phase in phases:
                for out in phase.get(Topic.PROFILES, []):
                    self._profile(out)
                self._send(Topic.IDENTITY, ((o.key, o.value or b"") for o in phase.get(Topic.IDENTITY, [])))

    def _send(self, topic: str, records: Iterable[Keyed]) -> None:
        made = list(records)
        for (key, value), p in zip(made, partitions([key for key, _ in made], len(self._parts)), strict=True):
            self._waiting[topic][p].append(RawRecord(0, self._at, key, value))
