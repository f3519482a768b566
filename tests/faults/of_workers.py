"""Faults of the workers' processes."""

from __future__ import annotations

import signal
from random import Random
from typing import ClassVar, Self

from tests.faults.fault import Fault
from tests.faults.launch import Orders
from tests.faults.world import WORKERS, World
from tests.integration.tools import wait_for

AT_WORK = ("output", "changelog", "rows", "settled")
MOST_NTH = 12
HALT_SECONDS = 30.0
HOUR = 3600.0


class _OfOne(Fault, frozen=True):
    """Strikes one worker."""

    slot: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS))


class _Armed(Fault, frozen=True):
    """kill -9 of a worker by itself, the `nth` time that it comes to a point."""

    most: ClassVar[int] = 3
    slot: int
    nth: int

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(rng.randrange(WORKERS), rng.randint(1, cls.most))


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


class _KillAtWork(_Armed, frozen=True):
    """kill -9 by the worker itself, at a point of a checkpoint."""

    most: ClassVar[int] = MOST_NTH

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


class KillRecovery(_Armed, frozen=True):
    """kill -9 of a worker that is being started, while it reads its changelogs."""

    name = "kill-recovery"

    def strike(self, world: World) -> None:
        world.fleet.stop(self.slot)
        before = world.fleet.deaths(self.slot)
        world.fleet.start_one(self.slot, Orders("recovery", self.nth))
        world.fleet.await_death(self.slot, before)


class _KillInRebalance(_Armed, frozen=True):
    """kill -9 of a worker that gives or is given partitions, since another one leaves and comes back."""

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


class Terminate(_OfOne, frozen=True):
    """SIGTERM, and a new start."""

    name = "terminate"

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


class DiskFull(_OfOne, frozen=True):
    """No byte can be written to the state directory of a worker that starts: it works without, or ends and says why."""

    name = "disk-full"

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
