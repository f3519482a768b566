"""Counts over all profiles.

Mutations seen red: sizes without ranges, or one off; a limit of one is reached; devices at the bound; profiles above
the cap only; several near ones, or one side only; a limit reached one later; windows ignored; two of a kind are a
singleton; the smallest for the largest; kinds that no rule names left out.
"""

from __future__ import annotations

from pipeline.events import ProtectedEvent
from pipeline.explain.evidence import gather
from pipeline.explain.stats import Stats, stats
from pipeline.stages.reference import profile_id
from tests.explain.test_evidence import sightings
from tests.stages.identity_events import DAY, RULES, anonymous, device, email, phone, seen, token, user

U1, U2, E1, D1 = user(1), user(2), email(1), device(1)


def counted(*events: ProtectedEvent, more_than: int = 3) -> Stats:
    return stats(gather(sightings(*events)), RULES, more_than)


def test_profiles_are_counted_by_size_and_identifiers_by_kind() -> None:
    group = token("group_id", 1)
    crowd = [seen(10 + n, U1, anonymous(n)) for n in range(5)]
    found = counted(seen(0, U2, group), seen(1, anonymous(90)), seen(2, E1, D1), *crowd)
    assert found.profiles == 4
    assert found.sizes == {"1": 2, "2": 1, "6-10": 1}
    assert found.identifiers == {"user_id": 2, "email": 1, "device_id": 1, "anonymous_id": 6}
    assert found.undermerge.singletons == {"user_id": 1, "anonymous_id": 1}
    oldest = min(crowd, key=lambda e: e.received_at)
    assert found.overmerge.largest[0] == (profile_id(oldest.event_id), 6)


def test_two_of_a_kind_are_no_singleton_and_kinds_that_no_rule_names_come_last() -> None:
    found = counted(seen(0, anonymous(1), anonymous(2), kind="alias"), seen(1, token("a_shoe_size", 1)))
    assert found.undermerge.singletons == {"a_shoe_size": 1}
    assert list(found.identifiers.items()) == [("anonymous_id", 2), ("a_shoe_size", 1)]


def test_conflicts_shared_and_decisions_are_counted() -> None:
    kiosk = [seen(n, user(10 + n), D1) for n in range(4)]
    found = counted(
        *kiosk,
        seen(20, U1, E1, time=1),
        seen(21, U2, E1, time=2),
        seen(22, U1, user(3), kind="link"),
        seen(23, U1, user(4), kind="cut"),
    )
    assert found.conflicts == {"limit.user_id": 1, "shared": 4}
    assert found.shared == {"device_id": 1}
    assert (found.links, found.cuts) == (1, 1)


def test_profiles_at_a_limit_hint_at_too_many_joins() -> None:
    emails = [seen(n, U1, email(n)) for n in range(2)]
    assert counted(*emails).overmerge.at_limit == {"email": 1}
    assert counted(emails[0]).overmerge.at_limit == {}  # nor is one user_id too much: more are not allowed


def test_a_limit_within_a_window_is_reached_within_it() -> None:
    assert counted(seen(0, U1, phone(1), time=0), seen(1, U1, phone(2), time=DAY)).overmerge.at_limit == {}
    assert counted(seen(0, U1, phone(1), time=0), seen(1, U1, phone(2), time=5)).overmerge.at_limit == {"phone": 1}


def test_many_devices_and_the_cap_hint_at_too_many_joins() -> None:
    devices = [seen(n, U1, device(n)) for n in range(4)]
    assert counted(*devices).overmerge.many_devices == {"device_id": 1}
    assert counted(*devices[:3]).overmerge.many_devices == {}
    found = counted(*(seen(n, U1, anonymous(n)) for n in range(14))).overmerge
    assert (found.at_cluster_cap, found.capped) == (1, 3)


def test_a_profile_that_one_refusal_keeps_from_exactly_one_other_hints_at_too_few() -> None:
    two = [seen(0, U1, D1, time=1), seen(1, U2, D1, time=2)]
    assert counted(*two).undermerge.one_refusal_apart == 2
    third = counted(*two, seen(2, user(3), D1, time=3)).undermerge
    assert third.one_refusal_apart == 2  # the first now has two beside it
    assert third.by_rule == {"limit.user_id": 2}


def test_nothing_is_counted_of_nothing() -> None:
    found = counted()
    assert (found.profiles, found.sizes, found.conflicts) == (0, {}, {})
