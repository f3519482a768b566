"""Guarantee: every label value is a name from a bounded set, whatever the pipeline is fed with; all else is "other".

Mutations seen red: `_NAME` not asked, or with `$` for `\\Z`; `>` for `>=` MAX_NAMES; a reject's detail, a topic or
another detail as it comes; `any` for `all` in `ready`; the states changed in place; a leg's former state left at 1.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline import __version__
from pipeline.events import Topic
from pipeline.flow.protect import KEYS
from pipeline.flow.watch import OPEN, STATE_TABLE
from pipeline.outcomes import Reason
from pipeline.ports import LegState
from pipeline.telemetry.metrics import MAX_NAMES, OTHER, PrometheusMetrics

LEGS = ("protect", "identify", "watch")
EMAILS = st.from_regex(r"[a-z]{1,8}\.?[a-z0-9]{0,8}@[a-z]{1,8}\.(example|de)", fullmatch=True)
TEXTS = EMAILS | st.text(max_size=40) | st.sampled_from([*LEGS, *Topic, *Reason, "rejected", ""])
STATES = st.sampled_from(LegState)
CALLS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS, STATES), max_size=8)


def page(metrics: PrometheusMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def labels(metrics: PrometheusMetrics) -> dict[str, set[str]]:
    """Every value of every label on the page, by the label's name; `le` and `version` are not given by a caller."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(metrics)):
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name not in ("le", "version"):
                    found.setdefault(name, set()).add(value)
    return found


def value(metrics: PrometheusMetrics, name: str, *given_labels: str, **more: str) -> float | None:
    names = ("leg", *more) if given_labels else tuple(more)
    return metrics.registry.get_sample_value(
        f"sealstream_{name}", dict(zip(names, (*given_labels, *more.values()), strict=True))
    )


def say_everything(metrics: PrometheusMetrics, a: str, b: str, c: str, state: LegState) -> None:
    """Each text to each place that takes one."""
    metrics.batch(a, b, 3, 0.1)
    metrics.checkpoint(b, 3, 0.1)
    metrics.outcomes(c, {(a, b): 1, ("rejected", a): 1, ("rejected", c): 1, (b, c): 1})
    metrics.committed(a, 1)
    metrics.changelog(b, c, 1, 100)
    metrics.rows(c, a, 1)
    metrics.lag(a, b, 1, 1)
    metrics.lookup(c, 200, 0.1)
    metrics.state(b, state)


# -- nothing of an event becomes a label -----------------------------------------------------------------------------


@settings(max_examples=50)
@given(CALLS)
def test_no_label_value_is_outside_of_the_bounded_sets(calls: list[tuple[str, str, str, LegState]]) -> None:
    metrics = PrometheusMetrics()
    for a, b, c, state in calls:
        say_everything(metrics, a, b, c, state)
    found = labels(metrics)
    assert found.pop("topic", set()) <= {*Topic, OTHER}
    assert found.pop("reason", set()) <= {*Reason, OTHER}
    assert found.pop("state", set()) <= {*LegState}
    assert found.pop("partition", set()) <= {"1"}
    assert found.pop("status", set()) <= {"200"}
    assert found.keys() <= {"leg", "outcome", "detail", "table", "by"}
    for values in found.values():
        assert all(re.fullmatch(r"[a-z][a-z _-]{0,31}", each) for each in values)


@settings(max_examples=50)
@given(EMAILS, EMAILS, EMAILS, STATES)
def test_an_e_mail_address_given_for_any_name_is_never_on_the_page(a: str, b: str, c: str, state: LegState) -> None:
    metrics = PrometheusMetrics()
    say_everything(metrics, a, b, c, state)
    told = page(metrics)
    assert "@" not in told
    assert not any(canary in told for canary in (a, b, c))
    assert labels(metrics)["leg"] == {OTHER}


@pytest.mark.parametrize(
    "name",
    [
        *("", "Ann", "ann smith@example.org", "ann@example.org", "4711", "a1", "+491701234567", "192.0.2.1", "é", "ａ"),
        *("protect\n", "\nprotect", "protect\0", 'a"b', "a" * 33, "_a", "email.1.cdc9a68308310e39b74713a548fa4576"),
    ],
)
def test_what_is_no_short_lower_case_name_is_other(name: str) -> None:
    metrics = PrometheusMetrics()
    metrics.changelog("protect", name, 2, 10)
    metrics.outcomes("identify", {(name, ""): 3})
    assert labels(metrics) == {"leg": {"protect", "identify"}, "table": {OTHER}, "outcome": {OTHER}}
    assert value(metrics, "changelog_records_total", "protect", table=OTHER) == 2
    assert value(metrics, "events_total", "identify", outcome=OTHER) == 3


@pytest.mark.parametrize("table", [KEYS, OPEN, STATE_TABLE, "tokens", "evidence"])
def test_every_table_of_the_pipeline_goes_by_its_own_name(table: str) -> None:
    metrics = PrometheusMetrics()
    metrics.rows("protect", table, 7)
    assert value(metrics, "table_rows", "protect", table=table) == 7


def test_at_most_max_names_of_a_kind_are_kept_and_nothing_is_lost_in_the_count() -> None:
    metrics = PrometheusMetrics()
    names = [a + b for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"]
    for name in names * 2:
        metrics.outcomes("protect", {(name, ""): 1})
    assert labels(metrics)["outcome"] == {*names[:MAX_NAMES], OTHER}
    assert value(metrics, "events_total", "protect", outcome=names[0]) == 2
    assert value(metrics, "events_total", "protect", outcome=OTHER) == 2 * (len(names) - MAX_NAMES)


@pytest.mark.parametrize("label", ["leg", "table", "outcome", "detail"])
def test_no_label_has_more_than_max_names_beside_other(label: str) -> None:
    metrics = PrometheusMetrics()
    for a in "abcdefghijklmnop":
        for b in "abcdefghijklmnop":
            say_everything(metrics, a + b, b + a, "x" + a + b, LegState.RUNNING)
    assert len(labels(metrics)[label]) == MAX_NAMES + 1
    assert len(metrics.states) <= MAX_NAMES + 1


# -- what is counted -------------------------------------------------------------------------------------------------


def test_rejects_are_counted_by_reason() -> None:
    metrics = PrometheusMetrics()
    for reason in Reason:
        metrics.outcomes("protect", {("rejected", reason.value): 2, ("protected", ""): 1})
    metrics.outcomes("protect", {("rejected", Reason.BAD_JSON.value): 1, ("rejected", "ann@example.org"): 5})
    assert value(metrics, "rejects_total", "protect", reason="bad_json") == 3
    assert value(metrics, "rejects_total", "protect", reason="expired") == 2
    assert value(metrics, "rejects_total", "protect", reason=OTHER) == 5
    assert value(metrics, "events_total", "protect", outcome="rejected") == 2 * len(Reason) + 6
    assert value(metrics, "events_total", "protect", outcome="protected") == len(Reason)
    assert labels(metrics)["reason"] == {*Reason, OTHER}


def test_a_reason_is_no_detail_and_a_detail_no_reason() -> None:
    metrics = PrometheusMetrics()
    metrics.outcomes(
        "protect", {("rejected", "bad_json"): 1, ("unusable_identifier", "email"): 4, ("protected", ""): 1}
    )
    assert labels(metrics)["detail"] == {"email"}
    assert labels(metrics)["reason"] == {"bad_json"}
    details = {"leg": "protect", "outcome": "unusable_identifier", "detail": "email"}
    assert metrics.registry.get_sample_value("sealstream_outcomes_total", details) == 4


def test_batches_and_checkpoints_are_measured() -> None:
    metrics = PrometheusMetrics()
    metrics.batch("protect", "events.raw", 300, 0.02)
    metrics.batch("protect", "events.raw", 100, 0.03)
    metrics.checkpoint("protect", 400, 0.2)
    metrics.committed("protect", 4)
    metrics.committed("protect", 4)
    assert value(metrics, "batch_records_sum", "protect", topic="events.raw") == 400
    assert value(metrics, "batch_records_count", "protect", topic="events.raw") == 2
    assert value(metrics, "batch_seconds_sum", "protect", topic="events.raw") == pytest.approx(0.05)
    assert value(metrics, "checkpoint_seconds_count", "protect") == 1
    assert value(metrics, "acknowledged_records_total", "protect") == 400
    assert value(metrics, "commits_total", "protect") == 2


def test_changelogs_add_up_and_rows_and_lag_are_the_latest() -> None:
    metrics = PrometheusMetrics()
    for n in (5, 3):
        metrics.changelog("identify", "tokens", n, n * 100)
        metrics.rows("identify", "tokens", n)
        metrics.lag("identify", "identity", 2, n)
    assert value(metrics, "changelog_records_total", "identify", table="tokens") == 8
    assert value(metrics, "changelog_bytes_total", "identify", table="tokens") == 800
    assert value(metrics, "table_rows", "identify", table="tokens") == 3
    assert value(metrics, "lag_records", "identify", topic="identity", partition="2") == 3


def test_the_version_is_told_and_two_in_one_process_do_not_meet() -> None:
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.committed("protect", 1)
    assert value(one, "info", version=__version__) == value(other, "info", version=__version__) == 1
    assert value(other, "commits_total", "protect") is None


# -- health ----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(LEGS), STATES))
def test_alive_means_that_none_has_failed_and_ready_that_all_are_running(states: dict[str, LegState]) -> None:
    metrics = PrometheusMetrics()
    for leg, state in states.items():
        metrics.state(leg, state)
    assert metrics.alive == (LegState.FAILED not in states.values())
    assert metrics.ready == (bool(states) and set(states.values()) == {LegState.RUNNING})
    assert metrics.states == states


def test_a_process_is_not_ready_before_every_leg_that_it_expects_runs() -> None:
    metrics = PrometheusMetrics()
    metrics.expect(("protect", "watch"))
    assert metrics.states == {"protect": "waiting", "watch": "waiting"}
    metrics.state("protect", LegState.RUNNING)
    assert (metrics.alive, metrics.ready) == (True, False)
    metrics.state("watch", LegState.RUNNING)
    assert (metrics.alive, metrics.ready) == (True, True)
    metrics.state("watch", LegState.RECOVERING)
    assert (metrics.alive, metrics.ready) == (True, False)


@given(st.lists(STATES, min_size=1, max_size=5))
def test_a_leg_is_in_its_last_state_and_in_no_other(states: list[LegState]) -> None:
    metrics = PrometheusMetrics()
    for state in states:
        metrics.state("watch", state)
    told = {state: value(metrics, "leg_state", "watch", state=state.value) for state in LegState}
    assert told == {state: float(state is states[-1]) for state in LegState}


def test_states_once_read_do_not_change_under_the_reader() -> None:
    metrics = PrometheusMetrics()
    metrics.expect(("protect",))
    held = metrics._states
    for leg in LEGS:
        metrics.state(leg, LegState.FAILED)
    assert held == {"protect": LegState.WAITING}
