"""A small consistent world for `verify`: the demo's events through the real protect and identify legs, in memory.

Four raw partitions, and four of everything else. What stands on the topics is then there to be spoilt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from pipeline.adapters.memory_table import MemoryTable
from pipeline.adapters.reader import Found
from pipeline.adapters.topic_specs import EVIDENCE, SUBJECT_KEYS, TOKENS
from pipeline.demo import story
from pipeline.events import Origin, ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.verify.findings import Check, Finding, Report
from pipeline.verify.log import Log, Snapshot
from pipeline.verify.run import LOGS, verify
from tests.flow.identity_world import RULES, World, partition_of
from tests.stages.event_world import RECEIVED, registry, ring, rules

PARTITIONS = 4
NOW = "a" * 32
EARLIER = "b" * 32
Topics = dict[str, list[list[Found]]]
"""Name → partition → records."""


class Topology:
    """The topics of a snapshot, as lists that a test may change. `start`: first kept offsets of `events.raw`."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.committed = {p: len(log) for p, log in enumerate(topics[Topic.RAW])}
        self.starts: dict[tuple[str, int], int] = {}
        self.behind: dict[str, int] = {}
        self.settled = True

    def copy(self) -> Topology:
        return Topology({name: [list(log) for log in logs] for name, logs in self.topics.items()})

    def log(self, name: str) -> Log:
        bounds = {
            p: (self.starts.get((name, p), 0), max((f.offset + 1 for f in log), default=0))
            for p, log in enumerate(self.topics[name])
        }
        return Log(name, NOW if name == Topic.RAW else "", bounds, Records(self.topics[name]))

    def report(self, directory: Path | None = None) -> Report:
        logs = {name: self.log(name) for name in LOGS}
        return verify(Snapshot(logs, self.committed, self.behind, self.settled), RULES, directory=directory)

    def only(self, check: Check) -> Finding:
        """The one finding there is."""
        report = self.report()
        assert [f.check for f in report.findings] == [check], report.findings
        assert not report.ok
        return report.findings[0]

    # -- records --

    def append(self, name: str, partition: int, key: bytes | None, value: bytes | None) -> Found:
        log = self.topics[name][partition]
        found = Found(partition, max((f.offset + 1 for f in log), default=0), RECEIVED, key, value, ())
        log.append(found)
        return found

    def repeat(self, name: str, found: Found, value: bytes | None = None) -> Found:
        """The same key on the same partition again."""
        return self.append(name, found.partition, found.key, found.value if value is None else value)

    def replace(self, name: str, found: Found, **changed: Any) -> None:
        log = self.topics[name][found.partition]
        log[log.index(found)] = msgspec.structs.replace(found, **changed)

    def drop(self, name: str, found: Found) -> None:
        self.topics[name][found.partition].remove(found)

    def records(self, name: str) -> Iterator[Found]:
        for log in self.topics[name]:
            yield from log

    def protected(self) -> list[tuple[Found, ProtectedEvent]]:
        return [(f, decoded(f)) for f in self.records(Topic.PROTECTED)]


class Records:
    """Read again and again; the partitions take turns, as a broker's do."""

    def __init__(self, logs: list[list[Found]]) -> None:
        self._logs = logs

    def __iter__(self) -> Iterator[Found]:
        todo = [iter(log) for log in self._logs]
        while todo:
            for log in list(todo):
                found = next(log, None)
                if found is None:
                    todo.remove(log)
                else:
                    yield found


def decoded(found: Found) -> ProtectedEvent:
    return msgspec.json.decode(found.value or b"", type=ProtectedEvent)


def place(origin: Origin) -> str:
    return f"{origin.topic}/{origin.incarnation}/{origin.partition}/{origin.offset}"


def made(
    count: int = 600,
    *,
    spoil: Callable[[Topology], None] = lambda _: None,
    incarnations: Iterable[str] = (NOW,),
    wander: random.Random | None = None,
) -> Topology:
    """`spoil` sees what the protect leg wrote, before the identify leg does.

    `incarnations`: of events.raw, the last one being what stands there now. `wander`: crashes of the identify leg.
    """
    topics: Topics = {name: [[] for _ in range(PARTITIONS)] for name in LOGS}
    world = Topology(topics)
    leg = ProtectLeg(registry(), ring(), rules().blocked)
    tables = [MemoryTable() for _ in range(PARTITIONS)]
    for seed, incarnation in enumerate(incarnations):
        topics[Topic.RAW.value] = [[] for _ in range(PARTITIONS)]
        for e in story.events(seed, count, max(10, count // 20), RECEIVED):
            at = partition_of(e.key, PARTITIONS) if e.key else 0
            world.append(Topic.RAW, at, e.key, e.value)
        for number, log in enumerate(topics[Topic.RAW]):
            _protect(world, leg, tables[number], incarnation, number, log)
    for number, table in enumerate(tables):
        for key, value in table.items():
            world.append(SUBJECT_KEYS, number, key, value)
    world.committed = {p: len(log) for p, log in enumerate(topics[Topic.RAW])}
    spoil(world)
    _identify(world, wander)
    return world


def _protect(
    world: Topology, leg: ProtectLeg, table: MemoryTable, incarnation: str, number: int, log: list[Found]
) -> None:
    part = leg.open(number, {"subject-keys": table})
    records = [RawRecord(f.offset, RECEIVED + f.offset, f.key, f.value) for f in log]
    part.on_batch(SourceBatch(Topic.RAW.value, incarnation, number, records))
    for phase in part.drain().phases:
        for topic, outs in phase.items() if isinstance(phase, dict) else ():
            for out in outs:
                world.append(topic, partition_of(out.key, PARTITIONS), out.key, out.value)


def _identify(world: Topology, wander: random.Random | None) -> None:
    legs = World(PARTITIONS)
    for found in world.records(Topic.PROTECTED):
        assert found.key is not None
        legs.append(Topic.PROTECTED, found.key, found.value, RECEIVED)
    if wander is not None:
        legs.wander(wander, 200)
    legs.settle()
    for topic in (Topic.RESOLVED, Topic.PROFILES):
        for number, log in enumerate(legs.topics[topic]):
            for record in log:
                world.append(topic, number, record.key, record.value)
    for worker in legs.workers:
        for name, table in ((TOKENS, "tokens"), (EVIDENCE, "evidence")):
            for key, value in worker.tables[table].durable.items():
                world.append(name, worker.number, key, value)
