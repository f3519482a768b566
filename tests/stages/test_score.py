"""How far out a window lies.

Mutations seen red: the mean instead of the median; no doubt while the past is short; no warm-up.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.score import FeatureRow, Kind, RobustScorer, Tail, patience, surprise
from pipeline.stages.watch_rows import WatchConfig

CONFIG = WatchConfig(partitions=1)


def score(
    kind: Kind, events: int, rejected: int, past: list[tuple[int, int]], config: WatchConfig = CONFIG
) -> Tail | None:
    [tail] = RobustScorer(config).score([FeatureRow("k", kind, 1, events, rejected, past)])
    return tail


def rate(events: int, *past: int) -> Tail | None:
    return score(Kind.RATE, events, 0, [(n, 0) for n in past])


def test_without_history_there_is_no_opinion() -> None:
    assert rate(1_000_000, *[3] * 19) is None
    assert rate(1_000_000, *[3] * 20) is not None
    assert score(Kind.REJECT_SHARE, 100, 100, [(100, 0)] * 19) is None


@given(st.integers(0, 10_000))
def test_the_usual_is_nothing_special(n: int) -> None:
    tail = rate(n, *[n] * 60)
    assert tail is not None
    assert abs(tail.z) < 1e-9
    assert (tail.seen, tail.expected) == (n, n)


@given(st.integers(0, 5), st.integers(0, 6))
def test_small_counts_are_never_alarming_however_quiet_the_past(past: int, now: int) -> None:
    tail = rate(now, *[past] * 120)
    assert tail is not None
    assert abs(tail.z) < CONFIG.trigger_z


@pytest.mark.parametrize("n", [4, 100, 10_000])
def test_counting_noise_has_unit_variance_and_a_small_change_of_a_large_rate_is_no_news(n: int) -> None:
    tail = rate(n + round(3 * math.sqrt(n)), *[n] * 120)
    assert tail is not None
    assert 0 < tail.z < 3.2
    changed = rate(round(n * 1.3), *[n] * 120)
    assert changed is not None
    assert changed.z < CONFIG.sustained_z


def test_both_sides_count_for_a_rate_and_only_more_for_rejects() -> None:
    up, down = rate(1_000, *[100] * 60), rate(10, *[100] * 60)
    assert up is not None
    assert down is not None
    assert up.z > 6
    assert down.z < -6
    fewer = score(Kind.REJECT_SHARE, 1_000, 0, [(1_000, 300)] * 60)
    more = score(Kind.REJECT_SHARE, 1_000, 600, [(1_000, 300)] * 60)
    assert fewer is not None
    assert more is not None
    assert fewer.z == 0
    assert more.z > 6


def test_the_rank_is_the_share_of_the_past_that_is_as_extreme() -> None:
    past = [100] * 57 + [1_000, 2_000, 3_000]
    tail = rate(2_000, *past)
    assert tail is not None
    assert tail.rank == pytest.approx(2 / 60)


def test_an_outlier_in_the_past_moves_neither_centre_nor_scale() -> None:
    clean, spoilt = rate(200, *[100, 105, 95] * 20), rate(200, *[100, 105, 95] * 19, 100, 105, 1_000_000)
    assert clean is not None
    assert spoilt is not None
    assert spoilt.z == pytest.approx(clean.z, rel=0.1)


@given(st.integers(1, 1_000), st.integers(0, 1_000))
def test_a_share_of_few_events_is_no_evidence(events: int, rejected: int) -> None:
    rejected = min(rejected, events)
    tail = score(Kind.REJECT_SHARE, events, rejected, [(10, 0)] * 60)
    assert tail is not None
    if rejected <= 2:
        assert tail.z < CONFIG.trigger_z


def test_a_share_without_events_is_none() -> None:
    assert score(Kind.REJECT_SHARE, 0, 0, [(10, 0)] * 60) is None


def test_rows_of_many_keys_are_scored_in_one_call_in_order() -> None:
    rows = [FeatureRow(f"k{i}", Kind.RATE, 1, i * 100, 0, [(100, 0)] * 30) for i in range(5)]
    tails = RobustScorer(CONFIG).score(rows)
    assert [tail.seen for tail in tails if tail] == [0, 100, 200, 300, 400]


def test_patience_grows_as_a_source_gets_sparser() -> None:
    assert patience([(100, 0)] * 60, CONFIG) == CONFIG.min_silent
    assert patience([(1, 0)] * 60, CONFIG) == 14
    assert patience([(1, 0), (0, 0), (0, 0)] * 20, CONFIG) == 42
    assert patience([(1, 0)] + [(0, 0)] * 59, CONFIG) is None
    assert patience([(100, 0)] * 19, CONFIG) is None
    assert patience([(5, 0)] * 50 + [(0, 0)] * 10 + [(5, 0)] * 10, CONFIG) == 30


def test_a_burst_in_the_past_makes_nobody_impatient() -> None:
    assert patience([(1, 0)] * 50 + [(1_000, 0)] * 10, CONFIG) == 14


@given(st.floats(0, 200), st.floats(0, 200))
def test_surprise_grows_with_z_and_never_overflows(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= surprise(low) <= surprise(high) + 1e-3 < math.inf


def test_surprise_is_the_two_sided_gaussian_tail() -> None:
    assert surprise(6) == pytest.approx(8.7, abs=0.05)
    assert surprise(-10) == pytest.approx(22.8, abs=0.05)
    assert surprise(29.99) == pytest.approx(surprise(30.01), abs=0.4)


def test_a_short_past_is_doubted() -> None:
    short, long = (rate(200, *([95, 100, 105] * n)) for n in (7, 40))
    assert short is not None
    assert long is not None
    assert 0 < short.z < long.z
