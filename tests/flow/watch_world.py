"""A world for the watch leg: topics in memory, a clock that is set, crashes at any point of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pipeline.events import Alert, Origin, ProtectedEvent, RawRecord, SourceBatch
from pipeline.flow.watch import WatchConfig, WatchLeg
from pipeline.outcomes import Reason, RejectedRecord, Stage
from pipeline.ports import STATE, Effects, Out, PartitionLeg
from pipeline.stages.score import Scorer

from .identity_world import partition_of

START = 1_790_000_040_000  # ms; a whole minute
CANARY = "jane.canary@example.com bought"
"""The free text of every event's name: it must not travel on."""


class Crash(BaseException):
    """The worker ends here."""


class DictTable:
    """`ports.Table` in memory: `rows` as the leg sees it, `durable` as its changelog would give it back."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.durable: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value

    def touch(self, key: bytes) -> None:
        """A checkpoint writes every row."""

    def delete(self, key: bytes) -> None:
        self.rows.pop(key, None)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.rows.items())

    def __len__(self) -> int:
        return len(self.rows)


class World:
    """Runs a `WatchLeg` on all partitions. `produce` appends a source record, `tick` lets everything run."""

    def __init__(self, config: WatchConfig, scorer: Scorer | None = None) -> None:
        self.config, self.partitions = config, config.partitions
        self.leg = WatchLeg(config, scorer)
        self.dead: set[int] = set()  # partitions that no worker runs
        self.raw: list[list[tuple[str, int, int, str, bool]]] = [[] for _ in range(self.partitions)]
        self.logs = {t: [list[RawRecord]() for _ in range(self.partitions)] for t in self.leg.sources}
        self.alerts: list[tuple[int, Alert]] = []
        self.counts: dict[tuple[str, str], int] = {}
        self.messages = 0
        self.tables = [{t: DictTable() for t in self.leg.tables} for _ in range(self.partitions)]
        self.committed = {(t, p): 0 for t in self.leg.sources for p in range(self.partitions)}
        self.read = dict(self.committed)
        self.parts: list[PartitionLeg] = []
        self.now = START
        self.restart()

    def restart(self) -> None:
        """As after a crash: tables from what was durable, input from what was acknowledged."""
        for tables in self.tables:
            for name, table in tables.items():
                table.rows = dict(table.durable)
                for key, value in table.items():
                    self.leg.check(name, key, value)
        self.read = dict(self.committed)
        self.parts = [self.leg.open(p, dict(self.tables[p])) for p in range(self.partitions)]

    def append(self, topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> None:
        log = self.logs[topic][partition]
        log.append(RawRecord(len(log), timestamp, key, value))

    def event(
        self, source: str, at: int, person: int, *, schema: str = "order_completed/1", reject: bool = False
    ) -> None:
        """A raw event of `person`, taken in by Kafka at `at`, as the protect leg makes it."""
        raw = person % self.partitions
        self.raw[raw].append((source, at, person, schema, reject))
        self.emit(raw, len(self.raw[raw]) - 1)

    def protect_again(self, raw: int, events: int) -> None:
        """The protect leg crashed and makes the last `events` of a raw partition again, in order."""
        for offset in range(max(0, len(self.raw[raw]) - events), len(self.raw[raw])):
            self.emit(raw, offset)

    def emit(self, raw: int, offset: int) -> None:
        source, at, person, schema, reject = self.raw[raw][offset]
        origin = Origin("events.raw", "inc", raw, offset)
        key = f"person {person}".encode()
        if reject:
            record = RejectedRecord("00", origin, source, Stage.VALIDATE, Reason.BAD_TYPE, at, "k", b"x", schema=schema)
            topic, value = "events.rejected", msgspec.json.encode(record)
        else:
            event = ProtectedEvent("00", origin, source, schema, "track", at, at, "m", key.decode(), event=CANARY)
            topic, value = "events.protected", msgspec.json.encode(event)
        self.append(topic, partition_of(key, self.partitions), key, value, at)

    def deliver(self, limit: int = 1 << 30) -> None:
        """Hand over what has not been read, at most `limit` records per topic and partition."""
        for (topic, p), at in self.read.items():
            if p in self.dead:
                continue
            records = self.logs[topic][p][at : at + limit]
            if records:
                self.parts[p].on_batch(SourceBatch(topic, "inc", p, records))
                self.read[topic, p] = at + len(records)

    def caught_up(self, p: int) -> bool:
        return all(len(self.logs[t][p]) == self.read[t, p] for t in self.leg.sources)

    def tick(self, now: int | None = None, *, limit: int = 1 << 30, crash_after: int | None = None) -> None:
        """Deliver, tick, and make a checkpoint; end after `crash_after` phases of it, if given."""
        self.now = self.now + 1000 if now is None else now
        self.deliver(limit)
        for p, part in enumerate(self.parts):
            if p not in self.dead:
                part.on_tick(self.now, self.caught_up(p))
        self.checkpoint(crash_after)

    def checkpoint(self, crash_after: int | None = None) -> None:
        mark = dict(self.read)
        effects = {p: part.drain() for p, part in enumerate(self.parts) if p not in self.dead}
        for i in range(3):
            if i == crash_after:
                raise Crash
            for p, e in effects.items():
                self._phase(p, e, i)
        if crash_after is not None:
            raise Crash
        for e in effects.values():
            for outcome, n in e.counts.items():
                self.counts[outcome] = self.counts.get(outcome, 0) + n
        self.committed = mark

    def _phase(self, partition: int, effects: Effects, i: int) -> None:
        phase = effects.phases[i]
        if phase == STATE:
            for table in self.tables[partition].values():
                table.durable = dict(table.rows)
            return
        assert isinstance(phase, dict)
        for topic, outs in phase.items():
            for out in outs:
                self._out(topic, out)

    def _out(self, topic: str, out: Out) -> None:
        assert out.value is not None
        if topic == "alerts":
            self.alerts.append((out.timestamp, msgspec.json.decode(out.value, type=Alert)))
        else:
            assert topic == "watch"
            self.messages += 1
            self.append(topic, partition_of(out.key, self.partitions), out.key, out.value, out.timestamp)

    def settle(self, seconds: int = 60, *, limit: int = 1 << 30) -> None:
        for _ in range(seconds):
            self.tick(limit=limit)

    def told(self, kind: str | None = None) -> list[str]:
        """Alerts in a line each: status kind watched."""
        return [f"{a.status} {a.kind} {a.watched}" for _, a in self.alerts if kind in (None, a.kind)]
