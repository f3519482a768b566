"""What other rules would make of the same events.

Mutations seen red: every profile merges; splits in two are none; what linked nothing before is one; only direct
neighbours are of a change; a conflict's rule may change unnoticed; samples by their tokens, or all of them; what is
blocked is passed over; identifiers of one side are left out.
"""

from __future__ import annotations

from pipeline.events import ProtectedEvent
from pipeline.explain.evidence import gather
from pipeline.explain.plan import Plan, plan
from pipeline.stages.reference import profile_id
from tests.explain.test_evidence import sightings
from tests.stages.identity_events import RULES, device, email, phone, rules, seen, user

U1, U2, E1, E2, D1 = user(1), user(2), email(1), email(2), device(1)


def planned(*events: ProtectedEvent, change: tuple[str, str], samples: int = 10) -> Plan:
    return plan(gather(sightings(*events)), RULES, rules(change), samples)


TWO = [seen(0, U1, D1, time=1), seen(1, U2, D1, time=2), seen(2, E1)]
MORE_USERS = ("user_id = { priority = 1, limit = 1 }", "user_id = { priority = 1, limit = 2 }")
NO_DEVICES = ("shared = 3 }", "shared = 3, links = false }")


def test_a_wider_limit_merges() -> None:
    found = planned(*TWO, change=MORE_USERS)
    assert (found.profiles, found.merges, found.splits, found.changes) == ((3, 2), 1, 0, True)
    assert found.conflicts == {"limit.user_id": (1, 0)}
    (sample,) = found.samples
    ids = [profile_id(e.event_id) for e in TWO]
    assert (sample.before, sample.after) == (sorted(ids[:2]), [ids[0]])
    assert sample.tokens == sorted([U1, U2, D1])


def test_a_narrower_limit_takes_identifiers_away() -> None:
    found = planned(
        seen(0, U1, E1),
        seen(1, U1, E2),
        change=("email = { priority = 2, limit = 2", "email = { priority = 2, limit = 1"),
    )
    assert (found.profiles, found.merges, found.splits) == ((1, 1), 0, 1)
    assert found.conflicts == {"limit.email": (0, 1)}
    assert len(found.samples) == 1


def test_what_becomes_shared_splits() -> None:
    events = [seen(n, email(n), D1) for n in range(2)]
    found = planned(*events, change=("shared = 3", "shared = 1"))
    assert (found.profiles, found.splits) == ((1, 2), 1)
    assert found.shared == {"device_id": (0, 1)}


def test_a_kind_that_links_no_more_leaves_profiles() -> None:
    found = planned(seen(0, U1, D1), seen(1, U2, E1), change=NO_DEVICES)
    assert (found.profiles, found.splits, found.changes) == ((2, 2), 1, True)
    back = plan(gather(sightings(seen(0, U1, D1))), rules(NO_DEVICES), RULES)
    assert (back.merges, back.changes) == (1, True)
    many = sightings(seen(0, U1, D1), seen(1, U2, device(2)), seen(2, U2, device(3)))
    assert len(plan(gather(many), rules(NO_DEVICES), RULES).samples) == 2


def test_rules_that_change_nothing_say_so() -> None:
    found = planned(*TWO, change=("cluster_tokens = 12", "cluster_tokens = 13"))
    assert (found.changes, found.samples, found.blocked_differ) == (False, [], False)
    assert found.conflicts == {"limit.user_id": (1, 1)}


def test_what_is_blocked_is_only_said() -> None:
    found = planned(*TWO, change=("[limits]", "[blocked]\nliterals = ['x']\n[limits]"))
    assert (found.changes, found.blocked_differ) == (False, True)


def test_a_conflict_under_another_rule_is_a_change() -> None:
    found = planned(*TWO, change=("cluster_tokens = 12", "cluster_tokens = 2"))
    assert (found.changes, found.samples) == (True, [])
    assert found.conflicts == {"cluster_tokens": (0, 1), "limit.user_id": (1, 0)}


def test_samples_are_bounded_and_the_largest_come_first() -> None:
    events = [seen(n, user(n), device(n // 2), time=n) for n in range(20)]
    events += [seen(100 + n, user(18), phone(n)) for n in range(2)]
    found = planned(*events, change=MORE_USERS, samples=4)
    assert found.merges == 10
    assert len(found.samples) == 4
    assert phone(0) in found.samples[0].tokens
