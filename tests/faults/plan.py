"""Which faults come, in which order and with which parameters: a function of the plan's name and its seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from tests.faults.fault import Fault
from tests.faults.faults import FAULTS

POINTS = tuple(f"kill-{p}" for p in ("output", "changelog", "rows", "settled", "recovery", "revoked", "assigned"))
PLANS: dict[str, Mapping[str, int]] = {
    "short": {**dict.fromkeys((*POINTS, "terminate", "broker-kill", "leader-change", "cut", "rewind"), 1), "zombie": 3},
    "long": {
        **dict.fromkeys(POINTS, 10),
        "kill-random": 200 - 10 * len(POINTS),
        "broker-kill": 50,
        "broker-stop": 50,
        "leader-cut": 30,
        "zombie": 30,
        **dict.fromkeys(("cut", "stall", "delay"), 10),
        **dict.fromkeys(
            ("terminate", "leader-change", "rewind", "ahead", "recreate", "disk-full", "clock-step", "poison"), 3
        ),
    },
}


def drawn(plan: str, seed: int, only: Sequence[str] = (), count: int | None = None) -> list[Fault]:
    """Return the faults of a plan. `only`: of these names, also where the plan has none; `count`: so many of each."""
    counts = {name: PLANS[plan].get(name, 1) for name in only} if only else PLANS[plan]
    rng = Random(seed)
    names = [name for name, n in counts.items() for _ in range(n if count is None else count)]
    rng.shuffle(names)
    return [FAULTS[name].drawn(rng) for name in names]
