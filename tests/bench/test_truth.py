"""The figures of `bench identity-truth` are what they say, and the rules are better than none where it matters.

Mutations seen red: n pairs of n units; identifiers of many people scored; rejected events in one profile; events of a
kiosk alone in one profile; a rule that is not removed; no limits in `decide`; each Febrl record a person.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench import febrl, households, truth
from bench.households import BEGIN, Sent
from pipeline.stages.block import Blocked
from tests.stages.event_world import rules

SEED = 3
RULES = rules()
ANN, BOB = 1, 2


def sent(person: int, at: int, **event: Any) -> Sent:
    return Sent(person, BEGIN + at, {"type": "track", "event": "E", "messageId": f"m-{at}", **event})


HAND_MADE = [
    sent(ANN, 0, anonymousId="tablet", userId="ann"),
    sent(ANN, 1, anonymousId="anns", userId="ann"),
    sent(BOB, 2, anonymousId="tablet", userId="bob"),
    sent(BOB, 3, anonymousId="bobs", userId="bob"),
    sent(BOB, 4, anonymousId="tablet"),  # nobody signed in
    sent(BOB, 5, anonymousId="bobs again"),  # a new cookie
    sent(BOB, 6, userId="null"),
]


def judged(name: str) -> truth.Row:
    changed = dict(truth.cases(RULES))[name]
    events = truth.protect(HAND_MADE, changed.blocked, SEED)
    return truth.judge(name, events, [s.person for s in HAND_MADE], changed)


def test_pairs_are_counted() -> None:
    # profile 1: A A B; profile 2: B; so 3 pairs found, 1 of them right; true: A's 1 and B's 1
    assert truth.score([(1, "A"), (1, "A"), (1, "B"), (2, "B")]) == (1 / 3, 1 / 2, 2 / 5)
    assert truth.score([(1, "A"), (2, "B")]) == (1, 1, 1)
    assert truth.score([]) == (1, 1, 1)


def test_identifiers_of_one_person_and_all_events_are_scored() -> None:
    found = judged("all rules")
    # identifiers: ann+anns | bob+bobs | bobs again; the tablet is nobody's. 2 pairs, both right, of 1 + 3 true ones
    assert found.identifiers == (1, 1 / 2, 2 / 3)
    # the tablet goes with ann, who was first: (0 1 4) (2 3) (5) (6, rejected): 3 + 1 pairs, 1 + 1 right, of 1 + 10
    assert found.events == (2 / 4, 2 / 11, 4 / 15)
    assert found.largest == 3


def test_without_rules_a_shared_device_makes_one_person_of_two() -> None:
    found = judged("no rules")
    assert found.identifiers.precision == pytest.approx(2 / 6)  # ann, anns, bob, bobs
    assert found.largest == 5


def test_an_event_that_only_shows_a_shared_identifier_is_in_nobodys_profile() -> None:
    kiosk = [
        s
        for i in range(60)
        for s in (sent(i, 2 * i, anonymousId="kiosk", userId=f"u-{i}"), sent(i, 2 * i + 1, anonymousId="kiosk"))
    ]
    found = truth.judge("", truth.protect(kiosk, RULES.blocked, SEED), [s.person for s in kiosk], RULES)
    assert found.events == (1, 0, 0)


def test_what_many_had_is_no_own_identifier() -> None:
    events = truth.protect(HAND_MADE, RULES.blocked, SEED)
    people = [s.person for s in HAND_MADE]
    own = truth._own(events, people)
    assert [None if e is None else sorted(e.tokens) for e in own] == [
        ["userId"],
        ["anonymousId", "userId"],
        ["userId"],
        ["anonymousId", "userId"],
        None,
        ["anonymousId"],
        None,
    ]


def test_each_rule_is_removed_alone() -> None:
    removed = dict(truth.cases(RULES))
    assert removed["without blocked"].blocked == Blocked()
    assert removed["without blocked"].kinds == RULES.kinds
    assert removed["without limit.user_id"].kinds["user_id"].limit == 0
    assert removed["without limit.user_id"].kinds["email"] == RULES.kinds["email"]
    assert removed["without shared"].limits.cluster_tokens == RULES.limits.cluster_tokens
    assert all(changed != RULES for name, changed in removed.items() if name != "all rules")


def test_the_rules_tell_the_visitors_of_a_kiosk_apart() -> None:
    _, rows = truth.generated(RULES, 120, SEED, lambda _: None)
    found = {row.rules: row for row in rows}
    rules_, none, there = found["all rules"], found["no rules"], found["own identifiers alone"]
    assert rules_.identifiers.precision > 0.95 > 0.2 > none.identifiers.precision
    assert rules_.events.f1 > 2 * none.events.f1
    assert there.identifiers.precision == there.events.precision == 1
    assert none.largest > 5 * rules_.largest


def test_the_same_seed_gives_the_same_events_and_figures() -> None:
    assert households.events(40, SEED) == households.events(40, SEED) != households.events(40, SEED + 1)
    once, twice = (truth.generated(RULES, 40, SEED, lambda _: None) for _ in range(2))
    assert once == twice


def test_every_event_that_is_no_junk_is_protected() -> None:
    events = households.events(60, SEED)
    lost = [s for s, e in zip(events, truth.protect(events, Blocked(), SEED), strict=True) if e is None]
    assert not lost
    assert b"null" in msgspec.json.encode([s.event for s in events])


RECORDS = [
    ("rec-0-org", {"soc_sec_id": "6988048", "given_name": "ada", "surname": "waller", "date_of_birth": "19081209"}),
    ("rec-0-dup-0", {"soc_sec_id": "6988408", "given_name": "ada", "surname": "waller", "date_of_birth": "19081209"}),
    ("rec-1-org", {"soc_sec_id": "7364009", "surname": "berry", "date_of_birth": "19990219"}),
    ("rec-1-dup-0", {"soc_sec_id": "7364009", "given_name": "lachlan"}),
]


@pytest.mark.parametrize(("names", "recall"), [(False, 1 / 2), (True, 1)])
def test_febrl_records_join_by_what_is_equal_in_them(names: bool, recall: float) -> None:
    events = [s for n, (record, fields) in enumerate(RECORDS) for s in febrl.as_sent(record, fields, n, names)]
    found = febrl.judge(truth.protect(events, RULES.blocked, SEED), events, RULES)
    assert (found.precision, found.recall) == (1, recall)
