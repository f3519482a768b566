"""Who is who: each rule by hand, and what must hold for every set of events.

Mutations seen red: the first to arrive is the first sighting, of an edge or a token; ties by arrival; edges by time
alone, or by text; links are held back by limits; the last decision to arrive holds, or the earliest; shared identifiers
join; neighbours of any kind count; shared one too early; a linked pair is an edge as well; cuts and first sightings are
forgotten at a join; a window is the whole of time, one ms longer, or over unsorted times; the cap one too early; a
limit holds for what only one side brings; nothing joins; what links nothing is a neighbour; decisions are sightings;
two key versions are two identifiers for limits, neighbours or the cap.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import ProtectedEvent
from pipeline.stages.link import Rules
from pipeline.stages.reference import Ruling, decide
from tests.stages.identity_events import (
    DAY,
    RULES,
    again,
    anonymous,
    device,
    email,
    new,
    phone,
    rules,
    seen,
    token,
    user,
)

U1, U2, E1, E2, E3, D1, A1, A2 = user(1), user(2), email(1), email(2), email(3), device(1), anonymous(1), anonymous(2)


def ruled(*events: ProtectedEvent, by: Rules = RULES) -> Ruling:
    """The ruling, which must be the same whatever the order of the events."""
    ruling = decide(events, by)
    rng = random.Random(1)
    for _ in range(5):
        assert plain(decide(rng.sample(events, len(events)), by)) == plain(ruling)
    return ruling


def plain(ruling: Ruling) -> tuple[object, ...]:
    """What may be compared: lists whose order says nothing are sorted."""
    people, joined, within, refused, links, cuts, shared, first = ruling
    return sorted(people), joined, within, refused, sorted(links), cuts, shared, first


def people(ruling: Ruling) -> list[set[str]]:
    return [set(p) for p in sorted(ruling.people)]


def together(ruling: Ruling, *tokens: str) -> bool:
    return any(set(tokens) <= set(p) for p in ruling.people)


def refused(ruling: Ruling) -> dict[tuple[str, str], str]:
    return {(r.edge.a, r.edge.b): r.rule for r in ruling.refused}


TOKENS = [f(n) for f in (user, email, phone, device, anonymous) for n in range(4)] + [token("group_id", 0)]


@st.composite
def event_sets(draw: st.DrawFn, decisions: tuple[str, ...] = ("link", "cut")) -> list[ProtectedEvent]:
    kinds = st.sampled_from(("track", "track", "track", "identify", *decisions))
    found = []
    for n in range(draw(st.integers(0, 25))):
        kind = draw(kinds)
        few = (2, 2) if kind in decisions else (1, 4)
        tokens = draw(st.lists(st.sampled_from(TOKENS), min_size=few[0], max_size=few[1], unique=True))
        time = draw(st.sampled_from((0, 5, 5, 7, DAY, 3 * DAY)))
        found.append(seen(n, *tokens, time=time, kind=kind))
    return found


# -- edges ------------------------------------------------------------------------------------------------------------


def test_tokens_of_one_event_are_one_person_and_strangers_are_not() -> None:
    ruling = ruled(seen(0, U1, E1, D1), seen(1, A1, D1), seen(2, U2))
    assert people(ruling) == sorted([{U1, E1, D1, A1}, {U2}], key=min)
    assert not ruling.refused


def test_every_token_of_an_event_is_joined_to_its_anchor_not_to_each_other() -> None:
    ruling = ruled(seen(0, U1, E1, D1))
    assert {(e.a, e.b) for e in ruling.joined} == {tuple(sorted((U1, E1))), tuple(sorted((U1, D1)))}


def test_the_first_sighting_of_an_edge_is_the_earliest_by_event_time_then_by_event_id() -> None:
    late, early, same = seen(0, U1, E1, time=9), seen(1, U1, E1, time=5, source="app"), seen(2, U1, E1, time=5)
    (edge,) = ruled(late, early, same).joined
    first = min(early, same, key=lambda e: e.event_id)
    assert (edge.time, edge.event_id, edge.source) == (5, first.event_id, first.source)


def test_a_kind_that_links_nothing_is_nobody_s_neighbour() -> None:
    group = token("group_id", 1)
    ruling = ruled(seen(0, U1, group), seen(1, U2, group), seen(2, group))
    assert people(ruling) == sorted([{U1}, {U2}, {group}], key=min)
    unknown = token("shoe_size", 1)
    assert not together(ruled(seen(0, U1, unknown), seen(1, U2, unknown)), U1, U2)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_limit_binds_and_the_earlier_edge_of_equal_kinds_wins() -> None:
    events = [seen(0, U1, E1, time=30), seen(1, U2, E1, time=20), seen(2, U1, D1, time=5)]
    ruling = ruled(*events)
    assert together(ruling, U2, E1)
    assert together(ruling, U1, D1)
    assert refused(ruling) == {(E1, U1): "limit.user_id"}


def test_the_stronger_kinds_win_over_the_earlier_sighting() -> None:
    """U1 met the device first; but its e-mail ties it to U2, and e-mails rank before devices."""
    ruling = ruled(seen(0, U1, D1, time=1), seen(1, E1, D1, time=2), seen(2, U2, E1, time=99))
    assert refused(ruling) == {tuple(sorted((D1, E1))): "limit.user_id"}
    assert together(ruling, U1, D1)
    assert together(ruling, U2, E1)


def test_of_equal_times_the_event_id_decides() -> None:
    one, two = seen(0, U1, D1), seen(1, U2, D1)
    first = min(one, two, key=lambda e: e.event_id)
    ruling = ruled(one, two)
    assert together(ruling, first.anchor, D1)


def test_a_limit_of_more_than_one_holds_for_the_profile_not_for_the_edge() -> None:
    ruling = ruled(*(seen(n, U1, email(n), time=n) for n in range(1, 5)))
    assert together(ruling, U1, email(1), email(2))
    assert refused(ruling) == {(email(3), U1): "limit.email", (email(4), U1): "limit.email"}


def test_an_edge_between_tokens_that_are_one_already_breaks_no_limit() -> None:
    ruling = ruled(seen(0, U1, E1, time=1), seen(1, U1, D1, time=2), seen(2, E1, D1, time=3))
    assert [(e.a, e.b) for e in ruling.within] == [tuple(sorted((D1, E1)))]
    assert not ruling.refused


def test_a_limit_with_a_window_counts_first_sightings_within_any_such_span() -> None:
    def phones(*times: int) -> Ruling:
        return ruled(*(seen(n, U1, phone(n), time=t) for n, t in enumerate(times)))

    assert refused(phones(0, DAY - 2, DAY - 1)) == {(phone(2), U1): "limit.phone"}
    assert not phones(0, 5, DAY).refused
    assert not phones(*(n * DAY for n in range(10))).refused
    crowded = phones(0, 10 * DAY, 10 * DAY + 5, 20 * DAY, 10 * DAY + 9)
    assert refused(crowded) == {(phone(4), U1): "limit.phone"}


def test_a_late_event_with_an_earlier_time_takes_an_edge_away() -> None:
    before = [seen(0, U1, D1, time=50), seen(1, U1, E1, time=60)]
    assert together(ruled(*before), U1, D1, E1)
    after = ruled(*before, seen(2, U2, D1, time=10))
    assert together(after, U2, D1)
    assert together(after, U1, E1)
    assert refused(after) == {(D1, U1): "limit.user_id"}


def test_a_profile_at_the_cap_grows_no_more() -> None:
    ruling = ruled(*(seen(n, U1, anonymous(n), time=n) for n in range(15)))
    assert max(map(len, ruling.people)) == RULES.limits.cluster_tokens
    assert set(refused(ruling)) == {tuple(sorted((U1, anonymous(n)))) for n in range(11, 15)}
    assert set(refused(ruling).values()) == {"cluster_tokens"}


@pytest.mark.parametrize("clock", [0, -1, 4_102_444_800_000, 253_402_300_799_999])
def test_clocks_of_1970_and_2100_are_times_like_any_other(clock: int) -> None:
    ruling = ruled(seen(0, U1, D1, time=1_790_000_000_000), seen(1, U2, D1, time=clock), seen(2, U1, phone(1), time=0))
    first = U2 if clock < 1_790_000_000_000 else U1
    assert together(ruling, first, D1)
    assert list(refused(ruling).values()) == ["limit.user_id"]


# -- shared -----------------------------------------------------------------------------------------------------------


def test_a_shared_token_joins_nobody_but_keeps_its_conflicts() -> None:
    ruling = ruled(*(seen(n, user(n), D1, time=n) for n in range(4)))
    assert ruling.shared == {D1: 4}
    assert all(len(p) == 1 for p in ruling.people)
    assert set(refused(ruling).values()) == {"shared"}
    assert len(ruling.refused) == 4
    assert not ruled(*(seen(n, email(n), D1) for n in range(3))).shared


def test_only_neighbours_of_an_equal_or_stronger_kind_make_a_token_shared() -> None:
    ruling = ruled(*(seen(n, D1, anonymous(n)) for n in range(9)))
    assert not ruling.shared
    assert together(ruling, D1, *(anonymous(n) for n in range(9)))
    few = rules(("email = { priority = 2,", "email = { priority = 2, shared = 3,"))
    assert not ruled(*(seen(n, E1, phone(n), time=n * DAY) for n in range(9)), by=few).shared


def test_what_is_seen_a_million_times_with_few_is_not_shared() -> None:
    assert not ruled(*(seen(n, user(n % 3), D1) for n in range(40))).shared


# -- two key versions -------------------------------------------------------------------------------------------------


def test_two_tokens_of_one_identifier_count_once_for_a_limit() -> None:
    before = [seen(0, U1, E1), seen(1, U1, E2)]
    ruling = ruled(
        *before, *(again(e, n, former=True) for n, e in enumerate(before, 2)), seen(9, new(U1), new(E3), time=900 * DAY)
    )
    assert together(ruling, U1, new(U1), E1, new(E1), E2, new(E2))
    assert refused(ruling) == {(new(E3), new(U1)): "limit.email"}
    assert not together(ruled(*before, *(again(e, n, former=False) for n, e in enumerate(before, 2))), U1, new(U1))


def test_they_count_once_as_neighbours_and_for_the_cap() -> None:
    before = [seen(n, user(n), D1) for n in range(3)]
    both = [*before, *(again(e, n, former=True) for n, e in enumerate(before, 3))]
    assert not ruled(*both).shared
    assert ruled(*both, seen(9, user(9), D1)).shared == {D1: 4}
    crowd = [seen(n, U1, anonymous(n)) for n in range(11)]
    ruling = ruled(*crowd, *(again(e, n, former=True) for n, e in enumerate(crowd, 11)))
    assert [len(p) for p in ruling.people] == [24]
    assert not ruling.refused


def test_what_is_shared_under_both_versions_is_two_and_stays_alone() -> None:
    by = rules(("device_id = {", "device_id = { limit = 1,"))
    before = [seen(n, user(n), D1) for n in range(4)]
    both = [*before, *(again(e, n, former=True) for n, e in enumerate(before, 4))]
    assert ruled(*both, by=by).shared == {D1: 4, new(D1): 4}
    assert not together(ruled(*both, by=by), D1, new(D1))
    linked = [seen(20, D1, A1, kind="link"), seen(21, new(D1), A2, kind="link"), seen(22, A1, A2, time=900 * DAY)]
    assert refused(ruled(*both, *linked, by=by))[A1, A2] == "limit.device_id"


@settings(max_examples=100)
@given(event_sets(decisions=()))
def test_a_rotation_neither_parts_nor_joins_those_who_come_in_its_overlap(events: list[ProtectedEvent]) -> None:
    by = rules(("shared = 3", "shared = 50"), ("cluster_tokens = 12", "cluster_tokens = 50"))
    before = decide(events, by)
    after = decide([*events, *(again(e, n, former=True) for n, e in enumerate(events, len(events)))], by)
    found = [sorted(p) for p in after.people if not p[0].startswith("group_id")]  # it joins nobody
    assert sorted(found) == sorted(sorted([*p, *map(new, p)]) for p in before.people if not p[0].startswith("group_id"))


# -- operators' decisions ---------------------------------------------------------------------------------------------


def test_a_link_joins_over_limits_and_over_shared() -> None:
    kiosk = [seen(n, user(n), D1) for n in range(4)]
    ruling = ruled(*kiosk, seen(9, user(1), user(2), kind="link"), seen(10, user(3), D1, kind="link"))
    assert together(ruling, user(1), user(2))
    assert together(ruling, user(3), D1)
    assert not together(ruling, user(0), D1)
    assert len(ruling.links) == 2


def test_a_link_of_two_that_were_seen_together_stands_in_for_their_edge() -> None:
    ruling = ruled(seen(0, U1, E1), seen(1, U1, E1, kind="link"))
    assert ruling.joined == ruling.links
    assert not ruling.within


def test_a_link_of_what_was_never_seen_is_a_person_as_well() -> None:
    assert people(ruled(seen(0, A1, A2, kind="link"))) == [{A1, A2}]


def test_a_cut_keeps_two_apart_although_others_connect_them() -> None:
    events = [seen(0, E1, D1, time=1), seen(1, E2, D1, time=2), seen(2, E1, A1, time=3), seen(3, E2, A1, time=4)]
    assert together(ruled(*events), E1, E2)
    ruling = ruled(*events, seen(4, E1, E2, kind="cut"))
    assert together(ruling, E1, D1, A1)
    assert not together(ruling, E1, E2)
    assert refused(ruling) == {tuple(sorted((D1, E2))): "cut", tuple(sorted((A1, E2))): "cut"}


def test_a_cut_holds_for_the_profiles_of_its_tokens_and_against_links() -> None:
    events = [seen(0, E1, A1, time=1), seen(1, E2, A2, time=2), seen(2, E1, E2, kind="cut")]
    ruling = ruled(*events, seen(3, A1, A2, kind="link"))
    assert together(ruling, E1, A1, A2)  # links come first: what the cut takes away is an edge that was only seen
    assert not together(ruling, E1, E2)
    assert list(refused(ruling).values()) == ["cut"]


@pytest.mark.parametrize(("kinds", "one"), [(("link", "cut"), False), (("cut", "link"), True)])
def test_of_two_decisions_the_later_one_holds(kinds: tuple[str, str], one: bool) -> None:
    decisions = [seen(n, U1, E1, time=10 + n, kind=kind) for n, kind in enumerate(kinds)]
    assert together(ruled(*decisions), U1, E1) is one
    assert together(ruled(seen(5, U1, E1), *decisions), U1, E1) is one


def test_a_decision_is_no_sighting() -> None:
    """Nor does it count as a neighbour: else operators could make a kiosk."""
    ruling = ruled(*(seen(n, user(n), D1) for n in range(3)), seen(9, user(9), D1, kind="cut"))
    assert not ruling.shared


# -- alias ------------------------------------------------------------------------------------------------------------


def test_cyclic_aliases_are_one_person() -> None:
    three = [A1, A2, anonymous(3)]
    ruling = ruled(*(seen(n, three[n], three[(n + 1) % 3], time=n, kind="alias") for n in range(3)))
    assert people(ruling) == [set(three)]
    assert len(ruling.joined) == 2
    assert len(ruling.within) == 1


def test_an_alias_to_itself_says_nothing() -> None:
    ruling = ruled(seen(0, A1, A1, kind="alias"))
    assert people(ruling) == [{A1}]
    assert not ruling.joined + ruling.within


# -- every set of events ----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(event_sets(), st.randoms(use_true_random=False), st.data())
def test_neither_order_nor_duplication_changes_anything(
    events: list[ProtectedEvent], rng: random.Random, data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    mixed = [*events, *again]
    rng.shuffle(mixed)
    assert plain(decide(mixed, RULES)) == plain(decide(events, RULES))


@settings(max_examples=60)
@given(event_sets(decisions=()))
def test_every_profile_is_within_the_limits_and_every_refusal_keeps_two_apart(events: list[ProtectedEvent]) -> None:
    ruling = decide(events, RULES)
    everybody = [t for p in ruling.people for t in p]
    assert len(everybody) == len(set(everybody))
    assert set(everybody) == {t for e in events for t in (e.anchor, *e.tokens.values()) if shown(t, e)}
    first: dict[str, int] = {}
    for e in events:
        for t in (e.anchor, *e.tokens.values()):
            first[t] = min(first.get(t, e.time), e.time)
    for person in ruling.people:
        assert len(person) <= RULES.limits.cluster_tokens
        count = Counter(t.split(".")[0] for t in person)
        assert count["user_id"] <= 1
        assert count["email"] <= 2
        times = sorted(first[t] for t in person if t.startswith("phone."))
        assert all(late - early >= DAY for early, late in zip(times, times[2:], strict=False))
    of = {t: n for n, p in enumerate(ruling.people) for t in p}
    for edge, _ in ruling.refused:
        assert of[edge.a] != of[edge.b]
    for edge in (*ruling.joined, *ruling.within):
        assert of[edge.a] == of[edge.b]
    assert len(ruling.joined) == len(everybody) - len(ruling.people)


def shown(found: str, event: ProtectedEvent) -> bool:
    """Tokens that link nothing, and what is with them, are people of their own where they are anchors only."""
    return found == event.anchor or (RULES.links(found.split(".")[0]) and RULES.links(event.anchor.split(".")[0]))


@settings(max_examples=60)
@given(event_sets())
def test_a_cut_holds_and_what_is_far_away_does_not_matter(events: list[ProtectedEvent]) -> None:
    ruling = decide(events, RULES)
    of = {t: n for n, p in enumerate(ruling.people) for t in p}
    assert all(of[a] != of[b] for a, b in ruling.cuts)
    far = [seen(100, user(50), email(50), time=3), seen(101, user(51), email(50), time=2)]
    with_far = decide([*far, *events], RULES)
    assert sorted(with_far.people) == sorted([*ruling.people, *decide(far, RULES).people])
    assert {r for r in with_far.refused if r.edge.a not in (email(50),)} == set(ruling.refused)
