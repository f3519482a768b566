"""What is kept of a token's events is a function of their set, within its bounds.

Mutations seen red: an origin counts twice; the last event to arrive writes a trait.
"""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.fold import MAX_NAME, NARROW, OTHER, Event, EventOrigin, count, cut, fold
from pipeline.stages.identity_rows import Row, decode_row, encode
from pipeline.stages.link import Bounds

BOUNDS = Bounds(event_names=5, traits=3, sources=2)


def event(offset: int, *, partition: int = 0, time: int = 0, name: str = "Viewed", source: str = "shop") -> Event:
    origin = EventOrigin("events.raw", "", partition, offset)
    return Event(f"{offset:032x}", origin, source, "track", time, 1_000 + offset, "user_id.1." + "0" * 32, name)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=60), st.randoms(use_true_random=False))
def test_each_origin_counts_once_in_any_order(origins: list[tuple[int, int]], rng: random.Random) -> None:
    row = Row()
    rng.shuffle(origins)
    for partition, offset in origins:
        fold(row, event(offset, partition=partition), "events.raw\0", None, BOUNDS)
        row = decode_row(encode(row))
    assert (row.facts.events if row.facts else {}) == ({"Viewed": len(set(origins))} if origins else {})


def test_what_is_remembered_of_origins_is_bounded_and_nothing_counts_twice() -> None:
    row = Row()
    for _ in range(2):
        for offset in range(0, 5_000, 3):
            fold(row, event(offset), "events.raw\0", None, BOUNDS)
    assert row.facts is not None
    assert row.facts.events == {"Viewed": len(range(0, 5_000, 3))}
    assert len(encode(row)) < 4 * NARROW + 200


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.randoms(use_true_random=False))
def test_counters_beyond_the_bound_are_counted_together_whatever_came_first(
    names: list[str], rng: random.Random
) -> None:
    def counted() -> dict[str, int]:
        found: dict[str, int] = {}
        for name in names:
            count(found, name, 1, 5)
        return found

    one = counted()
    rng.shuffle(names)
    assert counted() == one
    assert sum(one.values()) == len(names)
    assert len(one.keys() - {OTHER}) <= 5


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("pqrst"), st.integers(0, 9)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_latest_event_writes_a_trait_not_the_last_to_arrive(
    written: list[tuple[int, str, int]], rng: random.Random
) -> None:
    made = [(event(i, time=time), {name: msgspec.json.encode(value)}) for i, (time, name, value) in enumerate(written)]

    def traits() -> dict[str, bytes]:
        row = Row()
        for e, found in made:
            fold(row, e, "events.raw\0", found, BOUNDS)
        return {name: trait[-1] for name, trait in sorted(row.facts.traits.items())} if row.facts else {}

    in_order = traits()
    rng.shuffle(made)
    assert traits() == in_order
    last = {
        name: (time, i, value) for i, (time, name, value) in sorted(enumerate(written), key=lambda w: (w[1][0], w[0]))
    }
    assert in_order == {name: msgspec.json.encode(last[name][2]) for name in sorted(last)[:3]}


@given(st.lists(st.sampled_from(["app", "desk", "shop", "web"]), max_size=20))
def test_sources_beyond_the_bound_are_the_first_in_order(sources: list[str]) -> None:
    row = Row()
    for i, source in enumerate(sources):
        fold(row, event(i, source=source), "events.raw\0", None, BOUNDS)
    assert (row.facts.sources if row.facts else []) == sorted(set(sources))[:2]


@given(st.text(max_size=300), st.text(max_size=300))
def test_long_names_are_cut_and_stay_apart(one: str, other: str) -> None:
    try:
        one.encode(), other.encode()
    except UnicodeEncodeError:
        return
    assert len(cut(one)) <= MAX_NAME
    assert (cut(one) == cut(other)) == (one == other)
