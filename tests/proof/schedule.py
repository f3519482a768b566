"""One case in a world of its own: a random schedule, and whether what came of it is what one pass computes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

import msgspec

from pipeline.events import DECISIONS, ProtectedEvent, Topic
from pipeline.stages.reference import profile_id, unerased
from pipeline.stages.resolve import SPLIT_FROM
from tests.flow.identity_world import Worker, World
from tests.flow.test_identify import expected, rows_of

from .cases import Case, arriving
from .report import CONFLICT


class Different(AssertionError):
    """What stands on `profiles` is not what the reference computes, or a token does not know it."""


def tried(case: Case, *, first: int | None = None) -> Counter[str]:
    """Run the case, or the case of its `first` events alone; return what happened in it, counted.

    Raises `Different`, or whatever the leg raises.
    """
    made = case.events[:first]
    rng = random.Random(case.schedule)
    world = World(rng.randint(1, 12), case.rules, cached=rng.choice((1, 9, 1_000)), scattered=rng.random() < 0.5)
    order = arriving(rng, made)
    third = len(order) // 3
    waves = [order[:third], order[third : 2 * third], order[2 * third :]] if rng.random() < 0.5 else [order]
    zombies = Walk(world, rng).through(waves)
    wanted = expected(made, case.rules)
    _, erased = unerased(made)
    judge(world, wanted, {profile_id(event.event_id) for event in erased if event.type not in DECISIONS})
    found = Counter(events=len(made), records=len(order), crashes=world.crashes, zombies=zombies, erased=len(erased))
    return found + told(world, wanted)


class Walk:
    """Random steps of a world's workers, some of whom are replaced and wake up later."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._rng = world, rng
        self._formers: list[tuple[Worker, Worker]] = []
        self._woken = 0
        self._crash = rng.choice((0.02, 0.1, 0.2))
        self._replace = rng.choice((0, 0.02, 0.05))

    def through(self, waves: list[list[ProtectedEvent]]) -> int:
        """Publish each wave and take steps; then go on until nothing waits. How many former owners woke up."""
        world, rng = self._world, self._rng
        for wave in waves:
            for event in wave:
                world.publish(event)
            for _ in range(rng.randint(5, 20 + 2 * len(wave))):
                self._step()
            if rng.random() < 0.5:
                world.settle(rng.choice((1, 3, 1_000)))
        while self._formers:
            if rng.random() < 0.5:
                world.settle()
            self._wake()
        world.settle()
        return self._woken

    def _step(self) -> None:
        world, rng = self._world, self._rng
        dice = rng.random()
        if dice < 0.5 and (waiting := world.waiting()):
            world.take(*rng.choice(waiting), rng.randint(1, 8))
        elif dice < 0.5 + self._crash:
            world.checkpoint(rng.choice(world.workers), lambda n: rng.randint(0, n))
        elif dice < 0.5 + self._crash + self._replace:
            heir = rng.choice(world.workers)
            self._formers.append((world.replaced(heir), heir))
        elif dice < 0.5 + self._crash + 2 * self._replace and self._formers:
            self._wake()
        else:
            world.checkpoint(rng.choice(world.workers))

    def _wake(self) -> None:
        world, rng = self._world, self._rng
        former, heir = self._formers.pop(rng.randrange(len(self._formers)))
        if rng.random() < 0.3:  # it had fetched more
            world.take(former, rng.choice(list(former.read)), rng.randint(1, 8))
        world.wake(former, heir)
        world.checkpoint(heir)  # one that dies before leaves the former owner's word: docs/decisions.md, "Left"
        self._woken += 1


def judge(world: World, wanted: list[bytes], erased: Collection[str]) -> None:
    """`erased`: ids under which nothing may stand."""
    found = world.profiles()
    if found != wanted:
        strange, missing = set(found) - set(wanted), set(wanted) - set(found)
        raise Different(f"of {len(wanted)} profiles {len(missing)} are missing, and {len(strange)} others are there")
    rows = rows_of(world)
    ids = set()
    for profile in map(msgspec.json.decode, wanted):
        ids.add(profile["profile_id"])
        for tokens in profile["tokens"].values():
            for token in tokens:
                if token in rows and rows[token].profile.hex() != profile["profile_id"]:
                    raise Different("a token knows another profile than the one that has it")
    if not world.latest().keys().isdisjoint(erased):
        raise Different("something stands under an erased id")
    if any(row.profile.hex() in erased for row in rows.values()):
        raise Different("a token knows an erased profile")
    merged = world.merged()
    for ident in merged:
        for _ in range(len(merged)):
            ident = merged.get(ident, ident)
        if ident not in ids:
            raise Different("an id that was announced does not lead to a profile")


def told(world: World, wanted: list[bytes]) -> Counter[str]:
    """What happened: merges, splits, and conflicts by rule."""
    found = Counter(merges=len(world.merged()))
    found["splits"] = sum(any(n == SPLIT_FROM for n, _ in r.headers) for r in world.records(Topic.PROFILES))
    for profile in map(msgspec.json.decode, wanted):
        found.update(CONFLICT + c["rule"] for c in profile.get("conflicts", ()))
    found["profiles"] = len(wanted)
    return found
