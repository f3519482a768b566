"""What became of a profile, as Kafka received its events.

Mutations seen red: the cause's Kafka time for its own; no merges; no splits; a cut is a late event; nothing is late;
conflicts told again and again; a conflict that left told as settled, or settled ones as new; groups and mute anchors
connect a component; all events are of it; a decision founds a profile; any event of an anchor does; the last moment
left out; no bound; the profile ids of before; an erasure is not told, or once for each of its markers; who was erased
was split off; the id after an erasure is nobody's.
"""

from __future__ import annotations

from pipeline.events import ProtectedEvent
from pipeline.explain.evidence import gather
from pipeline.explain.timeline import Timeline, What, component, founder, timeline
from pipeline.stages.reference import profile_id
from tests.explain.test_evidence import sightings
from tests.stages.identity_events import RULES, anonymous, device, email, erasure, rules, seen, token, user

U1, U2, E1, D1, A1, A2 = user(1), user(2), email(1), device(1), anonymous(1), anonymous(2)


def told(focus: str, *events: ProtectedEvent, work: int = 1_000_000) -> Timeline:
    return timeline(gather(sightings(*events)), RULES, focus, work=work)


def short(found: Timeline) -> list[tuple[str, list[str]]]:
    return [(e.what.value, e.tokens) for e in found.entries]


def test_a_profile_is_seen_gains_and_merges_each_with_the_event_behind_it() -> None:
    events = [seen(0, A1), seen(1, A2, time=5), seen(2, U1, A1), seen(3, U1, A2, kind="identify", source="app", time=9)]
    found = told(U1, *events)
    assert short(found) == [
        ("first_seen", [U1]),
        ("merged", [A1]),
        ("merged", [A2]),
    ]
    old, newer = profile_id(events[0].event_id), profile_id(events[1].event_id)
    assert found.entries[2].profiles == [newer]
    assert found.entries[2].cause.event_id == events[3].event_id
    assert (found.entries[2].cause.source, found.entries[2].cause.time) == ("app", 9)
    assert {e.profile_id for e in found.entries} == {old}
    assert found.entries[2].received_at == events[3].received_at
    assert (found.profile_id, found.tokens) == (old, sorted([U1, A1, A2]))
    assert short(told(A1, *events)) == [("first_seen", [A1]), ("gained", [U1]), ("merged", [A2])]


def test_it_goes_by_when_events_were_received_not_by_their_own_times() -> None:
    found = told(A1, seen(0, A1, time=90), seen(1, A1, A2, time=1, at=999_999))
    assert short(found) == [("first_seen", [A1, A2])]
    assert found.entries[0].received_at == 999_999


def test_a_late_event_splits_and_says_so() -> None:
    events = [seen(0, U1, D1, time=50), seen(1, U2), seen(2, U2, D1, time=10)]
    found = told(U1, *events)
    assert short(found) == [("first_seen", sorted([U1, D1])), ("split", [D1]), ("conflict", sorted([D1, U1]))]
    split = found.entries[1]
    assert (split.rule, split.late) == ("limit.user_id", True)
    assert split.profiles == [profile_id(events[1].event_id)]
    assert split.cause.event_id == events[2].event_id


def test_a_conflict_that_leaves_with_its_identifier_is_not_settled() -> None:
    third = [seen(1, user(3), D1, time=60), seen(2, U2)]
    found = told(U1, seen(0, U1, D1, time=50), *third, seen(3, U2, D1, time=10))
    assert [e.what.value for e in found.entries] == ["first_seen", "conflict", "split", "conflict"]


def test_a_stronger_sighting_splits_without_being_late() -> None:
    found = told(U1, seen(0, U1, D1, time=1), seen(1, E1, D1, time=2), seen(2, U2, E1, time=9))
    split = next(e for e in found.entries if e.what is What.SPLIT)
    assert split.tokens == [E1]
    assert not split.late


def test_a_cut_splits_and_a_later_link_settles_it() -> None:
    cut, link = seen(2, E1, A1, kind="cut", time=5), seen(3, E1, A1, kind="link", time=6)
    found = told(U1, seen(0, U1, E1), seen(1, E1, A1), cut, link)
    assert [e.what.value for e in found.entries] == [
        *("first_seen", "gained", "split", "conflict", "merged", "settled")
    ]
    split, conflict = found.entries[2], found.entries[3]
    assert (split.rule, split.late, split.tokens, split.profiles) == ("cut", False, [A1], [None])
    assert (conflict.rule, conflict.tokens) == ("cut", sorted([E1, A1]))
    assert found.entries[4].cause.event_id == link.event_id


def test_a_kiosk_that_becomes_shared_splits_those_it_joined() -> None:
    found = told(email(0), *(seen(n, email(n), D1, time=n) for n in range(4)))
    split = next(e for e in found.entries if e.what is What.SPLIT)
    assert split.rule == "shared"
    assert D1 in split.tokens


def test_only_the_component_counts_and_groups_do_not_connect_it() -> None:
    group = token("group_id", 1)
    events = sightings(seen(0, U1, A1, group), seen(1, U2, A2, group), seen(2, A1, D1), seen(3, group))
    assert component(events, RULES, U1) == [events[0], events[2]]
    mute = rules(("user_id = { priority = 1, limit = 1 }", "user_id = { priority = 1, links = false }"))
    apart = sightings(seen(0, U1, E1), seen(1, U1, email(2)))
    assert component(apart, mute, U1) == apart
    assert component(apart, mute, E1) == []
    far = sightings(seen(0, U1, A1, time=1), seen(1, U2, A1), seen(2, U2, E1), seen(3, E1, D1, kind="cut"), seen(4, D1))
    assert component(far, RULES, U1) == far


def test_a_profile_is_found_by_an_id_of_the_past() -> None:
    events = sightings(seen(0, U1, E1, kind="link"), seen(1, A1), seen(2, U1), seen(3, U1, A1))
    assert founder(events, RULES, profile_id(events[2].event_id)) == U1
    assert founder(events, RULES, profile_id(events[1].event_id)) == A1
    assert founder(events, RULES, profile_id(events[0].event_id)) is None  # a decision makes no profile
    assert founder(events, RULES, profile_id(events[3].event_id)) is None  # not the first of U1


def test_work_is_bounded_and_the_end_is_the_same() -> None:
    events = [seen(n, U1, anonymous(n), time=n) for n in range(200)]
    whole, bounded = told(U1, *events), told(U1, *events, work=1_000)
    assert (whole.at_once, whole.events) == (1, 200)
    assert bounded.at_once == 32
    assert len(bounded.entries) < len(whole.entries)
    assert (bounded.tokens, bounded.profile_id) == (whole.tokens, whole.profile_id)
    conflicts = [[e.tokens for e in t.entries if e.what is What.CONFLICT] for t in (whole, bounded)]
    assert sorted(conflicts[0]) == sorted(conflicts[1])


def test_nothing_is_told_of_what_was_never_seen() -> None:
    found = told(U2, seen(0, U1))
    assert (found.profile_id, found.tokens, found.entries, found.events) == (None, [], [], 0)


def test_an_erasure_is_told_once_and_what_comes_afterwards_is_seen_for_the_first_time() -> None:
    events = [seen(0, U1, D1), erasure(1, U1), erasure(2, U1, time=2_000_000), seen(3, U1, E1)]
    found = told(U1, *events)
    assert short(found) == [("first_seen", sorted([U1, D1])), ("erased", [U1]), ("first_seen", sorted([U1, E1]))]
    assert found.entries[1].cause.event_id == events[1].event_id
    assert found.profile_id == profile_id(events[3].event_id)
    gathered = gather(sightings(*events))
    assert {founder(gathered, RULES, profile_id(events[n].event_id)) for n in (0, 3)} == {U1}


def test_one_of_a_profile_is_erased() -> None:
    found = told(D1, seen(0, U1, D1), seen(1, D1), erasure(2, U1))
    assert short(found) == [("first_seen", sorted([D1, U1])), ("erased", [U1])]
    assert (found.tokens, found.profile_id) == ([D1], profile_id(seen(1, D1).event_id))
