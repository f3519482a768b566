"""Why two identifiers are one profile, or why not.

Mutations seen red: the chain goes over edges within a profile; the shortest way instead of the fewest refusals; the
chain backwards, or its steps; a cut told one way round only, or not at all; a limit without its window; the first token
of a step for the shared one; only the first of two unknown ones told; links told as sightings.
"""

from __future__ import annotations

from pipeline.events import ProtectedEvent
from pipeline.explain.chain import Explanation, explain
from pipeline.explain.evidence import gather
from tests.explain.test_evidence import sightings
from tests.stages.identity_events import RULES, anonymous, device, email, phone, seen, token, user

U1, U2, E1, E2, D1, A1, A2 = user(1), user(2), email(1), email(2), device(1), anonymous(1), anonymous(2)


def asked(left: str, right: str, *events: ProtectedEvent) -> Explanation:
    return explain(gather(sightings(*events)), RULES, left, right)


def way(found: Explanation) -> list[tuple[str, str, str]]:
    return [(s.left, s.right, s.refused) for s in found.chain]


def test_one_profile_is_told_by_the_chain_of_joins_with_their_first_sightings() -> None:
    first = seen(1, E1, A1, time=20, source="app")
    found = asked(U1, A2, seen(0, U1, E1, time=9), first, seen(2, E1, A1, time=30), seen(3, A1, A2, time=40))
    assert found.one_profile
    assert found.profiles[0] == found.profiles[1] is not None
    assert way(found) == [(U1, E1, ""), (E1, A1, ""), (A1, A2, "")]
    step = found.chain[1]
    assert (step.time, step.source, step.event_id, step.link) == (20, "app", first.event_id, False)


def test_what_only_was_seen_together_later_is_no_link_of_the_chain() -> None:
    found = asked(E1, D1, seen(0, U1, E1, D1), seen(1, E1, D1, time=99_999))
    assert way(found) == [(E1, U1, ""), (U1, D1, "")]


def test_a_limit_that_keeps_two_apart_is_named_with_its_number() -> None:
    found = asked(U1, U2, seen(0, U1, A1, time=1), seen(1, U2, A1, time=2), seen(2, U1, E1))
    assert not found.one_profile
    assert way(found) == [(U1, A1, ""), (A1, U2, "limit.user_id")]
    assert found.apart is not None
    assert (found.apart.rule, found.apart.why) == ("limit.user_id", "a profile has at most 1 user_id")
    assert found.apart.step == found.chain[1]
    assert len(set(found.profiles)) == 2


def test_a_window_is_part_of_the_limit() -> None:
    found = asked(U1, phone(2), *(seen(n, U1, phone(n), time=n) for n in range(3)))
    assert found.said == "kept apart: a profile has at most 2 phone within 1d"


def test_a_shared_identifier_is_named_with_its_neighbours() -> None:
    found = asked(user(0), user(1), *(seen(n, user(n), D1) for n in range(4)))
    assert found.said == "kept apart: a device_id met 4 others and is shared beyond 3"
    assert way(found) == [(user(0), D1, "shared"), (D1, user(1), "shared")]


def test_the_cap_is_named() -> None:
    found = asked(U1, anonymous(14), *(seen(n, U1, anonymous(n), time=n) for n in range(15)))
    assert found.said == "kept apart: a profile has at most 12 identifiers"


def test_a_cut_is_told_with_the_decision() -> None:
    decision = seen(9, E2, U1, kind="cut", time=77)
    found = asked(E1, E2, seen(0, U1, E1, time=1), seen(1, E1, A1, time=2), seen(2, E2, A1, time=3), decision)
    assert found.said == "kept apart: an operator cut them"
    assert way(found) == [(E1, A1, ""), (A1, E2, "cut")]
    assert found.apart is not None
    assert found.apart.cut is not None
    assert (found.apart.cut.left, found.apart.cut.right) == (U1, E2)
    assert (found.apart.cut.event_id, found.apart.cut.source) == (decision.event_id, "operator")


def test_the_way_with_the_fewest_refusals_is_told_not_the_shortest() -> None:
    events = [seen(0, U1, D1, time=1), seen(1, U2, D1, time=2), seen(2, U1, E1), seen(3, E1, A1), seen(4, A1, A2)]
    kiosk = [seen(10 + n, user(10 + n), device(2)) for n in range(3)]
    found = asked(A2, U2, *events, *kiosk, seen(20, A2, device(2)), seen(21, U2, device(2)))
    assert [s.refused for s in found.chain].count("") == len(found.chain) - 1
    assert found.chain[-1].refused == "limit.user_id"


def test_a_link_is_told_as_such() -> None:
    found = asked(U1, U2, seen(0, U1), seen(1, U2), seen(2, U1, U2, kind="link"))
    assert found.one_profile
    assert found.chain[0].link


def test_strangers_have_nothing_between_them_but_perhaps_a_cut() -> None:
    assert asked(U1, U2, seen(0, U1), seen(1, U2)).said == "nothing ever connected them"
    found = asked(U1, U2, seen(0, U1), seen(1, U2), seen(2, U1, U2, kind="cut"))
    assert (found.chain, found.apart) == ([], None)
    assert found.cut is not None


def test_what_was_never_seen_or_joins_nothing_is_said() -> None:
    assert asked(U1, U2, seen(0, U1)).unknown == [U2]
    group = token("group_id", 1)
    found = asked(U1, group, seen(0, U1, group))
    assert found.said == "identifiers of the kind group_id join nothing"


def test_an_identifier_is_one_profile_with_itself() -> None:
    found = asked(U1, U1, seen(0, U1))
    assert found.one_profile
    assert not found.chain
