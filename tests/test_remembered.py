"""Memory of what was made is bounded, and the oldest goes first.

Mutations seen red: nothing deleted; all deleted; the latest deleted; a name that is there already makes others go;
tokens of long values remembered, of a bound one too short or too far, or not counted each time that they are made.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.keyring import KeyRing
from pipeline.remembered import Remembered
from pipeline.stages.block import Blocked
from pipeline.stages.tokenize import REMEMBERED_CHARS, Tokens

CANARY = "canary@example.com"


@given(st.integers(1, 200), st.lists(st.integers(0, 300), max_size=400))
def test_at_most_so_many_are_kept_and_nearly_as_many_and_the_latest(most: int, names: list[int]) -> None:
    found: Remembered[int] = Remembered(most)
    for n in names:
        assert found.keep(str(n), n) == n
        assert len(found) <= most
        assert found[str(n)] == n
    new = list(dict.fromkeys(reversed(names)))
    assert len(found) >= min(len(new), most - most // 64)
    if most < 64:  # one at a time
        kept: dict[str, int] = {}
        for n in names:
            if len(kept) == most and str(n) not in kept:
                del kept[next(iter(kept))]
            kept[str(n)] = n
        assert list(found.items()) == list(kept.items())


def test_many_go_at_once() -> None:
    found: Remembered[int] = Remembered(640)
    for n in range(641):
        found.keep(str(n), n)
    assert list(found) == [str(n) for n in range(11, 641)]


def test_what_is_kept_is_not_in_a_repr() -> None:
    found: Remembered[str] = Remembered(2)
    found.keep(CANARY, CANARY)
    assert repr(found) == str(found) == "Remembered(1 of 2)"


def test_so_many_values_of_a_kind_are_remembered_with_their_tokens() -> None:
    tokens = Tokens(KeyRing.generate(bytes, 0).tokenizer(), Blocked(), remembered=10)
    email = tokens.at(0).makers["email"]
    made = [email(f"{n}@example.com") for n in range(12)]
    assert tokens.made() == {1: 12}
    assert [email(f"{n}@example.com") for n in range(2, 12)] == made[2:]
    assert not tokens.made()
    assert [email(f"{n}@example.com") for n in range(2)] == made[:2]
    assert tokens.made() == {1: 2}


def test_long_values_are_not_remembered_and_count_each_time_that_their_token_is_made() -> None:
    tokens = Tokens(KeyRing.generate(bytes, 0).tokenizer(), Blocked())
    user_id = tokens.at(0).makers["user_id"]
    longest = "\U0001f600" * REMEMBERED_CHARS
    assert user_id(longest) == user_id(longest)
    assert tokens.made() == {1: 1}
    for value in (longest + "x", "x" * 1_024, "\ud800" * (REMEMBERED_CHARS + 1)):
        assert user_id(value) == user_id(value)
        assert tokens.made() == {1: 2}
    ((_, maker),) = [(v, m) for v, m in tokens._remembering if m]
    assert list(maker) == [longest]
