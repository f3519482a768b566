"""The faults. Each is a value, drawn from a seeded generator, that strikes a world and mends it.

`strike` returns when what it broke is mended: from there on, lag must go to zero.
"""

from __future__ import annotations

import signal
import time
from random import Random
from typing import ClassVar, Self

import msgspec

from bench.workload import first_pass
from pipeline.adapters import topics as kafka_topics
from pipeline.adapters.topic_specs import CHANGELOGS, changelog_name
from pipeline.errors import Transient
from pipeline.events import Topic
from pipeline.outcomes import Reason
from tests.faults.cluster import NODES
from tests.faults.launch import Orders
from tests.faults.progress import Offsets
from tests.faults.proxy import GOOD, Wire
from tests.faults.world import PARTITIONS, WORKERS, ZERO_SECONDS, World, specs
from tests.integration.pipeline_stage import SOURCES
from tests.integration.tools import wait_for

AT_WORK = ("output", "changelog", "rows", "settled")
MOST_NTH = 12
HALT_SECONDS = 30.0
HOUR = 3600.0


class Fault(msgspec.Struct, frozen=True):
    name: ClassVar[str]

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        raise NotImplementedError

    def strike(self, world: World) -> None:
        raise NotImplementedError


class KillRandom(Fault, frozen=True):
    """kill -9, after a moment."""

    name = "kill-random"
    slot: int
    after: float

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), round(rng.uniform(0, 1.5), 3))

    def strike(self, world: World) -> None:
        world.sleep(self.after)
        world.fleet.kill(self.slot)


class _KillAtWork(Fault, frozen=True):
    """kill -9 by the worker itself, at a point of a checkpoint."""

    slot: int
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.randint(1, MOST_NTH))

    def strike(self, world: World) -> None:
        world.fleet.await_up(self.slot)
        before = world.fleet.deaths(self.slot)
        world.fleet.order(self.slot, Orders(self.name.removeprefix("kill-"), self.nth))
        world.fleet.await_death(self.slot, before)


class KillOutput(_KillAtWork, frozen=True):
    name = "kill-output"


class KillChangelog(_KillAtWork, frozen=True):
    name = "kill-changelog"


class KillRows(_KillAtWork, frozen=True):
    name = "kill-rows"


class KillSettled(_KillAtWork, frozen=True):
    name = "kill-settled"


class _KillAtStart(Fault, frozen=True):
    """kill -9 of a worker that is being started, the `nth` time it comes to a point."""

    slot: int
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.randint(1, 3))

    def strike(self, world: World) -> None:
        world.fleet.stop(self.slot)
        before = world.fleet.deaths(self.slot)
        world.fleet.start_one(self.slot, Orders(self.name.removeprefix("kill-"), self.nth))
        world.fleet.await_death(self.slot, before)


class KillRecovery(Fault, frozen=True):
    """kill -9 of a worker that is being started, while it reads its changelogs."""

    name = "kill-recovery"
    slot: int
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.randint(1, 3))

    def strike(self, world: World) -> None:
        world.fleet.stop(self.slot)
        before = world.fleet.deaths(self.slot)
        world.fleet.start_one(self.slot, Orders("recovery", self.nth))
        world.fleet.await_death(self.slot, before)


class _KillInRebalance(Fault, frozen=True):
    """kill -9 of a worker that gives or is given partitions, since another one leaves and comes back."""

    slot: int
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.randint(1, 3))

    def strike(self, world: World) -> None:
        world.fleet.await_up()
        before = world.fleet.deaths(self.slot)
        world.fleet.order(self.slot, Orders(self.name.removeprefix("kill-"), self.nth))
        other = (self.slot + 1) % WORKERS
        world.fleet.stop(other)
        world.fleet.start_one(other)
        world.fleet.await_death(self.slot, before)


class KillRevoked(_KillInRebalance, frozen=True):
    name = "kill-revoked"


class KillAssigned(_KillInRebalance, frozen=True):
    name = "kill-assigned"


class Terminate(Fault, frozen=True):
    """SIGTERM, and a new start."""

    name = "terminate"
    slot: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS))

    def strike(self, world: World) -> None:
        world.fleet.await_up(self.slot)
        codes = world.fleet.stop(self.slot)
        world.fleet.start_one(self.slot)
        assert set(codes) <= {0}, f"SIGTERM ended a worker with {codes}"


class Zombie(Fault, frozen=True):
    """SIGSTOP, by itself at a point or at any moment, until its partitions are another's; then SIGCONT."""

    name = "zombie"
    slot: int
    point: str
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.choice(("", *AT_WORK)), rng.randint(1, MOST_NTH))

    def strike(self, world: World) -> None:
        fleet = world.fleet
        fleet.await_up()
        heir = (self.slot + 1) % WORKERS
        had = fleet.assignments(heir)
        if self.point:
            fleet.order(self.slot, Orders(self.point, self.nth, signal.SIGSTOP))
            wait_for(lambda: fleet.slots[self.slot].halted, HALT_SECONDS, "the worker halts where it was told to")
        else:
            fleet.signal(self.slot, signal.SIGSTOP)
        try:
            wait_for(lambda: fleet.assignments(heir) >= had + 3, HALT_SECONDS, "another has its partitions")
            world.sleep(1.0)
        finally:
            fleet.signal(self.slot, signal.SIGCONT)


class _OfABroker(Fault, frozen=True):
    node: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.choice(NODES))


class BrokerKill(_OfABroker, frozen=True):
    """kill -9, and a new start with the same data and ports."""

    name = "broker-kill"

    def strike(self, world: World) -> None:
        world.cluster.nodes[self.node].kill()
        world.cluster.nodes[self.node].start()


class BrokerStop(_OfABroker, frozen=True):
    """SIGTERM, and a new start."""

    name = "broker-stop"

    def strike(self, world: World) -> None:
        world.cluster.nodes[self.node].stop()
        world.cluster.nodes[self.node].start()


class LeaderChange(Fault, frozen=True):
    """A changelog's partition gets another leader; nobody stops."""

    name = "leader-change"
    changelog: tuple[str, str]
    partition: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.choice(CHANGELOGS), rng.randrange(PARTITIONS))

    def strike(self, world: World) -> None:
        world.cluster.move_leader(_name(world, self.changelog), self.partition)


class LeaderCut(Fault, frozen=True):
    """The workers' wire to the leader of a changelog's partition is cut."""

    name = "leader-cut"
    changelog: tuple[str, str]
    partition: int
    seconds: float

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.choice(CHANGELOGS), rng.randrange(PARTITIONS), round(rng.uniform(2, 8), 1))

    def strike(self, world: World) -> None:
        leader = world.cluster.leader(_name(world, self.changelog), self.partition)
        _wire(world, Wire(cut=True), (leader,), self.seconds)


def _name(world: World, changelog: tuple[str, str]) -> str:
    return changelog_name(*changelog, prefix=world.pipeline.prefix)


def _wire(world: World, wire: Wire, nodes: tuple[int, ...], seconds: float) -> None:
    world.cluster.network.set(wire, *nodes)
    try:
        world.sleep(seconds)
    finally:
        world.cluster.network.set(GOOD, *nodes)


class _OfTheNetwork(Fault, frozen=True):
    """Of the wire to one broker, or to all of them."""

    nodes: tuple[int, ...]
    seconds: float

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.choice([*((n,) for n in NODES), NODES]), round(rng.uniform(2, 9), 1))


class Cut(_OfTheNetwork, frozen=True):
    name = "cut"

    def strike(self, world: World) -> None:
        _wire(world, Wire(cut=True), self.nodes, self.seconds)


class Stall(_OfTheNetwork, frozen=True):
    name = "stall"

    def strike(self, world: World) -> None:
        _wire(world, Wire(stalled=True), self.nodes, self.seconds)


class Delay(Fault, frozen=True):
    """Every byte takes longer, each way, to and from every broker."""

    name = "delay"
    each_way: float
    seconds: float

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(round(rng.uniform(0.02, 0.3), 3), round(rng.uniform(2, 6), 1))

    def strike(self, world: World) -> None:
        _wire(world, Wire(delay=self.each_way), NODES, self.seconds)


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
        assert found.lost == sent, f"{sent} records were skipped, the judge misses {found.lost}"


def _committed(world: World, leg: str) -> Offsets:
    until = time.monotonic() + ZERO_SECONDS
    while (found := world.progress.committed(leg)) is None:
        assert time.monotonic() < until, f"the offsets of {leg} cannot be had"
        time.sleep(0.1)
    return found


class Recreate(Fault, frozen=True):
    """`events.raw` is deleted and made again: what comes then are other events at the same offsets."""

    name = "recreate"

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls()

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


class DiskFull(Fault, frozen=True):
    """No byte can be written to the state directory of a worker that starts: it works without, or ends and says why."""

    name = "disk-full"
    slot: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS))

    def strike(self, world: World) -> None:
        fleet, slot = world.fleet, world.fleet.slots[self.slot]
        fleet.stop(self.slot)
        before = fleet.deaths(self.slot)
        fleet.start_one(self.slot, Orders(file_bytes=0))
        wait_for(
            lambda: fleet.deaths(self.slot) > before or fleet.assignments(self.slot) >= 3, 60, "it works, or has ended"
        )
        if fleet.deaths(self.slot) == before:
            world.sleep(2.0)
            fleet.stop(self.slot)
            fleet.start_one(self.slot)
        else:
            assert "stopped by a failure" in slot.log or "sealstream:" in slot.log, "it ended without a word"


class ClockStep(Fault, frozen=True):
    """A worker's wall clock steps, and later back."""

    name = "clock-step"
    slot: int
    seconds: float

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.choice((-HOUR, HOUR)))

    def strike(self, world: World) -> None:
        world.fleet.await_up(self.slot)
        world.fleet.order(self.slot, Orders(clock=self.seconds))
        world.sleep(4.0)
        world.fleet.order(self.slot, Orders())


class Poison(Fault, frozen=True):
    """A record that kills the worker which decodes it, each time: it is rejected, and the stream goes on."""

    name = "poison"

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls()

    def strike(self, world: World) -> None:
        before = _crashed(world)
        world.traffic.poison()
        wait_for(lambda: _crashed(world) > before, ZERO_SECONDS, "the record is rejected as crashed_worker")


def _crashed(world: World) -> int:
    """How many records were rejected since they kill workers."""
    reason = f'"reason":"{Reason.CRASHED_WORKER.value}"'.encode()
    return sum(reason in (r.value or b"") for r in world.pipeline.read(Topic.REJECTED))


FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        KillRandom,
        KillOutput,
        KillChangelog,
        KillRows,
        KillSettled,
        KillRecovery,
        KillAssigned,
        KillRevoked,
        Terminate,
        Zombie,
        BrokerKill,
        BrokerStop,
        LeaderChange,
        LeaderCut,
        Cut,
        Stall,
        Delay,
        Rewind,
        Ahead,
        Recreate,
        DiskFull,
        ClockStep,
        Poison,
    )
}
