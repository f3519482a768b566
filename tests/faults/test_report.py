"""The report counts right, lays what was lost to the fault before it, and is not clean when anything is wrong.

Mutations seen red: a fault without recovery that counts as clean; a loss laid to the fault after it; p95 of the median.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.faults.oracle import Verdict
from tests.faults.report import Outcome, Report, markdown, quantile, rows, text, write

CLEAN: dict[str, Any] = dict.fromkeys(
    ("events", "rejected", "lost", "twice", "foreign", "different", "canaries", "canaries_wrong", "duplicates"), 0
)
OUTCOMES = [
    Outcome("zombie", {"slot": 0}, at=100.0, recovery=8.0),
    Outcome("cut", {}, at=200.0, recovery=3.0),
    Outcome("zombie", {"slot": 1}, at=300.0, recovery=10.0),
]


def report(**changed: Any) -> Report:
    values: dict[str, Any] = {
        "plan": "short",
        "seed": 5,
        "versions": {"python": "3"},
        "settings": {"rate": 500.0},
        "seconds": 60.0,
        "outcomes": OUTCOMES,
        "exits": {},
        "verdict": Verdict(**CLEAN),
        "wrong": (),
        "logs": ["worker-0.log"],
    }
    return Report(**{**values, **changed})


def test_a_row_per_fault_and_one_for_all() -> None:
    found = {row.fault: row for row in rows(OUTCOMES, Verdict(**CLEAN))}
    assert list(found) == ["cut", "zombie", "all"]
    assert (found["zombie"].count, found["zombie"].p50, found["zombie"].p95) == (2, 9.0, 10.0)
    assert (found["all"].count, found["all"].p50) == (3, 8.0)


def test_what_was_lost_is_laid_to_the_fault_before_it() -> None:
    verdict = Verdict(**{**CLEAN, "lost": 3, "twice": 1}, lost_at=(99.0, 201.0, 299.9), twice_at=(350.0,))
    found = {row.fault: (row.lost, row.twice) for row in rows(OUTCOMES, verdict)}
    assert found == {"zombie": (1, 1), "cut": (2, 0), "all": (3, 1)}


@pytest.mark.parametrize("finding", ["lost", "twice", "foreign", "different", "canaries_wrong"])
def test_any_finding_is_not_clean(finding: str) -> None:
    assert report().clean
    assert not report(verdict=Verdict(**{**CLEAN, finding: 1})).clean


def test_lag_that_stays_or_an_end_that_is_not_reached_is_not_clean_and_names_the_logs() -> None:
    stuck = [*OUTCOMES, Outcome("cut", {}, at=400.0, recovery=None)]
    odd = [Outcome("ahead", {}, at=1.0, recovery=1.0, wrong="not found")]
    for dirty in (report(outcomes=stuck), report(outcomes=odd), report(verdict=None), report(wrong=["stuck"])):
        assert not dirty.clean
        assert "worker-0.log" in text(dirty)
        assert "NOT CLEAN" in markdown(dirty)
    assert "worker-0.log" not in text(report())


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (10, 10), (20, 19), (100, 95), (200, 190)])
def test_the_quantile_is_the_nearest_rank(n: int, expected: int) -> None:
    assert quantile([float(i) for i in range(1, n + 1)], 0.95) == expected


def test_both_forms_are_written(tmp_path: Path) -> None:
    as_json, as_markdown = write(report(), tmp_path / "new")
    assert msgspec.json.decode(as_json.read_bytes())["seed"] == 5
    assert "| zombie | 2 | 0 | 0 | 9.0 | 10.0 |" in as_markdown.read_text()
