"""What is nobody's makes no token, however it is written; what is somebody's is left as it is.

Mutations seen red: no case folding; NFC for NFKC; characters that do not show kept; white space kept; `match` for
`fullmatch`; literals not normalised; a kind's literals without everybody's; patterns on long values; values without a
normal form not looked at; values looked at as they were sent; in `extract`: a blocked one counted as unusable, the last
identifier's BLOCKED as the anchor; no check for what blocks everybody; counts not passed on.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.stages.block import Block, Blocked, blocks
from pipeline.stages.extract import BLOCKED, Makers
from pipeline.stages.normalize import KINDS, normal
from pipeline.stages.tokenize import Tokens
from tests.stages.event_world import RECEIVED, ring, rules

SHIPPED = rules().blocked
SPACES = " \t\n\r\u00a0\u2003\u3000"
HIDDEN = "\ufeff\u200b\u2060\u00ad"
WIDE = {c: chr(c + 0xFEE0) for c in range(0x21, 0x7F)} | {0x20: "\u3000"}


@cache
def makers(listed: bool = True) -> Makers:
    found = Tokens(ring().tokenizer(), SHIPPED if listed else Blocked()).at(RECEIVED).makers
    return found


def literals(kind: str) -> list[str]:
    return [*SHIPPED.literals, *SHIPPED.kinds.get(kind, Block()).literals, "0", "000", "'null'", uuid_of("0")]


def uuid_of(digit: str) -> str:
    return "-".join(digit * n for n in (8, 4, 4, 4, 12))


JUNK = [(kind, literal) for kind in KINDS for literal in literals(kind)]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(JUNK), st.data())
def test_a_blocked_value_makes_no_token_however_it_is_written(junk: tuple[str, str], data: st.DataObject) -> None:
    kind, literal = junk
    cased = "".join(data.draw(st.sampled_from([c, c.upper(), c.swapcase()])) for c in literal)
    wide = "".join(data.draw(st.sampled_from([c, c, WIDE[ord(c)]])) for c in cased)
    around = st.text(SPACES + HIDDEN, max_size=3)
    at = data.draw(st.integers(0, len(wide)))
    hidden = data.draw(st.text(HIDDEN, max_size=1))
    sent = data.draw(around) + wide[:at] + hidden + wide[at:] + data.draw(around)
    assert makers()[kind](sent) == BLOCKED


def expected(kind: str, form: str) -> bool:
    """The rule, said once more: for values without characters that do not show."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", form).casefold())
    folded = re.sub(r"\s+", " ", folded).strip()
    more = SHIPPED.kinds.get(kind, Block())
    return bool(folded) and (
        folded in {*SHIPPED.literals, *more.literals}
        or any(re.fullmatch(p, folded) for p in (*SHIPPED.patterns, *more.patterns))
    )


near_misses = st.sampled_from(JUNK).flatmap(lambda j: st.sampled_from([j[1] + "1", "x" + j[1], j[1] * 2, j[1][:-1]]))
values = st.one_of(
    st.text(st.characters(exclude_categories=["Cf", "Cs"]), max_size=40), near_misses, st.emails(), st.uuids().map(str)
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(KINDS)), values)
@example("user_id", "nullable")
@example("email", "noreply.smith@example.com")
@example("user_id", "no-reply@example.com")
@example("device_id", "test@test.com")
def test_a_value_that_is_not_blocked_is_unchanged(kind: str, value: str) -> None:
    form = normal(kind, value)
    if not expected(kind, value if form is None else form):
        assert makers()[kind](value) == makers(listed=False)[kind](value) != BLOCKED


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("email", "no-reply@shop.example"),
        ("email", "DoNotReply@shop.example"),
        ("email", "null"),  # junk, though no address
        ("email", "test@test.com."),
        ("phone", "0000"),
        ("advertising_id", uuid_of("0")),
        ("anonymous_id", uuid_of("F")),
        ("device_id", "9774D56D682E549C"),
    ],
)
def test_the_shipped_list_blocks(kind: str, value: str) -> None:
    assert makers()[kind](value) == BLOCKED


def test_what_has_no_normal_form_and_is_no_junk_is_unusable_as_before() -> None:
    assert makers()["email"]("ada") is None
    assert makers()["user_id"]("  ") is None


def test_a_literal_is_taken_in_the_normal_form_of_its_kind() -> None:
    question = blocks(Blocked(kinds={"phone": Block(literals=("+1 (415) 555-0100",))}), "phone")
    assert question("+14155550100")
    assert not question("+14155550101")
    assert not blocks(Blocked(kinds={"phone": Block(literals=("x",))}), "email")("x")


def test_an_empty_value_is_absent_and_not_blocked() -> None:
    assert not blocks(Blocked(literals=(" ",), patterns=(".*",)), "user_id")("\u200b ")


def test_a_pattern_takes_either_case_and_the_whole_value() -> None:
    question = blocks(Blocked(patterns=("QA-[0-9]+",)), "user_id")
    assert question("qa-7")
    assert question("QA-7")
    assert not question("qa-7x")
    assert not question("xqa-7")


def test_a_long_value_meets_no_pattern() -> None:
    question = blocks(Blocked(patterns=("x+",)), "user_id")
    assert question("x" * 256)
    assert not question("x" * 257)


def test_a_value_is_looked_at_once() -> None:
    tokens = Tokens(ring().tokenizer(), SHIPPED)
    for value in ("null", "u-1") * 3:
        tokens.at(RECEIVED).makers["user_id"](value)
    assert tokens.made() == {1: 2}
