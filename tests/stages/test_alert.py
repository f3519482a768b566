"""The life of an episode: trigger, update, resolve.

Mutations seen red: alarmed windows go into the past; no hysteresis; a jump tells out of order; a silence never
resolves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.events import Alert, AlertStatus, Severity
from pipeline.stages.alert import Judge
from pipeline.stages.score import RobustScorer
from pipeline.stages.watch_rows import KeyRow, WatchConfig

CONFIG = WatchConfig(partitions=1)


class Key:
    """One watched key, judged window after window."""

    def __init__(self, config: WatchConfig = CONFIG) -> None:
        self.judge, self.scorer, self.row = Judge(config), RobustScorer(config), KeyRow(config.window_ms)
        self.window = 0
        self.alerts: list[tuple[int, Alert]] = []
        self.kept = True

    def see(self, *counts: int | tuple[int, int]) -> Key:
        for count in counts:
            events, rejected = count if isinstance(count, tuple) else (count, 0)
            if events:
                self._busy(events, rejected)
            else:
                self.quiet(self.window)
            self.window += 1
        return self

    def quiet(self, upto: int) -> None:
        self.kept = self.judge.quiet("k", self.row, upto)
        self._take()

    def _busy(self, events: int, rejected: int) -> None:
        if self.row.last < 0:
            self.row.last = self.row.done = self.window - 1
        self.judge.quiet("k", self.row, self.window - 1)
        questions = self.judge.rows("k", self.row, self.window, events, rejected)
        self.judge.busy("k", self.row, questions[0], *self.scorer.score(questions))
        self._take()

    def _take(self) -> None:
        self.alerts += self.row.outbox
        self.row.outbox = []

    def told(self) -> list[tuple[str, str, int]]:
        """(status, kind, window at whose end it was told)."""
        return [(a.status.value, a.kind, at // 60_000 - 1) for at, a in self.alerts]


def usual(n: int, mean: int = 100, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [max(1, round(rng.gauss(mean, mean**0.5))) for _ in range(n)]


def test_a_burst_triggers_updates_and_resolves() -> None:
    key = Key().see(*usual(60)).see(*[2_000] * 5).see(*usual(10))
    assert key.told() == [
        ("trigger", "rate", 60),
        ("update", "rate", 61),
        ("update", "rate", 63),
        ("resolve", "rate", 66),
    ]
    first, last = key.alerts[0][1], key.alerts[-1][1]
    assert (first.dedup_key, first.severity, first.count) == ("rate:k", Severity.CRITICAL, 1)
    assert first.runbook == "deploy/runbooks/rate.md"
    assert [f.name for f in first.features] == ["events", "deviations", "tail_rank"]
    assert (first.features[0].seen, round(first.features[0].expected, -1)) == (2_000, 100)
    assert (last.first_at, last.last_at, last.count) == (61 * 60_000, 65 * 60_000, 5)


def test_a_burst_does_not_become_its_own_past() -> None:
    before = Key().see(*usual(60))
    after = Key().see(*usual(60)).see(*[2_000] * 5)
    assert after.row.rate.past == before.row.rate.past


def test_a_change_that_stays_becomes_the_new_normal() -> None:
    key = Key().see(*usual(120)).see(*usual(100, mean=1_000))
    assert key.told()[-1] == ("resolve", "rate", 120 + CONFIG.max_held - 1)
    assert "new normal" in key.alerts[-1][1].summary
    assert key.see(*usual(50, mean=1_000)).told()[-1][0] == "resolve"
    assert key.see(*usual(1, mean=100)).told()[-1][0] == "trigger"


def test_a_moderate_change_must_last_to_be_told() -> None:
    key = Key().see(*usual(60)).see(148)
    assert key.told() == []
    assert key.see(148, 148).told() == []
    assert key.see(148).told() == [("trigger", "rate", 63)]
    assert key.alerts[0][1].count == CONFIG.sustain


def test_suspects_that_came_to_nothing_are_past_like_others() -> None:
    key = Key().see(*usual(60)).see(148, *usual(3))
    assert key.told() == []
    assert key.row.rate.held == []
    assert [n for n, _ in key.row.rate.past].count(148) == 1


def test_an_hourly_job_is_told_twice_and_then_known_until_it_grows() -> None:
    key = Key()
    for hour in range(8):
        key.see(*usual(59, seed=hour), 1_000)
    assert [w for s, _, w in key.told() if s == "trigger"] == [59, 119]
    key.see(*usual(59, seed=9), 3_000)
    assert [w for s, _, w in key.told() if s == "trigger"] == [59, 119, 539]


def test_a_habit_excuses_no_longer_bout() -> None:
    key = Key()
    for hour in range(4):
        key.see(*usual(59, seed=hour), 1_000)
    key.see(*usual(59, seed=9), *[1_000] * 6)
    assert [w for s, _, w in key.told() if s == "trigger"][-1] == 301


def test_rejects_are_told_by_their_share() -> None:
    key = (
        Key().see(*[(n, n // 100) for n in usual(60)]).see((100, 60), (100, 60)).see(*[(n, n // 100) for n in usual(5)])
    )
    assert key.told() == [
        ("trigger", "reject_share", 60),
        ("update", "reject_share", 61),
        ("resolve", "reject_share", 63),
    ]
    assert key.alerts[0][1].severity == Severity.CRITICAL
    assert key.alerts[0][1].features[0].seen == 0.6


def test_silence_is_told_grows_and_ends_with_the_first_event() -> None:
    key = Key().see(*usual(60)).see(*[0] * 9).see(100)
    assert key.told() == [
        ("trigger", "silence", 62),
        ("update", "silence", 63),
        ("update", "silence", 67),
        ("resolve", "silence", 69),
    ]
    first = key.alerts[0][1]
    assert (first.first_at, first.last_at, first.count) == (61 * 60_000, 63 * 60_000, 3)
    assert first.features[0].name == "silent_windows"


def test_a_silence_leaves_no_zeros_in_the_past_but_a_gap_does() -> None:
    silent = Key().see(*usual(60)).see(*[0] * 9).see(100)
    assert all(n for n, _ in silent.row.rate.past)
    gap = Key().see(*usual(60)).see(0, 0).see(100)
    assert [n for n, _ in gap.row.rate.past].count(0) == 2
    assert gap.told() == []


def test_late_events_end_a_silence_though_they_come_too_late_to_count() -> None:
    key = Key().see(*usual(60)).see(*[0] * 9)
    key.judge.alive("k", key.row, 65)
    key._take()
    assert key.told()[-1] == ("resolve", "silence", 68)
    assert "late" in key.alerts[-1][1].summary
    key.judge.alive("k", key.row, 66)
    assert key.row.outbox == []


def test_a_silent_key_is_forgotten_in_the_end_and_its_alert_resolved() -> None:
    config = WatchConfig(partitions=1, forget=100)
    key = Key(config).see(*usual(60)).see(*[0] * 99)
    assert key.kept
    key.see(0)
    assert not key.kept
    assert key.told()[-1] == ("resolve", "silence", 159)


def test_a_key_too_sparse_to_be_missed_is_forgotten_without_a_word() -> None:
    key = Key().see(*[1] * 10).see(*[0] * 19)
    assert key.kept
    assert not key.see(0).kept
    assert key.told() == []


def test_nothing_is_told_in_warm_up() -> None:
    assert Key().see(*usual(19)).see(100_000).told() == []


counts = st.lists(st.sampled_from([0, 0, 0, 1, 90, 100, 110, 2_000, (100, 80)]), min_size=30, max_size=120)


@given(counts, st.integers(0, 200))
def test_every_episode_is_triggered_once_and_ends_once(seen: list[int | tuple[int, int]], rest: int) -> None:
    key = Key().see(*usual(30)).see(*seen).see(*[0] * rest)
    for kind in ("rate", "reject_share", "silence"):
        running = False
        for status, told, _ in key.told():
            if told == kind:
                assert running == (status != AlertStatus.TRIGGER)
                running = status != AlertStatus.RESOLVE
    times = [at for at, _ in key.alerts]
    assert times == sorted(times)


@given(counts, st.lists(st.integers(1, 60), min_size=1, max_size=8))
@example([0] * 28 + [(100, 80), 1], [2])  # two episodes that end within one jump, the second detector's first
def test_a_jump_over_quiet_windows_tells_what_single_steps_tell(
    seen: list[int | tuple[int, int]], jumps: list[int]
) -> None:
    steps, leaps = Key().see(*usual(30)).see(*seen), Key().see(*usual(30)).see(*seen)
    steps.see(*[0] * sum(jumps))
    for jump in jumps:
        leaps.window += jump
        leaps.quiet(leaps.window - 1)
    assert _plain(steps.alerts) == _plain(leaps.alerts)
    assert steps.row == leaps.row


@given(counts)
def test_nothing_happens_before_it_is_due(seen: list[int | tuple[int, int]]) -> None:
    key = Key().see(*usual(30)).see(*seen)
    due = key.judge.due(key.row)
    assert due > key.row.done
    told = len(key.alerts)
    key.quiet(due - 1)
    assert len(key.alerts) == told
    assert key.kept


@given(counts)
def test_a_row_is_all_that_is_remembered(seen: list[int | tuple[int, int]]) -> None:
    one = Key().see(*usual(30)).see(*seen)
    other = Key().see(*usual(30))
    for count in seen:
        other.row = msgspec.msgpack.decode(msgspec.msgpack.encode(other.row), type=KeyRow)
        other.see(count)
    assert _plain(one.alerts) == _plain(other.alerts)


@pytest.mark.parametrize(
    ("mean", "now", "severity"),
    [(1_000, 2_500, Severity.WARNING), (1_000, 5_000, Severity.ERROR), (1_000, 30_000, Severity.CRITICAL)],
)
def test_severity_goes_by_the_size_of_the_change(mean: int, now: int, severity: Severity) -> None:
    assert Key().see(*usual(60, mean=mean)).see(now).alerts[0][1].severity == severity


@given(st.integers(300, 10_000_000), st.integers(300, 10_000_000))
def test_the_score_is_bounded_and_grows_with_the_surprise(a: int, b: int) -> None:
    low, high = (Key().see(*usual(60)).see(n).alerts[0][1].score for n in sorted((a, b)))
    assert 0 < low <= high <= 100


def _plain(alerts: Sequence[tuple[int, Alert]]) -> list[tuple[int, bytes]]:
    return [(at, msgspec.json.encode(alert)) for at, alert in alerts]


def test_an_episode_goes_on_below_what_would_have_begun_it() -> None:
    key = Key().see(*usual(60)).see(2_000, 150, 150)
    assert key.told() == [("trigger", "rate", 60), ("update", "rate", 61)]
    assert key.see(100, 100).told()[-1] == ("resolve", "rate", 64)
