"""Versions of the rules and the marker of a refold, as they stand on `control`; and what forbids a refold.

Mutations seen red: a digest is not compared; version 0 is one; other keys are taken for it; each blocker left out;
missing changelogs block a repetition; missing sources do not.
"""

from __future__ import annotations

import msgspec
import pytest

from pipeline.adapters import refold
from pipeline.adapters.refold import Found, Plan
from pipeline.adapters.rules_version import RulesVersion, Unreadable, digest_of, of

KEY = b"identity/rules"
VERSION = RulesVersion(3, "version = 1", "", digest_of("version = 1", ""), 1_790_000_000_000, "why")


def test_the_last_version_reads_back() -> None:
    assert of({KEY: msgspec.json.encode(VERSION), b"partitions/earlier": b"{}"}) == VERSION
    assert of({b"partitions/earlier": b"{}"}) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"version":1}',
        msgspec.json.encode(msgspec.structs.replace(VERSION, rules="version = 2")),
        msgspec.json.encode(msgspec.structs.replace(VERSION, computed="version = 1")),
        msgspec.json.encode(msgspec.structs.replace(VERSION, version=0)),
        msgspec.json.encode({**msgspec.to_builtins(VERSION), "of_a_later_release": 1}),
    ],
)
def test_what_is_no_version_is_an_error_that_says_what_to_do(value: bytes) -> None:
    with pytest.raises(Unreadable, match="identity apply RULES"):
        of({KEY: value})


def test_the_digest_tells_the_texts_apart() -> None:
    assert digest_of("ab", "") != digest_of("a", "b") != digest_of("", "ab")


PLAN = Plan(
    control="control",
    leg="identify",
    group="g",
    events="events.protected",
    messages="identity",
    sources=("events.protected", "identity"),
    changelogs=("tokens", "evidence"),
)
READY = Found(
    members=0,
    starts={0: 0, 1: 0},
    partitions=dict.fromkeys(("events.protected", "identity", "tokens", "evidence"), 2),
    earlier=(),
    begun=False,
)


def without(*names: str) -> dict[str, int]:
    return {name: count for name, count in READY.partitions.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"members": 1}, "stop the identify workers"),
        ({"starts": {0: 0, 1: 7}}, "lost its beginning in 1 partitions"),
        ({"earlier": (4,)}, "had fewer partitions once"),
        ({"partitions": without("tokens")}, "topics are missing: tokens;"),
        ({"partitions": without("identity"), "begun": True}, "topics are missing: identity;"),
        ({"partitions": {**READY.partitions, "tokens": 4}}, "resize"),
    ],
)
def test_what_forbids_a_refold(change: dict[str, object], reason: str) -> None:
    (found,) = refold.blockers(PLAN, msgspec.structs.replace(READY, **change))
    assert reason in found


@pytest.mark.parametrize("change", [{}, {"partitions": without("tokens", "evidence"), "begun": True}, {"begun": True}])
def test_what_does_not(change: dict[str, object]) -> None:
    assert refold.blockers(PLAN, msgspec.structs.replace(READY, **change)) == []
