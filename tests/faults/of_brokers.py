"""Faults of the brokers, and of the network between them and the workers."""

from __future__ import annotations

from random import Random
from typing import Self

from pipeline.adapters.topic_specs import CHANGELOGS, changelog_name
from tests.faults.cluster import NODES
from tests.faults.fault import Fault
from tests.faults.proxy import GOOD, Wire
from tests.faults.world import PARTITIONS, World


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
