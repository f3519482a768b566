"""Identifiers as an operator names them; no message holds a value.

Mutations seen red: one key version only; any kind; tokens are made tokens of; whole tokens for short ones; no token at
all is an answer, nor is that of a blocked value; the value begins behind the last colon.
"""

from __future__ import annotations

import pytest

from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.errors import Misuse
from pipeline.explain.names import short, tokens_of
from pipeline.stages.block import Blocked
from pipeline.stages.tokenize import Tokens
from tests.stages.event_world import RECEIVED, Leg, event, ring
from tests.stages.identity_events import email

CANARY = "canary.31dd@example.com"
BLOCKED = Blocked(literals=("nobody",))


def tokens() -> Tokens:
    return Tokens(ring().tokenizer(), BLOCKED)


def no_keys() -> Tokens:
    raise AssertionError("a token needs no key")


def test_a_token_is_taken_as_it_is_without_a_key() -> None:
    assert tokens_of(email(1), no_keys, RECEIVED) == [email(1)]


def test_a_value_gives_the_token_that_its_events_have() -> None:
    _, found = Leg().one(event(context={"traits": {"email": CANARY}}))
    assert tokens_of(f"email: {CANARY.upper()}", tokens, RECEIVED) == [found["tokens"]["context.traits.email"]]


def test_a_value_with_colons_is_whole() -> None:
    assert tokens_of("user_id:a:b", tokens, RECEIVED) != tokens_of("user_id:a", tokens, RECEIVED)


def test_each_version_of_the_key_gives_one_the_latest_first() -> None:
    found = ring()
    second = RingKey(Purpose.TOKEN, 2, KeyState.ACTIVE, RECEIVED, bytes(32))
    both = Tokens(KeyRing(found.kek, [*found.keys, second]).tokenizer(), BLOCKED)
    names = tokens_of("user_id:u", lambda: both, RECEIVED)
    assert [name.split(".")[1] for name in names] == ["2", "1"]
    assert [name.split(".")[1] for name in tokens_of("user_id:u", lambda: both, RECEIVED - 1)] == ["1"]


@pytest.mark.parametrize(
    "text", [CANARY, f"mail:{CANARY}", f"email.1.{CANARY}", "", ":", f"phone:{CANARY}", "email:", "user_id:Nobody"]
)
def test_what_names_nothing_is_refused_without_its_value(text: str) -> None:
    with pytest.raises(Misuse) as refused:
        tokens_of(text, tokens, RECEIVED)
    assert CANARY not in str(refused.value)


def test_a_short_token_has_its_kind_and_eight_digits() -> None:
    assert short("email.12." + "abcdef0123456789" * 2) == "email.12.abcdef01…"
    assert short("other") == "other"
