"""Operators' decisions through the protect leg: tokens as they are, from one source, and nothing else about anybody.

Mutations seen red: a kind that there is not makes a token; version 0; other digits; a trailing newline passes; the
weaker kind is the anchor, or text alone decides; any source decides; left and right may be equal, or one empty; the
envelope's identifiers become tokens; a schema may lack left or right, have them optional, sealed too, or other
identifiers beside them; other events bring tokens of their own.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pipeline.errors import Misuse
from pipeline.events import ProtectedEvent, RawRecord
from pipeline.stages.decision import SOURCE
from pipeline.stages.recompute import recompute
from pipeline.stages.schema import parse
from tests.flow.identity_world import RULES, World
from tests.stages.event_world import RECEIVED, Leg, document, envelope, event, field, opened, registry
from tests.stages.identity_events import anonymous, device, email, user

OPERATOR = (("source-id", SOURCE.encode()),)
CANARY = "canary.77aa@example.com"


def decision(kind: str = "link", **fields: Any) -> dict[str, Any]:
    made = {"type": kind, "messageId": "m", "left": email(2), "right": user(1), "reason": CANARY, "operator": "olga"}
    return {name: value for name, value in {**made, **fields}.items() if value is not None}


@pytest.mark.parametrize("kind", ["link", "cut"])
def test_a_decision_becomes_a_protected_event_of_its_two_tokens(kind: str) -> None:
    leg = Leg()
    side, found = leg.one(decision(kind, timestamp=5), headers=OPERATOR)
    assert side == "protected"
    assert (found["type"], found["schema"], found["source"]) == (kind, f"identity_{kind}/1", "operator")
    assert found["tokens"] == {"left": email(2), "right": user(1)}
    assert found["time"] == 5
    assert opened(leg, found) == {"reason": CANARY, "operator": "olga"}
    assert CANARY not in json.dumps(found)


@pytest.mark.parametrize(
    ("left", "right", "anchor"),
    [
        (email(2), user(1), user(1)),
        (user(9), email(1), user(9)),
        (anonymous(1), device(2), device(2)),
        (email(2), email(1), email(1)),
        ("email.2." + "0" * 32, "email.10." + "0" * 32, "email.10." + "0" * 32),
    ],
)
def test_the_anchor_is_of_the_stronger_kind_and_of_equal_ones_the_first_by_text(
    left: str, right: str, anchor: str
) -> None:
    assert Leg().one(decision(left=left, right=right), headers=OPERATOR)[1]["anchor"] == anchor


@pytest.mark.parametrize(
    "wrong",
    [
        "email.1.00",
        CANARY,
        email(1).upper(),
        " " + email(1),
        email(1) + "\n",
        email(1).replace(".1.", ".0."),
        email(1).replace("email", "shoe_size"),
        email(1).replace(".1.", ".١."),
        "x" * 2_000,
    ],
)
@pytest.mark.parametrize("path", ["left", "right"])
def test_what_is_no_token_is_rejected_by_field_and_rule_without_its_value(path: str, wrong: str) -> None:
    side, found = Leg().one(decision(**{path: wrong}), headers=OPERATOR)
    assert (side, found["reason"], found["path"]) == ("rejected", "bad_identifier", path)
    assert found["rule"] == "not a usable token"


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"left": user(1)}, "bad_identifier", "right"),
        ({"left": ""}, "no_identifier", "left"),
        ({"right": ""}, "no_identifier", "right"),
        ({"left": None}, "missing_field", "left"),
        ({"reason": None}, "missing_field", "reason"),
        ({"left": 7}, "bad_type", "left"),
    ],
)
def test_a_decision_needs_two_different_tokens_and_a_reason(fields: dict[str, Any], reason: str, path: str) -> None:
    side, found = Leg().one(decision(**fields), headers=OPERATOR)
    assert (side, found["reason"], found["path"]) == ("rejected", reason, path)


@pytest.mark.parametrize("headers", [(), (("source-id", b"shop"),), (("source-id", b"Operator"),)])
def test_nobody_else_decides(headers: Any) -> None:
    side, found = Leg().one(decision(), headers=headers)
    assert (side, found["reason"], found["path"]) == ("rejected", "wrong_source", "source-id")


def test_what_else_a_decision_carries_is_sealed_and_identifies_nobody() -> None:
    leg = Leg()
    more: dict[str, Any] = {"userId": "u-1", "anonymousId": "a", "context": {"traits": {"email": CANARY}}}
    side, found = leg.one(decision(**more), headers=OPERATOR)
    assert side == "protected"
    assert found["tokens"].keys() == {"left", "right"}
    assert opened(leg, found)["$extra"] == more


def test_an_operator_may_send_other_events_as_well() -> None:
    assert Leg().one(event(), headers=OPERATOR)[0] == "protected"


def test_both_decisions_are_shipped() -> None:
    assert registry().generic.keys() >= {"link", "cut"}


@pytest.mark.parametrize(
    "fields",
    [
        [field("left", protect="token", identifier="token", required=True)],
        [field(n, protect="token", identifier="token") for n in ("left", "right")],
        [field(n, protect="token+seal", identifier="token", required=True) for n in ("left", "right")],
        [field(n, protect="token", identifier="email", required=True) for n in ("left", "right")],
        [field(n, protect="token", identifier="token", required=True) for n in ("left", "right", "third")],
        [
            *(field(n, protect="token", identifier="token", required=True) for n in ("left", "right")),
            field("mail", protect="token+seal", identifier="email"),
        ],
    ],
)
def test_a_schema_of_a_decision_names_two_tokens(fields: list[Any]) -> None:
    with pytest.raises(Misuse, match=r"made/1: .*token"):
        parse("made", 1, document(*fields, type_="link"), envelope())


def test_no_other_event_brings_its_own_tokens() -> None:
    with pytest.raises(Misuse, match="left and right"):
        parse("made", 1, document(field("x", protect="token", identifier="token")), envelope())


def test_identify_and_recompute_read_decisions_alike() -> None:
    leg = Leg()
    sent: list[tuple[dict[str, Any], Any]] = [
        (event(userId="u-1", anonymousId="a-1"), ()),
        (event(userId="u-2", anonymousId="a-2"), ()),
    ]
    before, _ = leg.run([record(n, *s) for n, s in enumerate(sent)])
    one, two = (json.loads(before[n])["tokens"] for n in (0, 1))
    decisions = [
        decision("link", left=one["userId"], right=two["userId"]),
        decision("cut", left=two["anonymousId"], right=two["userId"]),
    ]
    after, rejected = leg.run([record(2 + n, d, OPERATOR) for n, d in enumerate(decisions)])
    assert not rejected
    world = World(3)
    lines = [*before.values(), *after.values()]
    for line in lines:
        world.publish(msgspec.json.decode(line, type=ProtectedEvent))
    world.settle()
    profiles = world.profiles()
    assert profiles == list(recompute(lines, RULES))
    tokens = [msgspec.json.decode(p)["tokens"] for p in profiles]
    assert [t.get("user_id") for t in tokens] == [sorted([one["userId"], two["userId"]])]
    assert tokens[0]["anonymous_id"] == [one["anonymousId"]]


def record(offset: int, sent: dict[str, Any], headers: Any) -> RawRecord:
    return RawRecord(offset, RECEIVED + offset, None, json.dumps(sent).encode(), headers)
