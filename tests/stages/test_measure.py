"""Counting: each origin once, in the window of its record time, and windows that close when all have passed them.

Mutations seen red: an origin is counted twice; windows go by arrival; the future is counted; marks are not saved.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Origin, ProtectedEvent, RawRecord
from pipeline.stages.measure import Measure
from pipeline.stages.watch_rows import Partial, WatchConfig

from ..flow.watch_world import START, DictTable

MINUTE = 60_000
FIRST = START // MINUTE
CONFIG = WatchConfig(partitions=2)


def event(offset: int, at: int, *, raw: int = 0, source: str = "shop", schema: str = "page/1", inc: str = "i") -> bytes:
    origin = Origin("events.raw", inc, raw, offset)
    return msgspec.json.encode(ProtectedEvent("00", origin, source, schema, "page", at, at, "m", "a"))


def records(*values: bytes | None) -> list[RawRecord]:
    return [RawRecord(i, START, b"k", value) for i, value in enumerate(values)]


def run(measure: Measure, now: int, *, seconds: int = 1, caught_up: bool = True) -> list[Partial]:
    """Tick for some seconds, ending at `now`, and take what closed."""
    out = []
    for second in range(seconds):
        measure.tick(now - (seconds - 1 - second) * 1000, caught_up)
        out += measure.close()
    return out


def both_raws(measure: Measure, offset: int, at: int) -> None:
    """Both raw partitions and both topics have come to `at`."""
    for rejected in (False, True):
        batch = records(event(offset, at, raw=0, source="web"), event(offset, at, raw=1, source="web"))
        measure.fold(batch, rejected)


def counted(partials: list[Partial], watched: str = "source=shop") -> list[tuple[int, int, int]]:
    return [(p.window - FIRST, p.accepted, p.rejected) for p in partials if p.watched == watched]


def test_events_are_counted_by_source_schema_and_window() -> None:
    measure = Measure(0, CONFIG, DictTable())
    measure.fold(records(event(0, START), event(1, START + 1), event(2, START + 2, schema="track/3")), rejected=False)
    measure.fold(records(event(3, START + 3, schema="")), rejected=True)
    both_raws(measure, 9, START + 2 * MINUTE)
    partials = run(measure, START + 3 * MINUTE, seconds=3)
    assert {p.watched: (p.accepted, p.rejected) for p in partials if p.window == FIRST} == {
        "source=shop": (3, 1),
        "source=shop,event=page": (2, 0),
        "source=shop,event=track": (1, 0),
    }


def test_a_repeated_origin_is_counted_once_and_another_incarnation_is_another_event() -> None:
    measure = Measure(0, CONFIG, DictTable())
    for values in ([event(n, START) for n in (0, 1, 2)], [event(n, START) for n in (1, 2, 3)]):
        measure.fold(records(*values), rejected=False)
    measure.fold(records(event(0, START, inc="later")), rejected=False)
    assert measure.counts[("duplicate", "")] == 2
    assert measure.counts[("watched", "")] == 5


def test_a_window_waits_for_the_slowest_raw_partition() -> None:
    measure = Measure(0, CONFIG, DictTable())
    measure.fold(records(event(0, START, raw=0), event(0, START, raw=1)), rejected=False)
    measure.fold(records(event(9, START + 10 * MINUTE, raw=0)), rejected=False)
    assert run(measure, START + 10 * MINUTE, seconds=5, caught_up=False) == []
    measure.fold(records(event(9, START + 1 * MINUTE + 10_000, raw=1)), rejected=False)
    both_raws(measure, 20, START + 1 * MINUTE + 10_000)
    assert counted(run(measure, START + 10 * MINUTE + 9_000, seconds=3, caught_up=False)) == [(0, 2, 0)]


def test_an_idle_raw_partition_holds_up_nobody_but_a_waking_one_is_waited_for() -> None:
    measure = Measure(0, CONFIG, DictTable())
    measure.fold(records(event(0, START), event(1, START + 90_000)), rejected=False)
    measure.tick(START + 90_000, True)
    for second in range(40):  # raw 1 and the rejects never say anything
        measure.fold(records(event(2 + second, START + 90_000 + second)), rejected=False)
        measure.tick(START + 90_000 + second * 1000, True)
    assert counted(measure.close())[0] == (0, 1, 0)
    late = Measure(0, CONFIG, DictTable())
    late.fold(records(event(0, START, raw=0)), rejected=False)
    run(late, START + 20_000, seconds=20)
    late.fold(records(event(1, START + 5 * MINUTE, raw=0)), rejected=False)
    late.tick(START + 5 * MINUTE, True)  # the watermark is past the first windows now …
    late.fold(records(event(0, START + 30_000, raw=1)), rejected=False)  # … but raw 1 wakes up
    late.tick(START + 5 * MINUTE + 1000, True)
    assert late.until <= FIRST
    assert ("late", "event") not in late.counts


def test_while_records_wait_a_slow_partition_counts_as_idle_later() -> None:
    for caught_up, closed in ((True, True), (False, False)):
        measure = Measure(0, CONFIG, DictTable())
        measure.fold(records(event(0, START, raw=1), event(0, START, raw=0)), rejected=False)
        measure.tick(START, caught_up)
        for second in range(19):
            measure.fold(records(event(1 + second, START + 70_000 + second)), rejected=False)
            measure.tick(START + 70_000 + second * 1000, caught_up)
        assert (measure.until > FIRST) == closed


def test_an_idle_partition_tells_its_open_windows_once_and_again_when_they_grow() -> None:
    measure = Measure(0, CONFIG, DictTable())
    measure.fold(records(event(0, START)), rejected=False)
    assert counted(run(measure, START + 30_000, seconds=30)) == [(0, 1, 0)]
    assert measure.progress().idle
    assert run(measure, START + 40_000) == []
    measure.fold(records(event(1, START + 1)), rejected=False)
    assert not measure.progress().idle
    assert counted(run(measure, START + 80_000, seconds=30)) == [(0, 2, 0)]


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b"{}", b'{"source":"s","received_at":1}', b"1" * 50])
def test_what_cannot_be_read_is_counted_and_skipped(value: bytes | None) -> None:
    measure = Measure(0, CONFIG, DictTable())
    measure.fold(records(event(0, START), value, event(1, START)), rejected=False)
    assert measure.counts == {("unreadable", ""): 1, ("watched", ""): 2, ("duplicate", ""): 0}


def test_times_before_1970_and_far_ahead_are_counted_and_move_no_clock() -> None:
    measure = Measure(0, CONFIG, DictTable())
    far = START + 400 * 365 * 24 * 60 * MINUTE
    measure.fold(records(event(0, -1), event(1, far), event(2, START)), rejected=False)
    run(measure, START + 1000, seconds=5)
    assert measure.counts[("untimed", "")] == 1
    assert measure.counts[("ahead", "")] == 1
    assert measure.until <= FIRST
    measure.fold(records(event(3, START + 2)), rejected=False)
    assert ("late", "event") not in measure.counts


def test_a_record_time_ahead_of_the_clock_closes_nothing_before_its_time() -> None:
    measure = Measure(0, CONFIG, DictTable())
    both_raws(measure, 0, START + 4 * MINUTE)
    run(measure, START + 30_000, seconds=3)
    assert measure.until <= FIRST


def test_too_many_open_counts_close_the_oldest_windows_early() -> None:
    measure = Measure(0, WatchConfig(partitions=1, max_cells=10), DictTable())
    measure.fold(records(*(event(n, START + n * MINUTE) for n in range(25))), rejected=False)
    closed = run(measure, START + 30 * MINUTE)
    assert [w for w, _, _ in counted(closed)] == list(range(15))
    assert measure.counts[("closed_early", "")] == 15


def test_sources_beyond_the_cap_are_counted_together_and_known_ones_keep_their_place() -> None:
    measure = Measure(0, WatchConfig(partitions=1, max_sources=2), DictTable())
    measure.fold(records(event(0, START, source="shop"), event(1, START, source="web")), rejected=False)
    values = [event(2 + n, START + MINUTE, source=f"x{n}") for n in range(5)]
    measure.fold(records(*values, event(9, START + MINUTE, source="shop")), rejected=False)
    partials = run(measure, START + 2 * MINUTE, seconds=30)
    assert counted(partials)[-1] == (1, 1, 0)
    assert counted(partials, "source=(other)") == [(1, 5, 0)]


def test_rows_of_another_window_size_are_let_go() -> None:
    table = DictTable()
    measure = Measure(0, CONFIG, table)
    measure.fold(records(event(0, START)), rejected=False)
    measure.save()
    assert len(table) == 2
    other = Measure(0, WatchConfig(partitions=2, window_ms=30_000), table)
    other.save()
    assert other.close() == []
    assert len(table) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.booleans()), max_size=40), st.integers(0, 40))
def test_a_restart_goes_on_exactly_where_the_rows_stood(events: list[tuple[int, int, bool]], cut: int) -> None:
    def life(restart: bool) -> list[Partial]:
        table = DictTable()
        measure = Measure(0, CONFIG, table)
        for i, (raw, minute, rejected) in enumerate(events):
            measure.fold(records(event(i, START + minute * MINUTE, raw=raw % 2)), rejected)
            if restart and i == cut:
                measure.save()
                measure = Measure(0, CONFIG, table)
                for again, (r, m, rej) in enumerate(events[: i + 1]):  # the input comes again from the start
                    measure.fold(records(event(again, START + m * MINUTE, raw=r % 2)), rej)
        both_raws(measure, 99, START + 10 * MINUTE)
        return run(measure, START + 10 * MINUTE, seconds=3)

    assert life(restart=True) == life(restart=False)
