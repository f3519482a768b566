"""A plan is a function of its name and seed, and has what issue 5 asks for.

Mutations seen red: parameters drawn from the global generator; the order not drawn.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.faults import FAULTS
from tests.faults.plan import PLANS, POINTS, drawn
from tests.integration import tally


@pytest.mark.parametrize("plan", PLANS)
def test_the_same_seed_gives_the_same_faults_in_the_same_order(plan: str) -> None:
    assert drawn(plan, 7) == drawn(plan, 7)
    assert drawn(plan, 7) != drawn(plan, 8)
    assert [f.name for f in drawn(plan, 7)] != [f.name for f in drawn(plan, 8)]


def test_the_long_plan_has_the_counts_of_the_issue() -> None:
    counts = Counter(f.name for f in drawn("long", 1))
    assert sum(n for name, n in counts.items() if name.startswith("kill-")) == 200
    assert all(counts[point] == 10 for point in POINTS)
    assert (counts["broker-kill"], counts["broker-stop"]) == (50, 50)
    assert (counts["leader-cut"], counts["zombie"]) == (30, 30)
    assert set(counts) == set(FAULTS)


def test_every_point_is_one_that_a_worker_comes_to() -> None:
    assert {point.removeprefix("kill-") for point in POINTS} == set(tally.POINTS)


def test_only_and_count_choose_also_what_the_plan_has_not() -> None:
    assert [f.name for f in drawn("short", 1, only=["stall"], count=3)] == ["stall"] * 3
    assert len(drawn("long", 1, only=["zombie"])) == PLANS["long"]["zombie"]
