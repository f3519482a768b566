"""Every byte string is an event of a known schema, or a reject with a reason that holds no value."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import RawRecord
from pipeline.outcomes import Reason
from pipeline.stages.decode import AVRO_MARKER, Decoded, decode
from tests.stages.event_world import RECEIVED, Leg, event, registry

DATA = Path(__file__).parents[1] / "data"
SECRET = "canary-4f1b"


def one(value: bytes | None, *, limit: int = 1 << 20, headers: Any = ()) -> tuple[Any, Any]:
    split = decode([RawRecord(0, RECEIVED, None, value, headers)], registry(), limit)
    assert len(split.passed) + len(split.rejected) == 1
    return next(iter(split.passed), None), next(iter(split.rejected), None)


def sent(**fields: Any) -> bytes:
    return json.dumps(event(**fields)).encode()


def order(**properties: Any) -> bytes:
    return sent(event="Order Completed", properties=properties)


@pytest.mark.parametrize(
    ("value", "reason", "path"),
    [
        (None, Reason.EMPTY, ""),
        (b"", Reason.EMPTY, ""),
        (b"   ", Reason.BAD_JSON, ""),
        (b"\xef\xbb\xbf{}", Reason.BAD_JSON, ""),
        (b"[1]", Reason.NOT_AN_OBJECT, ""),
        (b"[1", Reason.BAD_JSON, ""),
        (b"null", Reason.NOT_AN_OBJECT, ""),
        (b"{}", Reason.MISSING_FIELD, "type"),
        (b'{"type":7}', Reason.BAD_TYPE, "type"),
        (b'{"type":"purchase"}', Reason.UNKNOWN_SCHEMA, "type"),
        (b"\xff\xfe", Reason.BAD_ENCODING, ""),
        (sent().replace(b"u-1", b"u\xff1"), Reason.BAD_ENCODING, ""),
        (sent(properties={"a": "\ud800"}), Reason.BAD_JSON, ""),
        (sent(properties={"a": math.nan}), Reason.BAD_JSON, ""),
        (sent(properties={"a": math.inf}), Reason.BAD_JSON, ""),
        (order(value=math.nan), Reason.BAD_JSON, ""),
        (order(value=1).replace(b": 1}", b": 1e999}"), Reason.BAD_VALUE, "properties.value"),
        (sent(type="identify", traits={"logins": 2**63}), Reason.BAD_VALUE, "traits.logins"),
        (sent(messageId=""), Reason.BAD_VALUE, "messageId"),
        (sent(messageId="x" * 257), Reason.BAD_VALUE, "messageId"),
        (sent(userId=42), Reason.BAD_TYPE, "userId"),
        (sent(timestamp="yesterday"), Reason.BAD_TIME, "timestamp"),
        (sent(timestamp=10**17), Reason.BAD_VALUE, "timestamp"),
        (sent(context={"screen": {"width": "wide"}}), Reason.BAD_TYPE, "context.screen.width"),
        (sent()[:-1], Reason.BAD_JSON, ""),
        (sent() + b"{}", Reason.BAD_JSON, ""),
        (b"[" * 100_000, Reason.TOO_DEEP, ""),
        (sent(properties=0).replace(b": 0}", b": " + b"[" * 100_000 + b"]" * 100_000 + b"}"), Reason.TOO_DEEP, ""),
        (sent(foo=0).replace(b": 0}", b": " + b"[" * 100_000 + b"]" * 100_000 + b"}"), Reason.TOO_DEEP, ""),
        (b"\xc3\x01", Reason.BAD_ENCODING, ""),
        (b"\xc3\x02" + b"x" * 20, Reason.BAD_ENCODING, ""),
        (AVRO_MARKER + b"x" * 20, Reason.UNKNOWN_SCHEMA, ""),
        (b"\x00\x00\x00\x00\x01abc", Reason.UNKNOWN_SCHEMA, ""),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_a_bad_value_is_rejected_by_reason_and_path(value: bytes | None, reason: Reason, path: str) -> None:
    _, rejected = one(value)
    assert (rejected.reason, rejected.path) == (reason, path)


def test_a_value_at_the_limit_is_read_and_one_beyond_it_is_not_looked_at() -> None:
    value = sent()
    assert one(value, limit=len(value))[0]
    _, rejected = one(value, limit=len(value) - 1)
    assert rejected.reason is Reason.TOO_LARGE


def test_ten_megabytes_are_too_large() -> None:
    assert one(sent(properties="x" * (10 << 20)))[1].reason is Reason.TOO_LARGE


def test_of_a_name_that_stands_twice_the_last_one_counts() -> None:
    found, _ = one(sent().replace(b'"m-1"', b'"m-1", "messageId": "m-2"'))
    assert found.body.messageId == "m-2"


def test_an_explicit_null_is_absent() -> None:
    found, _ = one(sent(anonymousId=None, context=None))
    assert found.body.anonymousId is None


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("Order Completed", "order_completed/1"),
        ("order_completed", "order_completed/1"),
        ("ORDER-COMPLETED", "order_completed/1"),
        ("Order Refunded", "track/1"),
    ],
)
def test_a_named_event_has_its_own_schema_however_it_is_spelt(name: str, schema: str) -> None:
    assert one(sent(event=name))[0].schema.title == schema


def test_what_the_schema_does_not_name_is_kept_apart_with_its_path() -> None:
    found, _ = one(
        json.dumps(
            event(
                event="Order Completed",
                color=SECRET,
                context={"weather": "wet", "os": {"kernel": 6}},
                properties={"total": 5, "gift": True, "products": [{"sku": "a"}, {"sku": "b", "engraving": SECRET}]},
            )
        ).encode()
    )
    assert found.extra == {
        "color": SECRET,
        "context.weather": "wet",
        "context.os.kernel": 6,
        "properties.gift": True,
        "properties.products[1].engraving": SECRET,
    }
    assert found.body.properties.total == 5
    assert [p.sku for p in found.body.properties.products] == ["a", "b"]


@pytest.mark.parametrize(
    ("headers", "source"),
    [
        ([], "unknown"),
        ([("trace", b"x")], "unknown"),
        ([("source-id", b"shop")], "shop"),
        ([("trace", None), ("source-id", "läden".encode()), ("source-id", b"second")], "läden"),
    ],
)
def test_the_source_stands_in_a_header(headers: Any, source: str) -> None:
    assert one(sent(), headers=headers)[0].source == source


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"a\nb", b"x" * 129])
def test_a_source_that_cannot_be_one_is_rejected(content: bytes | None) -> None:
    rejected = one(sent(), headers=[("source-id", content)])[1]
    assert (rejected.reason, rejected.path) == (Reason.BAD_HEADER, "source-id")


# -- Avro --


def avro(name: str, fields: dict[str, Any], tail: bytes = b"") -> bytes:
    schema = next(c for c in registry().schemas if c.schema.name == name)
    out = io.BytesIO()
    schemaless_writer(out, schema.avro_writer, fields)
    return AVRO_MARKER + schema.fingerprint + out.getvalue() + tail


ORDER = {"type": "track", "event": "Order Completed", "messageId": "m", "userId": "u", "timestamp": 5, "sentAt": 9}


def test_avro_and_json_of_one_event_are_protected_alike() -> None:
    fields = {**ORDER, "properties": {"total": 2.5, "order_id": "o", "products": [{"sku": "a", "quantity": 2}]}}
    leg = Leg()
    assert leg.one(avro("order_completed", fields)) == leg.one(json.dumps(fields).encode())


def test_keys_that_may_not_stay_in_clear_are_taken_out_of_avro_as_well() -> None:
    fields = {**ORDER, "context": {"consent": {"categoryPreferences": {"Ads": True, "not plain": False}}}}
    leg = Leg()
    side, found = leg.one(avro("order_completed", fields))
    assert side == "protected"
    assert (side, found) == leg.one(json.dumps(fields).encode())
    assert found["clear"]["context"] == {"consent": {"categoryPreferences": {"Ads": True}}}


def test_free_form_json_travels_in_avro_as_a_string() -> None:
    fields = {**ORDER, "event": "Any", "properties": '{"deep": [1, {"er": null}]}'}
    found, _ = one(avro("track", fields))
    assert bytes(found.body.properties) == b'{"deep": [1, {"er": null}]}'
    assert one(avro("track", {**fields, "properties": "{"}))[1].reason is Reason.BAD_AVRO


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (avro("order_completed", ORDER)[:-3], Reason.BAD_AVRO),
        (avro("order_completed", ORDER, b"\x00"), Reason.BAD_AVRO),
        (avro("order_completed", {**ORDER, "properties": {"total": math.nan}}), Reason.BAD_AVRO),
        (avro("order_completed", {**ORDER, "type": "page"}), Reason.BAD_VALUE),
        (avro("order_completed", {**ORDER, "messageId": ""}), Reason.BAD_VALUE),
        (avro("order_completed", {**ORDER, "timestamp": 2**60}), Reason.BAD_VALUE),
    ],
)
def test_bad_avro_is_rejected(value: bytes, reason: Reason) -> None:
    assert one(value)[1].reason is reason


@given(st.binary(max_size=80), st.integers(0, 15))
def test_no_avro_body_ends_the_process(body: bytes, which: int) -> None:
    one(AVRO_MARKER + registry().schemas[which].fingerprint + body)


# -- whatever can be sent --

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "type",
    "event",
    "messageId",
    "userId",
    "anonymousId",
    "timestamp",
    "sentAt",
    "context",
    "properties",
    "traits",
]
objects = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), json_values, max_size=8)


def strict(value: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        text = value.decode()
        found = json.loads(text, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


@settings(max_examples=400)
@given(st.binary(max_size=60) | objects.map(lambda o: json.dumps(event(**o)).encode()))
def test_what_passes_is_strict_json_and_what_is_rejected_shows_nothing(value: bytes) -> None:
    found, rejected = one(value)
    if found is not None:
        assert isinstance(found, Decoded)
        assert value.startswith(AVRO_MARKER) or strict(value)
        assert repr(found).startswith("Decoded(")
    else:
        assert len(rejected.rule) < 80


@given(st.sampled_from(NAMES), json_values, st.text(min_size=1, max_size=10))
def test_neither_path_nor_rule_holds_a_value_or_a_name_of_the_event(name: str, value: Any, unknown: str) -> None:
    sent_event = event(**{name: {f"{SECRET}{unknown}": value, "type": SECRET}, f"{SECRET}{unknown}": 1})
    _, rejected = one(json.dumps(sent_event).encode())
    if rejected is not None:
        assert SECRET not in rejected.path + rejected.rule


HOSTILE = [json.loads(line) for line in (DATA / "hostile.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", HOSTILE, ids=[c["name"][-40:] for c in HOSTILE])
def test_the_hostile_corpus(case: dict[str, str]) -> None:
    value = base64.b64decode(case["base64"])
    found, rejected = one(value)
    if case["expect"] == "n":
        assert rejected is not None
    if rejected is not None and rejected.reason is Reason.BAD_JSON:
        assert not strict(value)
    if found is not None:
        assert strict(value)


def test_all_that_a_public_sdk_sends_is_protected() -> None:
    values = (DATA / "sdk-events.jsonl").read_bytes().splitlines()
    split = decode([RawRecord(i, RECEIVED, None, v) for i, v in enumerate(values)], registry(), 1 << 20)
    assert len(values) == 80
    assert not split.rejected


def test_names_that_would_give_the_same_path_are_kept_apart() -> None:
    body = event(context={"weather": 1})
    found, _ = one(json.dumps({**body, "context.weather": 2, "context\\.weather": 3, "a[0]": 4}).encode())
    assert found.extra == {
        "context.weather": 1,
        "context\\.weather": 2,
        "context\\\\\\.weather": 3,
        "a\\[0]": 4,
    }
