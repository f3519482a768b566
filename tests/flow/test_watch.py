"""The watch leg as a whole: what is counted, when it is judged, what is told.

Mutations seen red: alerts before the state; partials add up instead of merging; an outbox is not sent again; an idle
sender holds windows up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import AlertStatus, RawRecord
from pipeline.flow.watch import WatchConfig, WatchLeg
from pipeline.ports import STATE
from pipeline.stages.gather import Gather
from pipeline.stages.score import FeatureRow, Kind, RobustScorer, Tail
from pipeline.stages.watch_rows import KeyRow, Partial, Progress

from .watch_world import CANARY, START, Crash, DictTable, World

MINUTE = 60_000
SCHEMAS = ("order_completed/1", "track/1", "page/1")


class Recorder:
    """Scores as the robust scorer, and notes what it was asked."""

    def __init__(self, config: WatchConfig) -> None:
        self.robust = RobustScorer(config)
        self.asked: dict[tuple[str, int], set[tuple[int, int]]] = {}

    def score(self, rows: Sequence[FeatureRow]) -> list[Tail | None]:
        for row in rows:
            self.asked.setdefault((row.watched, row.window), set()).add((row.events, row.rejected))
        return self.robust.score(rows)


def three_hours(seed: int = 1) -> list[tuple[int, str]]:
    """180 minutes of three sources: `app` goes wild (×20) from 90 to 100, `shop` is silent from 120 on."""
    rng = random.Random(seed)
    events = []
    for minute in range(180):
        for source, rate in (("web", 40), ("app", 15), ("shop", 20)):
            usual = rate * (20 if source == "app" and 90 <= minute < 100 else 1)
            n = 0 if source == "shop" and minute >= 120 else max(1, round(rng.gauss(usual, usual**0.5)))
            events += [(START + minute * MINUTE + rng.randrange(MINUTE), source) for _ in range(n)]
    return sorted(events)


def demo(world: World, events: list[tuple[int, str]], *, per_tick: int, limit: int = 1 << 30) -> None:
    rng = random.Random(7)
    world.now = START + 181 * MINUTE
    for i, (at, source) in enumerate(events):
        world.event(source, at, rng.randrange(500), schema=rng.choice(SCHEMAS), reject=rng.random() < 0.01)
        if i % per_tick == per_tick - 1:
            world.tick(limit=limit)
    world.settle(10, limit=limit)


def minute_of(world: World, status: str, kind: str, watched: str) -> list[int]:
    return [
        (at - START) // MINUTE for at, a in world.alerts if (a.status, a.kind, a.watched) == (status, kind, watched)
    ]


@pytest.mark.parametrize("per_tick", [200, 2_000, 1_000_000])
def test_three_hours_in_seconds_tell_the_wild_source_and_the_silent_one(per_tick: int) -> None:
    world = World(WatchConfig(partitions=4, idle_ms=1_000))
    demo(world, three_hours(), per_tick=per_tick)
    assert minute_of(world, "trigger", "rate", "source=app") == [91]
    assert minute_of(world, "resolve", "rate", "source=app") == [102]
    assert minute_of(world, "trigger", "silence", "source=shop") == [123]
    assert not [line for line in world.told() if "web" in line]
    assert {line.split(",")[0] for line in world.told("reject_share")} == set()


def test_raw_partitions_that_arrive_one_after_the_other_lose_nothing() -> None:
    world = World(WatchConfig(partitions=4, idle_ms=1_000))
    world.now = START + 181 * MINUTE
    world.settle(5)  # the worker was there before, and everything is idle
    events = three_hours()
    rng = random.Random(7)
    people = [rng.randrange(500) for _ in events]
    for raw in range(4):
        for (at, source), person in zip(events, people, strict=True):
            if person % 4 == raw:
                world.event(source, at, person)
        world.tick(world.now + 200)
    world.settle(10)
    assert world.counts[("watched", "")] == len(events)
    assert ("late", "event") not in world.counts
    assert minute_of(world, "trigger", "rate", "source=app") == [91]
    assert minute_of(world, "trigger", "silence", "source=shop") == [123]


@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_the_number_of_partitions_changes_no_alert(partitions: int) -> None:
    def alerts(n: int) -> list[bytes]:
        world = World(WatchConfig(partitions=n, idle_ms=1_000))
        demo(world, three_hours(), per_tick=1_000)
        return sorted(msgspec.json.encode(a) for a in world.alerts)

    assert alerts(partitions) == alerts(4)


def test_in_real_time_silence_is_told_by_the_clock_when_nobody_else_speaks() -> None:
    world = World(WatchConfig(partitions=2))
    for second in range(40 * 60):
        if second % 6 == 0:
            world.event("shop", START + second * 1000, second)
        world.tick()
    assert world.told() == []
    world.settle(6 * 60)
    assert "trigger silence source=shop" in world.told()
    [at] = [at for at, a in world.alerts if a.watched == "source=shop" and a.status == AlertStatus.TRIGGER]
    assert (at - START) // MINUTE == 43  # 40 minutes of events, 3 without
    for second in range(180):
        world.event("shop", world.now, second)
        world.tick()
    world.settle(120)
    assert "resolve silence source=shop" in world.told()


def test_the_clock_tells_no_silence_while_records_wait_at_the_broker() -> None:
    world = World(WatchConfig(partitions=1))
    for second in range(40 * 60):
        world.event("shop", START + second * 1000, second)
        world.tick()
    world.event("shop", world.now, 1)
    world.settle(20 * 60, limit=0)
    assert world.told() == []


def test_a_partition_whose_worker_is_gone_holds_nobody_up_for_long() -> None:
    world = World(WatchConfig(partitions=4))
    for minute in range(60):
        if minute == 40:
            world.dead = {3}
        for n in range(60):
            world.event("shop", START + (minute * 60 + n) * 1000, n)
            world.tick()
    living = [part for p, part in enumerate(world.parts) if p not in world.dead]
    frontier = min(part._gather._frontier for part in living)  # type: ignore[attr-defined]
    assert frontier * MINUTE >= START + 57 * MINUTE


def test_free_text_of_an_event_is_in_no_message_and_no_alert() -> None:
    world = World(WatchConfig(partitions=2, idle_ms=1_000))
    demo(world, three_hours(), per_tick=5_000)
    everything = [r.value or b"" for log in world.logs["watch"] for r in log]
    everything += [value for tables in world.tables for t in tables.values() for value in t.durable.values()]
    everything += [msgspec.json.encode(a) for _, a in world.alerts]
    assert len(everything) > 1_000
    assert not [value for value in everything if CANARY.encode() in value or b"person" in value]


def test_a_flood_of_source_names_is_bounded_and_silences_nobody() -> None:
    config = WatchConfig(partitions=1, idle_ms=1_000, max_sources=20, max_keys=50)
    world = World(config)
    world.now = START + 60 * MINUTE
    for minute in range(60):
        for n in range(10):
            world.event("shop", START + minute * MINUTE + n, n)
        if minute >= 30:
            for n in range(500):
                world.event(f"x{minute}-{n}", START + minute * MINUTE + 20, n)
        world.tick()
    world.settle(5)
    assert len(world.tables[0]["watch-state"]) <= 50
    assert not [line for line in world.told() if line.startswith("trigger silence source=shop")]
    assert any("source=(other)" in watched for watched in world.parts[0]._gather._due)  # type: ignore[attr-defined]


def test_messages_go_first_then_state_then_alerts() -> None:
    part = WatchLeg(WatchConfig(partitions=1)).open(0, dict(World(WatchConfig(partitions=1)).tables[0]))
    messages, state, outputs = part.drain().phases
    assert (list(messages), state, list(outputs)) == (["watch"], STATE, ["alerts"])


def test_an_alert_that_a_crash_held_back_is_told_by_the_next_life() -> None:
    world = World(WatchConfig(partitions=1, idle_ms=1_000))
    world.now = START + 181 * MINUTE
    for minute in range(60):
        for n in range(20 if minute < 50 else 0):
            world.event("shop", START + minute * MINUTE + n * 1000, n)
        world.event("web", START + minute * MINUTE, 1)
    for _ in range(10):
        try:
            world.tick(crash_after=2)  # state durable, alerts not published, nothing acknowledged
        except Crash:
            durable = [msgspec.msgpack.decode(v, type=KeyRow) for v in world.tables[0]["watch-state"].durable.values()]
            if any(row.outbox for row in durable):
                break
            world.committed = dict(world.read)  # as if the checkpoint had been finished
    else:
        pytest.fail("no alert")
    assert world.alerts == []
    world.restart()
    world.settle(5)
    assert world.told().count("trigger silence source=shop") == 1
    world.restart()
    world.settle(5)
    assert world.told().count("trigger silence source=shop") == 1, "told again, although it was published"


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[str, int]]:
    """What happens each second: events come, protect repeats itself, the worker crashes, the time jumps."""
    step = st.one_of(
        st.tuples(st.just("events"), st.integers(1, 40)),
        st.tuples(st.just("again"), st.integers(1, 30)),
        st.tuples(st.just("crash"), st.integers(0, 3)),
        st.tuples(st.just("minute"), st.integers(1, 2)),
    )
    return draw(st.lists(step, min_size=5, max_size=60))


@settings(max_examples=60, deadline=None)
@given(lives(), st.integers(1, 3))
def test_every_event_is_counted_once_through_crashes_and_repetitions(
    steps: list[tuple[str, int]], partitions: int
) -> None:
    config = WatchConfig(partitions=partitions, settle_ms=1_000, idle_ms=10_000, stale_ms=600_000, grace_ms=600_000)
    recorder = Recorder(config)
    world = World(config, recorder)
    rng = random.Random(5)
    truth: Counter[tuple[str, int, bool]] = Counter()

    def events(n: int) -> None:
        for _ in range(n):
            source, schema, reject = rng.choice(("shop", "web")), rng.choice(SCHEMAS), rng.random() < 0.2
            at = world.now - rng.randrange(3_000)
            world.event(source, at, rng.randrange(9), schema=schema, reject=reject)
            for watched in (f"source={source}", f"source={source},event={schema.partition('/')[0]}"):
                truth[watched, at // MINUTE, reject] += 1

    for what, n in steps:
        if what == "events":
            events(n)
        elif what == "again":
            world.protect_again(n % partitions, n)
        elif what == "minute":
            for _ in range(n * 60):
                events(rng.randrange(2))
                world.tick()
        elif what == "crash":
            try:
                world.tick(crash_after=n)
            except Crash:
                world.restart()
        world.tick()
    last = world.now // MINUTE
    for _ in range(200):  # everybody speaks on, so that the windows close by record time
        for person in range(9):
            world.event("end", world.now, person)
            world.event("end", world.now, person, reject=True)
        world.tick()
    for watched, window, _ in truth:
        if window < last:
            counts = truth[watched, window, False], truth[watched, window, True]
            assert recorder.asked[watched, window] == {(sum(counts), counts[1])}


def test_each_question_is_about_rate_and_share_of_one_key() -> None:
    config = WatchConfig(partitions=1, idle_ms=1_000)
    kinds: list[Kind] = []

    class Kinds(Recorder):
        def score(self, rows: Sequence[FeatureRow]) -> list[Tail | None]:
            kinds.extend(row.kind for row in rows)
            return super().score(rows)

    world = World(config, Kinds(config))
    demo(world, three_hours()[:2_000], per_tick=500)
    assert kinds[::2] == [Kind.RATE] * (len(kinds) // 2)
    assert kinds[1::2] == [Kind.REJECT_SHARE] * (len(kinds) // 2)


def test_a_sender_that_is_idle_holds_up_no_window() -> None:
    config = WatchConfig(partitions=2)
    gather = Gather(config, DictTable(), RobustScorer(config))
    size = config.window_ms
    messages = [
        Partial("source=shop", size, 1, 0, accepted=5),
        Progress(size, 0, until=9),
        Progress(size, 1, until=1, idle=True),
    ]
    gather.fold([RawRecord(i, START, b"k", msgspec.json.encode(m)) for i, m in enumerate(messages)])
    gather.tick(START, True)
    gather.judge()
    gather.save()
    gather.fold([RawRecord(9, START, b"k", msgspec.json.encode(messages[0]))])
    assert gather.counts[("late", "partial")] == 1, "the window was judged"
