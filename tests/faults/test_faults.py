"""The short plan: three brokers, two workers, and a fault of each telling kind while traffic flows.

At the end each event is protected or rejected once, and resolved; profiles are those of the oracle; each canary counts
once. `make faults` does the long plan.

Mutations seen red, by these of its faults: acknowledged before the writes (kill-output, kill-changelog: lost, profiles
different); a changelog's write that is not awaited (kill-rows: twice, profiles different); commits one too many
(terminate, kill-random: lost); a lease that is always held (zombie: profiles different, once in five).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import Transient
from tests.faults.plan import drawn
from tests.faults.report import text
from tests.faults.run import Run, run

pytestmark = [pytest.mark.broker, pytest.mark.long]
SEED = 1


def test_nothing_is_lost_and_nothing_counts_twice_whatever_dies_when(tmp_path: Path) -> None:
    try:
        report = run(Run("short", SEED, drawn("short", SEED)), tmp_path, print)
    except Transient as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"this test needs brokers: {error}")
        pytest.skip(f"NO BROKERS, NOTHING PROVED: {error}")
    print(text(report))
    assert report.clean, text(report)
    assert report.verdict is not None
    assert report.verdict.canaries > 0
    assert report.verdict.rejected > 0
