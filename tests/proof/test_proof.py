"""A short `make identity-proof`: the same cases as there, fewer of them.

Mutations seen red: see below
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from pipeline.events import ProtectedEvent
from pipeline.stages.link import Rules
from tests.flow.test_identify import expected
from tests.proof import broker, pure, schedule
from tests.proof.__main__ import main
from tests.proof.cases import drawn
from tests.proof.report import Report, text

SEED = 1
CASES = 250


def test_profiles_are_a_function_of_the_set_of_events() -> None:
    counts, failures = pure.several(SEED, range(CASES))
    assert not failures, "\n".join(f"{f.what}; python -m tests.proof {f.again}" for f in failures)
    assert (
        min(counts[what] for what in ("crashes", "zombies", "merges", "splits", "erased", "conflict limit.user_id"))
        > 10
    )
    assert min(counts[f"conflict {rule}"] for rule in ("cut", "shared", "cluster_tokens")) > 10


def test_a_case_is_a_function_of_seed_and_number_and_a_part_of_it_can_be_run() -> None:
    assert drawn(3, 5) == drawn(3, 5)
    assert drawn(3, 5) != drawn(4, 5)
    assert drawn(3, 5) != drawn(3, 6)


def test_a_case_that_fails_says_how_to_run_it_alone_and_how_few_of_its_events_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(made: list[ProtectedEvent], rules: Rules) -> list[bytes]:
        return expected(made, rules) if len(made) < 5 else []

    monkeypatch.setattr(schedule, "expected", wrong)
    number = next(n for n in range(50) if len(drawn(SEED, n).events) > 9)
    _, (failure,) = pure.several(SEED, range(number, number + 1))
    assert f"its first 5 of {len(drawn(SEED, number).events)} events" in failure.what
    assert failure.again == f"--seed {SEED} --case {number}"


def test_the_report_as_json() -> None:
    done = CliRunner().invoke(main, ["--cases", "60", "--broker", "0", "--jobs", "1", "--json"])
    assert done.exit_code == 0, done.output
    report = msgspec.json.decode(done.stdout, type=Report)
    assert report.clean
    assert report.broker is None
    assert report.pure is not None
    assert report.pure.cases == 60
    assert {"events", "crashes", "zombies", "merges", "splits"} <= report.pure.counts.keys()
    assert "shared" in report.pure.conflicts


def test_cases_on_a_broker(kafka: str, tmp_path: Path) -> None:
    part = broker.run(kafka, broker.Round(SEED, 0, range(12), 4, kills=1), tmp_path)
    assert not part.failures, text(Report(SEED, broker=part))
    assert part.counts["kills"] == 1
    assert part.counts["merges"] > 10
