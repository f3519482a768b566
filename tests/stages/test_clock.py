"""Event time from three clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.clock import event_time, milliseconds

NOW = 1_790_000_000_000
times = st.integers(-(2**45), 2**45)


def test_a_clock_that_is_years_off_is_corrected_by_its_own_sending_time() -> None:
    assert event_time(1_000, 6_000, NOW) == NOW - 5_000
    assert event_time(4_102_444_800_000, 4_102_444_805_000, NOW) == NOW - 5_000


def test_without_a_sending_time_the_timestamp_counts_but_never_the_future() -> None:
    assert event_time(NOW - 7, None, NOW) == NOW - 7
    assert event_time(NOW + 7, None, NOW) == NOW


def test_without_a_timestamp_it_is_when_it_was_received() -> None:
    assert event_time(None, 5, NOW) == NOW


def test_without_a_kafka_time_the_timestamp_stands() -> None:
    assert event_time(5, 9, -1) == 5


def test_datetimes_are_exact_to_the_millisecond_and_utc_without_a_zone() -> None:
    at = datetime(2026, 11, 24, 10, 0, 0, 928_000, tzinfo=timezone(timedelta(hours=1)))
    assert milliseconds(at) == 1_795_510_800_928
    assert milliseconds(datetime(1969, 12, 31, 23, 59, 59, 999_000)) == -1
    assert milliseconds(datetime(1970, 1, 1, tzinfo=UTC)) == 0


@given(st.none() | times, st.none() | times, st.integers(0, 2**45))
def test_no_event_happened_after_it_was_received(timestamp: int | None, sent: int | None, received: int) -> None:
    assert event_time(timestamp, sent, received) <= received
