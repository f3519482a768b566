"""The few events that decide: as good as all of them.

Mutations seen red: decisions about the same two are one; events of different tokens are one; only the earliest by its
own time is kept, or only the first received; what a later one replaces is kept; ordered by their own times; a decision
founds a profile; what was erased counts as what came after it; periods go by markers alone, or by times alone.
"""

from __future__ import annotations

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.events import ProtectedEvent
from pipeline.explain.evidence import People, Sighting, gather
from tests.stages.identity_events import DAY, RULES, device, email, erasure, phone, seen, user

TOKENS = [f(n) for f in (user, email, phone, device) for n in range(3)]


def sightings(*events: ProtectedEvent) -> list[Sighting]:
    return [msgspec.json.decode(msgspec.json.encode(e), type=Sighting) for e in events]


@st.composite
def histories(draw: st.DrawFn) -> list[Sighting]:
    """Events whose own times have little to do with when they were received."""
    events = []
    for n in range(draw(st.integers(0, 20))):
        kind = draw(st.sampled_from(("track", "track", "track", "link", "cut", "erase")))
        if kind == "erase":
            time, at = draw(st.sampled_from((0, 2, 9))), draw(st.integers(0, 5))
            made = erasure(n, draw(st.sampled_from(TOKENS)), time=time, at=at)
            events.append(replace(made, origin=replace(made.origin, incarnation=draw(st.sampled_from(("", "anew"))))))
            continue
        size = (2, 2) if kind in ("link", "cut") else (1, 3)
        tokens = draw(st.lists(st.sampled_from(TOKENS), min_size=size[0], max_size=size[1], unique=True))
        time, at = draw(st.sampled_from((0, 5, 9, DAY))), draw(st.integers(0, 5))
        events.append(seen(n, *tokens, time=time, at=at, kind=kind))
    return sightings(*events)


@settings(max_examples=100)
@given(histories(), st.randoms(use_true_random=False))
def test_what_is_gathered_rules_as_all_events_do_and_so_does_each_beginning(
    events: list[Sighting], rng: random.Random
) -> None:
    mixed = [*events, *events[:3]]
    rng.shuffle(mixed)
    found = gather(mixed)
    assert found == sorted(found, key=lambda e: e.received)
    for until in range(6):
        some, few = ([e for e in part if e.received_at <= until] for part in (events, found))
        whole = People(sorted(some, key=lambda e: e.received), RULES)
        part = People(few, RULES)
        assert sorted(part.tokens) == sorted(whole.tokens)
        assert part.ruling.joined == whole.ruling.joined
        assert part.ruling.refused == whole.ruling.refused
        assert {t: part.profile(t) for t in part.of} == {t: whole.profile(t) for t in whole.of}
        assert part.founders == whole.founders


def test_what_repeats_is_forgotten() -> None:
    events = sightings(*(seen(n, user(1), email(1), time=n) for n in range(100)))
    assert gather(events) == gather(reversed(events)) == events[:1]
    again = seen(51, user(1), email(1))
    both = sightings(*(seen(n, user(1), email(1), time=n) for n in range(50)), erasure(50, user(1)), again)
    assert [e.origin.offset for e in gather(both)] == [0, 50, 51]
    late = sightings(*(seen(n, user(1), email(1), time=100 - n) for n in range(100)))
    assert len(gather(late)) == 100  # each was earlier than all before it


def test_a_profile_has_the_id_of_its_oldest_event_and_decisions_are_none() -> None:
    people = People(sightings(seen(0, user(1), user(2), kind="link"), seen(1, user(2)), seen(2, user(1))), RULES)
    assert people.profile(user(1)) == people.profile(user(2))
    assert people.founders.keys() == {user(1), user(2)}
    assert People(sightings(seen(0, user(1), user(2), kind="link")), RULES).profile(user(1)) is None
