"""The protect leg in memory: every record comes out once, on one side, in the same bytes each time.

Mutations seen red: a random nonce in a seal; the outputs before the key's changelog; rejects dropped; a token's field
stays in the event; what the schema does not name is lost; the weakest identifier is the anchor; a reject sealed without
its headers; tokens without their kind; rejects by stage, not by offset.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.seal import SealBroken
from pipeline.errors import Misuse
from pipeline.events import RawRecord, SourceBatch, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.outcomes import RejectedRecord
from pipeline.ports import STATE, Rejecting
from pipeline.stages.block import Blocked
from pipeline.stages.registry import Registry
from pipeline.stages.schema import parse
from tests.stages.event_world import RECEIVED, Leg, document, envelope, event, field, opened, registry, ring, rules

DATA = Path(__file__).parents[1] / "data"
CANARY = "canary.4f1b@example.com"


def test_each_field_is_treated_as_its_schema_says() -> None:
    made = document(
        field("open"),
        field("alias", protect="token", identifier="external_id"),
        field("secret", protect="seal"),
        field("mail", protect="token+seal", identifier="email"),
        field("gone", protect="drop"),
        field("list", {"type": "array", "items": "long"}, protect="seal"),
        field("free", {"type": "string", "logicalType": "json"}, protect="seal"),
        field(
            "box", {"type": "record", "name": "Box", "fields": [field("inner", protect="seal"), field("outer")]}, None
        ),
        field("safe", {"type": "record", "name": "Safe", "fields": [field("gold", protect="seal")]}, None),
    )
    leg = Leg(Registry([parse("made", 1, made, envelope())]))
    side, found = leg.one(
        {
            "type": "page",
            "messageId": "m",
            "userId": "u",
            "open": "o",
            "alias": "a",
            "secret": "s",
            "mail": CANARY,
            "gone": "g",
            "list": [1, 2],
            "free": {"x": [None]},
            "box": {"inner": "i", "outer": "o"},
            "safe": {"gold": "1 kg"},
            "more": {"and": "more"},
        }
    )
    assert side == "protected"
    assert found["clear"] == {"open": "o", "box": {"outer": "o"}}
    assert sorted(found["tokens"]) == ["alias", "mail", "userId"]
    assert opened(leg, found) == {
        "userId": "u",
        "secret": "s",
        "mail": CANARY,
        "list": [1, 2],
        "free": {"x": [None]},
        "box.inner": "i",
        "safe.gold": "1 kg",
        "$extra": {"more": {"and": "more"}},
    }


def test_of_a_map_in_clear_only_plain_keys_stay() -> None:
    leg = Leg()
    purposes = {"Advertising": False, CANARY: True, "p" * 10_000: 1, "a.b": True, "": True}
    side, found = leg.one(event(context={"consent": {"categoryPreferences": purposes}}))
    assert side == "protected"
    assert found["clear"] == {"context": {"consent": {"categoryPreferences": {"Advertising": False}}}}
    at = "context.consent.categoryPreferences."
    sealed = {CANARY.replace(".", "\\."): True, "p" * 10_000: 1, "a\\.b": True, "": True}
    assert opened(leg, found)["$extra"] == {at + name: value for name, value in sealed.items()}
    assert leg.one(event(context={"consent": {"categoryPreferences": {"Advertising": 1}}}))[0] == "rejected"
    many = {f"p{i}": True for i in range(10_000)}
    assert leg.one(event(context={"consent": {"categoryPreferences": many}}))[0] == "protected"


def test_a_sealed_value_opens_at_its_own_place_only() -> None:
    leg = Leg()
    _, found = leg.one(event(context={"ip": "192.0.2.1"}))
    found["sealed"]["userId"] = found["sealed"]["context.ip"]
    with pytest.raises(SealBroken):
        opened(leg, found)


def test_the_anchor_is_the_strongest_identifier() -> None:
    leg = Leg()
    traits = {"email": CANARY, "phone": "+14155550100"}
    _, all_of_them = leg.one(event(type="identify", anonymousId="a", traits=traits))
    assert all_of_them["anchor"] == all_of_them["tokens"]["userId"]
    _, without = leg.one(event(type="identify", userId=None, anonymousId="a", traits=traits))
    assert without["anchor"] == without["tokens"]["traits.email"]


def test_equal_people_get_equal_tokens_and_kinds_are_apart() -> None:
    leg = Leg()
    _, one = leg.one(event(context={"traits": {"email": CANARY.upper()}}))
    _, two = leg.one(event(type="identify", traits={"email": f" {CANARY}"}, anonymousId="u-1"))
    assert one["tokens"]["context.traits.email"] == two["tokens"]["traits.email"]
    assert one["tokens"]["userId"][-32:] != two["tokens"]["anonymousId"][-32:]


@pytest.mark.parametrize("who", [{}, {"userId": ""}, {"userId": "  "}, {"userId": None, "anonymousId": ""}])
def test_an_event_of_nobody_is_rejected(who: dict[str, Any]) -> None:
    side, found = Leg().one({**event(), "userId": None, **who})
    assert (side, found["reason"]) == ("rejected", "no_identifier")


def test_an_identifier_without_normal_form_passes_where_it_is_sealed_and_is_counted() -> None:
    leg = Leg()
    side, found = leg.one(event(context={"traits": {"phone": "030 123"}}))
    assert side == "protected"
    assert "context.traits.phone" not in found["tokens"]
    assert opened(leg, found)["context.traits.phone"] == "030 123"
    assert leg.counts["unusable_identifier", "phone"] == 1


def test_an_identifier_that_only_its_token_would_keep_is_rejected_without_a_normal_form() -> None:
    side, found = Leg().one(event(anonymousId="x" * 2_000))
    assert (side, found["reason"], found["path"]) == ("rejected", "bad_identifier", "anonymousId")


def test_a_blocked_identifier_makes_no_token_but_stays_sealed_and_is_counted() -> None:
    leg = Leg()
    side, found = leg.one(event(userId="NULL", context={"traits": {"email": CANARY, "phone": "0"}}))
    assert side == "protected"
    assert found["anchor"] == found["tokens"]["context.traits.email"]
    assert sorted(found["tokens"]) == ["context.traits.email"]
    assert opened(leg, found) == {"userId": "NULL", "context.traits.email": CANARY, "context.traits.phone": "0"}
    assert leg.counts == {
        ("protected", ""): 1,
        ("blocked_identifier", "user_id"): 1,
        ("blocked_identifier", "phone"): 1,
    }


def test_a_blocked_identifier_of_which_nothing_else_is_kept_is_dropped_alone() -> None:
    leg = Leg()
    side, found = leg.one(event(anonymousId="00000000-0000-0000-0000-000000000000"))
    assert (side, sorted(found["tokens"])) == ("protected", ["userId"])
    assert leg.counts["blocked_identifier", "anonymous_id"] == 1


def test_an_event_of_blocked_identifiers_alone_is_nobodys_and_can_be_replayed() -> None:
    leg = Leg()
    sent = event(userId="null", anonymousId="anonymous", context={"traits": {"email": "test@test.com"}})
    side, found = leg.one(sent)
    assert (side, found["reason"]) == ("rejected", "no_identifier")
    reject = msgspec.json.decode(json.dumps(found), type=RejectedRecord)
    original = ring().reject_box_of(reject.key_id).open(bytes.fromhex(reject.event_id), reject.reason, reject.sealed)
    assert json.loads(original.value or b"") == sent


def test_a_list_that_blocks_everything_loses_nothing() -> None:
    leg = Leg(blocked=Blocked(patterns=(".*",)))  # `load_rules` refuses it
    values = (DATA / "sdk-events.jsonl").read_bytes().splitlines()
    protected, rejected = leg.run([RawRecord(i, RECEIVED, None, v) for i, v in enumerate(values)])
    assert not protected
    assert leg.counts["rejected", "no_identifier"] == len(rejected) == len(values)


def test_the_shipped_list_blocks_nothing_of_what_an_sdk_sends() -> None:
    values = (DATA / "sdk-events.jsonl").read_bytes().splitlines()
    records = [RawRecord(i, RECEIVED, None, v) for i, v in enumerate(values)]
    leg, without = Leg(), Leg(blocked=Blocked())
    protected, _ = leg.run(records)
    assert len(protected) == 80
    assert {o: json.loads(v)["tokens"] for o, v in protected.items()} == {
        o: json.loads(v)["tokens"] for o, v in without.run(records)[0].items()
    }


def test_a_reject_gives_back_exactly_what_was_sent() -> None:
    leg = Leg()
    headers = (("source-id", b"shop"), ("na\udcffme", None), ("trace", b"\xff"))
    record = RawRecord(7, -5, b"\xffkey", b'{"type":\xff', headers)
    _, rejected = leg.run([record])
    found = msgspec.json.decode(rejected[7], type=RejectedRecord)
    original = ring().reject_box_of(found.key_id).open(bytes.fromhex(found.event_id), found.reason, found.sealed)
    assert tuple(original) == (record.key, record.value, record.headers)
    assert (found.source, found.received_at) == ("shop", -5)


@pytest.mark.parametrize("value", [None, b""])
def test_absent_and_empty_values_are_told_apart(value: bytes | None) -> None:
    leg = Leg()
    _, rejected = leg.run([RawRecord(0, 0, None, value)])
    found = msgspec.json.decode(rejected[0], type=RejectedRecord)
    original = ring().reject_box_of(found.key_id).open(bytes.fromhex(found.event_id), found.reason, found.sealed)
    assert original.value == value


def test_a_person_has_one_key_and_another_person_another() -> None:
    leg = Leg()
    keys = [leg.one(event(userId=u, messageId=m))[1]["key"]["key_id"] for u, m in [("a", "1"), ("a", "2"), ("b", "3")]]
    assert keys[0] == keys[1] != keys[2]
    assert len(leg.table) == 2


def test_the_key_is_in_the_table_before_the_phase_of_what_it_sealed() -> None:
    leg = Leg()
    leg.part.on_batch(SourceBatch("events.raw", "", 0, [RawRecord(0, 0, None, json.dumps(event()).encode())]))
    phases = leg.part.drain().phases
    assert phases[0] == STATE
    assert len(leg.table) == 1
    assert isinstance(phases[1], dict)
    assert len(phases[1][Topic.PROTECTED]) == 1


values = st.one_of(
    st.binary(max_size=40),
    st.sampled_from((DATA / "sdk-events.jsonl").read_bytes().splitlines()),
    st.builds(
        lambda u, p: json.dumps(event(userId=u, properties=p)).encode(), st.text(max_size=5), st.text(max_size=20)
    ),
    st.none(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=12), st.randoms(use_true_random=False))
def test_counts_balance_and_a_replay_gives_the_same_bytes_however_it_is_cut(
    sent: list[bytes | None], rng: random.Random
) -> None:
    records = [RawRecord(i, RECEIVED + i, None, v) for i, v in enumerate(sent)]
    leg = Leg()
    protected, rejected = leg.run(records)
    assert protected.keys() | rejected.keys() == set(range(len(sent)))
    assert not protected.keys() & rejected.keys()
    assert leg.counts.get(("protected", ""), 0) == len(protected)
    assert sum(n for (outcome, _), n in leg.counts.items() if outcome == "rejected") == len(rejected)
    again = leg.leg.open(0, {"subject-keys": leg.table})  # as after a crash: state durable, output not
    seen: dict[str, bytes] = {}
    at = 0
    while at < len(records):
        n = rng.randrange(1, 4)
        again.on_batch(SourceBatch("events.raw", "", 0, records[at : at + n]))
        outputs = again.drain().phases[1]
        assert isinstance(outputs, dict)
        for topic, outs in outputs.items():
            for out in outs:
                seen[f"{topic} {json.loads(out.value or b'')['origin']['offset']}"] = out.value or b""
        at += n
    assert seen == {
        **{f"events.protected {o}": v for o, v in protected.items()},
        **{f"events.rejected {o}": v for o, v in rejected.items()},
    }


def test_another_incarnation_of_a_topic_is_other_events() -> None:
    leg = Leg()
    record = RawRecord(0, RECEIVED, None, json.dumps(event()).encode())
    ids = set()
    for incarnation in ("", "a", "b"):
        leg.part.on_batch(SourceBatch("events.raw", incarnation, 0, [record]))
        outputs = leg.part.drain().phases[1]
        assert isinstance(outputs, dict)
        ids.add(json.loads(outputs["events.protected"][0].value or b"")["event_id"])
    assert len(ids) == 3


def test_the_token_key_goes_by_the_records_own_time() -> None:
    keys = [RingKey(Purpose.TOKEN, v, KeyState.ACTIVE, at, bytes([v]) * 32) for v, at in ((1, 0), (2, RECEIVED))]
    rejects = RingKey(Purpose.REJECTS, 1, KeyState.ACTIVE, 0, bytes(32))
    leg = Leg()
    leg.leg = ProtectLeg(registry(), KeyRing(ring().kek, [*keys, rejects]), rules().blocked)
    leg.part = leg.leg.open(0, {"subject-keys": MemoryTable()})
    value = json.dumps(event()).encode()
    protected, _ = leg.run([RawRecord(i, RECEIVED + t, None, value) for i, t in enumerate((-1, 0, -5, 7))])
    versions = [json.loads(v)["anchor"].split(".")[1] for _, v in sorted(protected.items())]
    assert versions == ["1", "2", "1", "2"]


def test_the_rejects_key_goes_by_the_records_own_time() -> None:
    leg = Leg()
    leg.leg = ProtectLeg(registry(), ring().rotated(Purpose.REJECTS, bytes(32), RECEIVED, 1), rules().blocked)
    leg.part = leg.leg.open(0, {"subject-keys": MemoryTable()})
    _, rejected = leg.run([RawRecord(i, RECEIVED + t, None, b"{") for i, t in enumerate((-1, 0, -5))])
    versions = [json.loads(v)["key_id"] for _, v in sorted(rejected.items())]
    assert versions == ["rejects.1", "rejects.2", "rejects.1"]


def test_values_under_each_key_are_counted_before_they_leave() -> None:
    counted: dict[str, int] = {}
    full = False

    def uses(key_id: str, values: int) -> None:
        if full:
            raise Misuse("the cap")
        counted[key_id] = counted.get(key_id, 0) + values

    leg = Leg()
    keys = ring().rotated(Purpose.TOKEN, bytes(32), RECEIVED, 1)
    leg.leg = ProtectLeg(registry(), keys, rules().blocked, uses=uses)
    leg.part = leg.leg.open(0, {"subject-keys": MemoryTable()})
    value = json.dumps(event(anonymousId="a")).encode()
    records = [RawRecord(i, RECEIVED - 1, None, v) for i, v in enumerate((value, value, b"{", b"["))]
    leg.run(records)
    assert counted == {"rejects.1": 2, "token.1": 2}
    leg.run([RawRecord(9, RECEIVED, None, json.dumps(event(userId="new")).encode())])
    assert counted == {"rejects.1": 2, "token.1": 3, "token.2": 1}
    leg.run([])
    full = True
    with pytest.raises(Misuse, match="the cap"):
        leg.run([RawRecord(10, RECEIVED, None, b"{")])


def test_no_personal_value_is_left_in_what_comes_out() -> None:
    leg = Leg()
    records = [
        RawRecord(i, RECEIVED, CANARY.encode(), json.dumps(e).encode(), (("x", CANARY.encode()),))
        for i, e in enumerate(
            [
                event(type="identify", userId=CANARY, traits={"email": CANARY, "name": CANARY, "shoe": CANARY}),
                event(properties={"a": CANARY}, context={"ip": CANARY, "weather": CANARY}),
                event(type="identify", userId=[CANARY]),
                event(timestamp=CANARY),
                event(type=CANARY),
            ]
        )
    ]
    protected, rejected = leg.run(records)
    assert len(protected) == 2
    for value in (*protected.values(), *rejected.values()):
        assert CANARY.encode() not in value.lower()


def test_values_do_not_show_in_reprs() -> None:
    record = RawRecord(0, RECEIVED, CANARY.encode(), json.dumps(event(userId=CANARY)).encode())
    leg = Leg()
    for thing in (record, leg.leg.tokens, leg.leg.boxes, leg.leg.epochs):
        assert CANARY not in repr(thing)


def test_an_original_that_no_record_can_hold_is_rejected_without_it_and_marked() -> None:
    leg = Leg()
    value = random.Random(1).randbytes(14_000_000)
    _, rejected = leg.run([RawRecord(0, RECEIVED, b"k", value)])
    found = msgspec.json.decode(rejected[0], type=RejectedRecord)
    assert (found.reason, found.kept, found.sealed) == ("too_large", False, b"")


def test_what_killed_the_worker_is_rejected_unread_and_replayable() -> None:
    leg = Leg()
    deadly = RawRecord(5, RECEIVED, b"k", b"\xff not to be decoded", (("source-id", b"shop"), ("h", b"v")))
    assert isinstance(leg.part, Rejecting)
    leg.part.on_crashed(SourceBatch(Topic.RAW.value, "", 0, [deadly]))
    effects = leg.part.drain()
    assert effects.counts == {("rejected", "crashed_worker"): 1}
    outputs = effects.phases[1]
    assert isinstance(outputs, dict)
    assert not outputs[Topic.PROTECTED]
    (out,) = outputs[Topic.REJECTED]
    found = msgspec.json.decode(out.value or b"", type=RejectedRecord)
    assert (found.reason, found.stage, found.rule) == ("crashed_worker", "decode", "killed a worker three times")
    assert (found.source, found.origin.offset) == ("shop", 5)
    original = ring().reject_boxes().at(0).open(bytes.fromhex(found.event_id), found.reason, found.sealed)
    assert original == (deadly.key, deadly.value, deadly.headers)


def test_rejects_come_out_in_the_order_of_their_offsets_whichever_stage_refused_them() -> None:
    leg = Leg()
    nobody = json.dumps(event(userId=None)).encode()
    _, rejected = leg.run([RawRecord(i, RECEIVED, None, nobody if i % 2 else b"{") for i in range(6)])
    assert list(rejected) == [0, 1, 2, 3, 4, 5]
    assert {json.loads(value)["stage"] for value in rejected.values()} == {"decode", "tokenize"}
