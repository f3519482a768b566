"""Schemas are read strictly: nothing passes because somebody forgot it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.crypto.subject_rows import SPAN
from pipeline.errors import Misuse
from pipeline.stages.registry import Registry
from pipeline.stages.schema import MAX_SEALED, EventSchema, incompatible, parse
from tests.stages.event_world import document, envelope, field


def made(*fields: Any, version: int = 1, **more: Any) -> EventSchema:
    return parse("made", version, document(*(fields or (field("x"),)), **more), envelope())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (field("x", protect=None), "no protect rule"),
        (field("x", protect="open"), "protect must be one of"),
        ({**field("x"), "confluent:tags": ["PII"]}, "tagged PII"),
        (field("x", protect="token"), "identifier kind"),
        (field("x", protect="token", identifier="shoe_size"), "identifier kind"),
        (field("x", "int", protect="token", identifier="email"), "string type"),
        (field("x", identifier="email"), "makes no token"),
        (field("x", "bytes"), "not supported"),
        ({"name": "x", "type": ["string", "int"], "protect": "clear"}, "union"),
        ({"name": "x", "type": ["null", "string"], "protect": "clear"}, '"default": null'),
        ({"name": "lambda", "type": "string", "protect": "clear"}, "no usable name"),
        ({"name": "a b", "type": "string", "protect": "clear"}, "no usable name"),
        (field("x", {"type": "record", "name": "R", "fields": []}, protect=None), "no fields"),
        (field("x", {"type": "record", "name": "R", "fields": [field("y", protect=None)]}, None), "x.y"),
        (field("x", {"type": "record", "name": "R", "fields": [field("y")]}, "seal"), "protected as a whole"),
        (field("userId"), "names a field twice"),
    ],
)
def test_a_wrong_field_is_refused_with_its_path_and_rule(wrong: Any, says: str) -> None:
    with pytest.raises(Misuse, match=says) as error:
        made(wrong)
    assert "made/1" in str(error.value)


def test_no_event_has_more_values_under_a_persons_key_than_its_limit_counts_on() -> None:
    """62 here, the envelope's userId, and what no field is named for."""
    assert MAX_SEALED * SPAN == 1 << 32
    inner = {"type": "record", "name": "R", "fields": [field(f"y{n}", protect="seal") for n in range(31)]}
    fields = [field("x", inner, None, required=True), *(field(f"z{n}", protect="seal") for n in range(31))]
    made(*fields, field("c"), field("d", protect="drop"), field("t", protect="token", identifier="email"))
    for one_more in (field("e", protect="seal"), field("e", protect="token+seal", identifier="email")):
        with pytest.raises(Misuse, match="made/1: at most 63 fields can be sealed"):
            made(*fields, one_more)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sealstream:type": "purchase"},
        {"sealstream:event": "Order Completed"},
        {"sealstream:compatibility": "sometimes"},
        {"type": "enum"},
    ],
)
def test_a_wrong_record_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(Misuse, match="made/1"):
        parse("made", 1, {**document(field("x")), **wrong}, envelope())


def test_the_envelope_must_have_what_every_event_is_read_by() -> None:
    bare = {"fields": [field("type", required=True)]}
    with pytest.raises(Misuse, match="messageId"):
        parse("made", 1, document(field("x")), bare)
    with pytest.raises(Misuse, match="timestamp"):
        parse("made", 1, document(field("timestamp")), envelope())
    with pytest.raises(Misuse, match="event"):
        parse("made", 1, document(field("x"), type_="track"), envelope())


RECORD = {"type": "record", "name": "R", "fields": [field("y")]}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ([field("x"), field("z")], [field("x")], "z: was removed"),
        ([field("x")], [field("x"), field("z", required=True)], "z: is new"),
        ([field("x", "long")], [field("x", "int")], "its type was long"),
        ([field("x")], [field("x", required=True)], "was optional"),
        ([field("x", protect="seal")], [field("x")], "cannot become clear"),
        ([field("x", protect="drop")], [field("x")], "cannot become clear"),
        (
            [field("x", protect="token", identifier="email")],
            [field("x", protect="token", identifier="phone")],
            "identifier kind was another",
        ),
        ([field("x", RECORD, None)], [field("x", {**RECORD, "fields": [field("q")]}, None)], "x.y: was removed"),
        (
            [field("x", {"type": "enum", "name": "E", "symbols": ["A", "B"]})],
            [field("x", {"type": "enum", "name": "E", "symbols": ["A"]})],
            "lost symbols",
        ),
        ([field("x", {"type": "array", "items": "long"})], [field("x", {"type": "array", "items": "int"})], "type was"),
    ],
)
def test_a_new_version_may_not_break_the_old(old: list[Any], new: list[Any], says: str) -> None:
    first, second = made(*old), made(*new, version=2)
    assert any(says in found for found in incompatible(first, second))
    with pytest.raises(Misuse, match=r"made/2.*not backward compatible"):
        Registry([second, first])
    Registry([first, made(*new, version=2, **{"sealstream:compatibility": "none"})])


def test_a_new_version_may_add_optional_fields_and_widen_numbers() -> None:
    old = made(field("x", "int"), field("s", protect="seal"))
    new = made(field("x", "double"), field("s", protect="drop"), field("z"), version=2)
    assert not incompatible(old, new)


def test_two_schemas_of_one_event_are_refused() -> None:
    generic = parse("other", 1, document(field("x")), envelope())
    with pytest.raises(Misuse, match="both of the same event"):
        Registry([made(), generic])
