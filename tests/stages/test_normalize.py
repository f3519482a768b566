"""Equal people, equal forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.normalize import KINDS, normal


@pytest.mark.parametrize(
    ("kind", "sent", "form"),
    [
        ("email", " Ada.Love+tag@Example.COM ", "ada.love+tag@example.com"),
        ("email", "ada.love@example.com.", "ada.love@example.com"),
        ("email", "\uff41da@example.com", "ada@example.com"),  # full-width
        ("email", "STRASSE@example.com", "strasse@example.com"),
        ("email", "straße@example.com", "strasse@example.com"),
        ("email", "zoe\u0308@example.com", "zoë@example.com"),
        ("email", "ada@", None),
        ("email", "@example.com", None),
        ("email", "a@b@c", None),
        ("email", "a b@example.com", None),
        ("email", "a\x00b@example.com", None),
        ("email", "ada", None),
        ("phone", "+1 (415) 555-0100", "+14155550100"),
        ("phone", "0041 44 668 18 00", "+41446681800"),
        ("phone", "+49 (0)30 1234567", "+49301234567"),
        ("phone", "\uff0b1 415 555 0100", "+14155550100"),
        ("phone", "030 1234567", None),  # of which country?
        ("phone", "+1 1", None),
        ("phone", "call me", None),
        ("user_id", " U-1 ", "U-1"),
        ("user_id", "u-1", "u-1"),
        ("user_id", "e\u0301", "é"),
        ("user_id", "   ", None),
        ("anonymous_id", "5F0C2B1E-0000-4000-8000-00000000000A", "5f0c2b1e-0000-4000-8000-00000000000a"),
        ("advertising_id", "AEBE52E7-03EE-455A-B3C4-E57283966239", "aebe52e7-03ee-455a-b3c4-e57283966239"),
        ("advertising_id", "00000000-0000-0000-0000-000000000000", None),
    ],
)
def test_the_normal_form_of(kind: str, sent: str, form: str | None) -> None:
    assert normal(kind, sent) == form


@given(st.sampled_from(sorted(KINDS)), st.text(max_size=60))
def test_a_normal_form_is_its_own_normal_form(kind: str, sent: str) -> None:
    form = normal(kind, sent)
    assert form is None or (form and normal(kind, form) == form)


def test_what_no_identifier_can_be_has_no_form() -> None:
    assert normal("user_id", "x" * 1025) is None
    assert normal("user_id", "\ud800") is None


def test_user_ids_keep_their_case_since_hosts_tell_them_apart() -> None:
    assert normal("user_id", "Ab") != normal("user_id", "aB")
