"""A world for the identify leg without a broker: topics in memory, partitions by murmur2, crashes at any point.

Each partition number is a worker of its own. A *step* is drawn from a source of choices (hypothesis, or a seeded
`random.Random`): take in a batch, checkpoint, crash. A checkpoint writes its phases one by one and may be cut off in
any of them: after some of the records of a phase, after the tables' changes of some tables and only the first part of
others' (a changelog is written in order), or before the acknowledgement.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path

import msgspec
from aiokafka.partitioner import murmur2

from pipeline.events import Alert, AlertStatus, ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.identify import IdentifyLeg
from pipeline.ports import STATE, Out, PartitionLeg
from pipeline.stages.identity_rows import CAPPED, decode_row, unpack
from pipeline.stages.link import Rules, load_rules

COMPUTED = """
version = 1
[computed.bought]
op = "count"
event = "Bought"
[computed.bought_2d]
op = "count"
event = "bought"
period = "2d"
[computed.spent]
op = "sum"
event = "Bought"
path = "properties.total"
[computed.spent_3d]
op = "sum"
event = "Bought"
path = "properties.total"
period = "3d"
[computed.first_item_3d]
op = "first"
event = "Bought"
path = "properties.item"
period = "3d"
[computed.last_item_1d]
op = "last"
event = "Bought"
path = "properties.item"
period = "1d"
[computed.usual_item]
op = "most_frequent"
event = "Bought"
path = "properties.item"
[computed.usual_item_2d]
op = "most_frequent"
event = "track"
path = "properties.item"
period = "2d"
"""
WITHHOLD = '[consent.withhold]\nAds = ["events", "computed"]\nMail = ["traits"]\nSharing = ["sources", "groups"]\n'
SHIPPED = (Path(__file__).parents[2] / "schemas" / "identity.toml").read_text()
RULES = load_rules(SHIPPED.replace("[consent.withhold]\n", WITHHOLD), COMPUTED)
ROUNDS = 1_000
"""Once everything that waits is taken in, what comes to rest at all does so in a few hops of messages."""
SOURCES = (Topic.PROTECTED.value, Topic.IDENTITY.value)


@lru_cache(1 << 20)
def partition_of(key: bytes, count: int) -> int:
    return int((murmur2(key) & 0x7FFFFFFF) % count)


class MemoryTable:
    """`ports.Table` with what is durable beside it."""

    def __init__(self) -> None:
        self.durable: dict[bytes, bytes] = {}
        self.rows: dict[bytes, bytes] = {}
        self.changed: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if self.rows.get(key) != value:
            self.rows[key] = self.changed[key] = value

    def touch(self, key: bytes) -> None:
        self.changed[key] = self.rows.get(key)

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            self.changed[key] = None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.rows.items())

    def __len__(self) -> int:
        return len(self.rows)

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        changed, self.changed = self.changed, {}
        return list(changed.items())

    def write(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        for key, value in changes:
            if value is None:
                self.durable.pop(key, None)
            else:
                self.durable[key] = value

    def recover(self) -> None:
        self.rows, self.changed = dict(self.durable), {}


class Worker:
    """One partition number: its tables, its committed offsets, and its leg's memory."""

    def __init__(self, number: int, leg: IdentifyLeg) -> None:
        self.number = number
        self.leg = leg
        self.tables = {name: MemoryTable() for name in leg.tables}
        self.committed = dict.fromkeys(SOURCES, 0)
        self.restart()

    def restart(self) -> None:
        for name, table in self.tables.items():
            table.recover()
            for key, value in table.items():
                self.leg.check(name, key, value)
        self.read = dict(self.committed)
        self.part: PartitionLeg = self.leg.open(self.number, dict(self.tables))


class World:
    def __init__(self, partitions: int, rules: Rules = RULES, cached: int = 32_768, *, scattered: bool = False) -> None:
        self.partitions = partitions
        self._scattered = scattered  # a crash cuts each partition of a topic off at a place of its own
        self.topics: dict[str, list[list[RawRecord]]] = {
            topic: [[] for _ in range(partitions)]
            for topic in (*SOURCES, Topic.PROFILES.value, Topic.RESOLVED.value, Topic.ALERTS.value)
        }
        self.leg = IdentifyLeg(rules, cached=cached)
        self.workers = [Worker(n, self.leg) for n in range(partitions)]
        self.crashes = 0

    def under(self, rules: Rules) -> None:
        """Every worker starts again with these rules, and has the time to look at all of its rows."""
        self.leg = IdentifyLeg(rules)
        for worker in self.workers:
            worker.leg = self.leg
            worker.restart()
        for _ in range(2):
            for worker in self.workers:
                worker.part.on_tick(0, True)
        self.settle()

    # -- topics --

    def append(
        self, topic: str, key: bytes, value: bytes | None, timestamp: int, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        log = self.topics[topic][partition_of(key, self.partitions)]
        log.append(RawRecord(len(log), timestamp, key, value, tuple(headers)))

    def publish(self, event: ProtectedEvent) -> None:
        self.append(Topic.PROTECTED, event.anchor.encode(), msgspec.json.encode(event), event.received_at)

    def records(self, topic: str) -> Iterator[RawRecord]:
        for log in self.topics[topic]:
            yield from log

    # -- steps --

    def waiting(self) -> list[tuple[Worker, str]]:
        return [
            (w, topic) for w in self.workers for topic in SOURCES if w.read[topic] < len(self.topics[topic][w.number])
        ]

    def take(self, worker: Worker, topic: str, most: int) -> None:
        at = worker.read[topic]
        batch = self.topics[topic][worker.number][at : at + most]
        if batch:
            worker.part.on_batch(SourceBatch(topic, "", worker.number, batch))
            worker.read[topic] = at + len(batch)

    def checkpoint(self, worker: Worker, cut: Callable[[int], int] | None = None) -> None:
        """Write everything; with `cut` (n → a number from 0 to n), crash on the way."""
        effects = worker.part.drain()
        changes = {name: table.changes() for name, table in worker.tables.items()}
        stop = None if cut is None else cut(len(effects.phases))
        for i, phase in enumerate(effects.phases):
            if cut is not None and i == stop:
                self._write_part(worker, phase, changes, cut)
                break
            self._write(worker, phase, changes)
        if cut is not None:
            self.crash(worker)
        else:
            worker.committed = dict(worker.read)

    def crash(self, worker: Worker) -> None:
        self.crashes += 1
        worker.restart()

    def replaced(self, worker: Worker) -> Worker:
        """Another takes the partition over; returns the former owner, which does not know it yet."""
        former = copy(worker)
        worker.tables = {name: MemoryTable() for name in worker.tables}
        for name, table in worker.tables.items():
            table.durable = dict(former.tables[name].durable)
        worker.restart()
        return former

    def wake(self, former: Worker, heir: Worker) -> None:
        """The former owner finishes what it had in work: its rows count for nothing, its records are on the topics."""
        for phase in former.part.drain().phases:
            if phase != STATE:
                self._write(former, phase, {})
                continue
            for name, table in former.tables.items():
                heir.part.repeat(name, {key for key, _ in table.changes()})

    def _write(
        self,
        worker: Worker,
        phase: dict[str, list[Out]] | str,
        changes: dict[str, list[tuple[bytes, bytes | None]]],
    ) -> None:
        if isinstance(phase, str):
            assert phase == STATE
            for name, changed in changes.items():
                worker.tables[name].write(changed)
            return
        for topic, outs in phase.items():
            for out in outs:
                self.append(topic, out.key, out.value, out.timestamp, out.headers)

    def _write_part(
        self,
        worker: Worker,
        phase: dict[str, list[Out]] | str,
        changes: dict[str, list[tuple[bytes, bytes | None]]],
        cut: Callable[[int], int],
    ) -> None:
        if isinstance(phase, str):
            for name, changed in changes.items():
                worker.tables[name].write(changed[: cut(len(changed))])
            return
        for topic, outs in phase.items():
            for some in self._by_partition(outs) if self._scattered else [outs]:
                for out in some[: cut(len(some))]:
                    self.append(topic, out.key, out.value, out.timestamp, out.headers)

    def _by_partition(self, outs: Sequence[Out]) -> list[list[Out]]:
        found: dict[int, list[Out]] = {}
        for out in outs:
            found.setdefault(partition_of(out.key, self.partitions), []).append(out)
        return list(found.values())

    def settle(self, batch: int = 1_000_000) -> None:
        """Go on without crashes until nothing waits and nothing changes."""
        waits = sum(len(self.topics[topic][w.number]) - w.read[topic] for w, topic in self.waiting())
        for _ in range(ROUNDS + 10 * waits):
            waiting = self.waiting()
            for worker, topic in waiting:
                self.take(worker, topic, batch)
            for worker in self.workers:
                self.checkpoint(worker)
            if not waiting and not self.waiting():
                return
        raise AssertionError("after very many rounds there are still messages: somebody answers for ever")

    def wander(self, rng: random.Random, steps: int, crash: float = 0.15) -> None:
        """`steps` random steps, then `settle`."""
        for _ in range(steps):
            waiting = self.waiting()
            dice = rng.random()
            if waiting and dice < 0.55:
                worker, topic = rng.choice(waiting)
                self.take(worker, topic, rng.randint(1, 8))
            elif dice < 0.55 + crash:
                self.checkpoint(rng.choice(self.workers), lambda n: rng.randint(0, n))
            else:
                self.checkpoint(rng.choice(self.workers))
        self.settle()

    # -- what came of it --

    def latest(self) -> dict[str, bytes]:
        """The compacted topic `profiles`."""
        found: dict[str, bytes] = {}
        for record in self.records(Topic.PROFILES):
            assert record.key is not None
            if record.value is None:
                found.pop(record.key.decode(), None)
            else:
                found[record.key.decode()] = record.value
        return found

    def profiles(self) -> list[bytes]:
        """The profiles that are not merged into another, by id."""
        latest = self.latest()
        return [latest[ident] for ident in sorted(latest) if b'{"merged_into"' not in latest[ident]]

    def alarmed(self) -> set[str]:
        """Keys of alerts that were triggered and not resolved."""
        last = {
            record.key: msgspec.json.decode(record.value or b"", type=Alert) for record in self.records(Topic.ALERTS)
        }
        assert all(key == alert.dedup_key.encode() for key, alert in last.items())
        return {alert.dedup_key for alert in last.values() if alert.status is AlertStatus.TRIGGER}

    def capped(self) -> set[str]:
        """The same by what the roots' rows say."""
        rows = [(k, decode_row(v)) for worker in self.workers for k, v in worker.tables["tokens"].items()]
        return {f"size_cap:token={unpack(key)}" for key, row in rows if row.state & CAPPED}

    def merged(self) -> dict[str, str]:
        return {
            ident: msgspec.json.decode(value)["merged_into"]
            for ident, value in self.latest().items()
            if value.startswith(b'{"merged_into"')
        }
