"""Faults of offsets, topics and records."""

from __future__ import annotations

import time
from random import Random
from typing import Self

from bench.workload import first_pass
from pipeline.adapters import topics as kafka_topics
from pipeline.adapters.topic_specs import SOURCES
from pipeline.errors import Transient
from pipeline.events import Topic
from pipeline.outcomes import Reason
from tests.faults.fault import Fault
from tests.faults.progress import Offsets
from tests.faults.world import ZERO_SECONDS, World, specs
from tests.integration.tools import wait_for


class Rewind(Fault, frozen=True):
    """A leg's group is set back on all of its topics: records are read again, and count once."""

    name = "rewind"
    leg: str
    records: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.choice(tuple(SOURCES)), rng.randint(1, 2_000))

    def strike(self, world: World) -> None:
        world.fleet.stop()
        done = _committed(world, self.leg)
        world.progress.commit(self.leg, {place: max(0, o - self.records) for place, o in done.items()})
        world.fleet.start()


class Ahead(Fault, frozen=True):
    """The protect leg's group is set past records that it has not read: the judge must miss them. Then it goes back."""

    name = "ahead"
    records: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randint(1, 200))

    def strike(self, world: World) -> None:
        world.rest()
        world.fleet.stop()
        done = _committed(world, "protect")
        sent = world.traffic.burst(first_pass(self.records, 1, seed=self.records))
        ends = world.progress.ends([Topic.RAW])
        assert ends is not None, "no leader, with every broker there"
        world.progress.commit("protect", ends)
        world.fleet.start()
        world.rest()
        found = world.judged()
        world.fleet.stop()
        world.progress.commit("protect", done)
        world.fleet.start()
        world.traffic.go()
        world.ledger.late += sent
        assert found.lost == sent, f"{sent} records were skipped, the judge misses {found.lost}"
        assert found.findings, f"{sent} records were skipped, `verify` finds nothing"


def _committed(world: World, leg: str) -> Offsets:
    until = time.monotonic() + ZERO_SECONDS
    while (found := world.progress.committed(leg)) is None:
        assert time.monotonic() < until, f"the offsets of {leg} cannot be had"
        time.sleep(0.1)
    return found


class Recreate(Fault, frozen=True):
    """`events.raw` is deleted and made again: what comes then are other events at the same offsets."""

    name = "recreate"

    def strike(self, world: World) -> None:
        world.rest()
        world.fleet.stop()
        incarnation = world.incarnation()
        world.ledger.close(incarnation, world.progress.raw_ends(), world.traffic.canaries)
        world.cluster.admin.delete_topics([world.raw], operation_timeout=30)[world.raw].result(30)
        wait_for(lambda: world.incarnation() == "", 30, "the topic is gone")
        wait_for(lambda: _made_again(world, incarnation), 30, "the topic is there again")
        world.progress.reconnect()
        world.traffic.again()
        world.traffic.go()
        world.fleet.start()
        world.fleet.await_up()


def _made_again(world: World, before: str) -> bool:
    try:
        kafka_topics.apply(world.cluster.bootstrap, None, specs())
        return world.incarnation() not in ("", before)
    except Transient:  # one broker knows it already, another not yet
        return False


class Poison(Fault, frozen=True):
    """A record that kills the worker which decodes it, each time: it is rejected, and the stream goes on."""

    name = "poison"

    def strike(self, world: World) -> None:
        before = _crashed(world)
        world.traffic.poison()
        wait_for(lambda: _crashed(world) > before, ZERO_SECONDS, "the record is rejected as crashed_worker")


def _crashed(world: World) -> int:
    """How many records were rejected since they kill workers."""
    reason = f'"reason":"{Reason.CRASHED_WORKER.value}"'.encode()
    return sum(reason in (r.value or b"") for r in world.pipeline.read(Topic.REJECTED))
