"""Guarantee: a rotation of the token key parts nobody, and what was protected comes out the same whatever the ring is.

Mutations seen red: the former version's tokens left out; the overlap by the key's state, not by the record's time; an
identifier counted once per version, for limits or for neighbours, in the reference or the stream; pairs not kept in the
anchor's facts; pairs of all events kept.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec.structs import replace

from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.keyring import KeyRing, Purpose
from pipeline.events import ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.stages.recompute import recompute
from tests.flow.identity_world import RULES, World
from tests.stages.event_world import RECEIVED, registry, ring
from tests.stages.identity_events import again, anonymous, device, email, new, rules, seen, user

DAY = 86_400_000
ROTATED, RETIRED = RECEIVED + DAY, RECEIVED + 2 * DAY
MAILS = [f"canary.{n}@example.com" for n in range(5)]
KIOSK = "kiosk-1"

BEFORE = ring()
DURING = BEFORE.rotated(Purpose.TOKEN, b"second token key, for this test.", ROTATED, RECEIVED)
AFTER = DURING.retired("token.1", RETIRED, ROTATED)
DESTROYED = AFTER.destroyed("token.1", RETIRED)


class Raw:
    """`events.raw`, and the protect leg's partition with the keys of people."""

    def __init__(self) -> None:
        self.records: list[RawRecord] = []
        self.table = MemoryTable()

    def send(self, at: int, **fields: Any) -> None:
        n = len(self.records)
        value = {"type": "page", "messageId": f"m-{n}", "timestamp": at + n, **fields}
        self.records.append(RawRecord(n, at + n, None, json.dumps(value).encode()))

    def day(self, at: int, user: str) -> None:
        """A person at the limit of addresses, and at a kiosk with others: under the limits, if each counts once."""
        for mail in MAILS:
            self.send(at, type="identify", userId=user, traits={"email": f"{user}.{mail}"})
        self.send(at, userId=user, anonymousId=f"{user}-browser")
        self.send(at, userId=user, context={"device": {"id": KIOSK}})

    def protected(self, keys: KeyRing, since: int = 0) -> list[bytes]:
        leg = ProtectLeg(registry(), keys, RULES.blocked)
        part = leg.open(0, {"subject-keys": self.table})
        part.on_batch(SourceBatch(Topic.RAW.value, "", 0, self.records[since:]))
        outputs = part.drain().phases[1]
        assert isinstance(outputs, dict)
        assert not outputs[Topic.REJECTED.value]
        return [out.value or b"" for out in outputs[Topic.PROTECTED.value]]


def rotation(users: int = 6) -> tuple[Raw, list[bytes], list[bytes], list[bytes]]:
    """What was protected before, during and after, each by workers with the ring of that day."""
    raw, parts = Raw(), []
    for at, keys in ((RECEIVED, BEFORE), (ROTATED, DURING), (RETIRED, AFTER)):
        first = len(raw.records)
        for n in range(users):
            raw.day(at, f"u-{n}")
        parts.append(raw.protected(keys, first))
    before, during, after = parts
    return raw, before, during, after


def profiles(*parts: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(p) for p in recompute([line for part in parts for line in part], RULES)]


def versions(event: bytes) -> set[str]:
    found = json.loads(event)
    return {token.split(".")[1] for token in [found["anchor"], *found["tokens"].values(), found["key"]["subject"]]}


def test_one_profile_per_person_whose_id_stays() -> None:
    _, before, during, after = rotation()
    ids = {p["profile_id"] for p in profiles(before)}
    assert len(ids) == 6
    for parts in ((before, during), (before, during, after), (before, after, during)):
        found = profiles(*parts)
        assert {p["profile_id"] for p in found} == ids
        assert all("conflicts" not in p or {c["rule"] for c in p["conflicts"]} == {"limit.user_id"} for p in found)
        assert {tuple(sorted({t.split(".")[1] for t in p["tokens"]["user_id"]})) for p in found} == {("1", "2")}
        assert all(len(p["tokens"]["email"]) == 10 for p in found)
        assert sum(p["events"]["page"] for p in found) == 12 * len(parts)
    assert {p["profile_id"] for p in profiles(before, after)} > ids  # without an overlap everybody is somebody new


def test_the_stream_comes_to_the_same() -> None:
    _, *parts = rotation(3)
    world = World(3, RULES)
    for line in (line for part in parts for line in part):
        world.publish(msgspec.json.decode(line, type=ProtectedEvent))
    world.settle()
    assert [json.loads(p) for p in world.profiles()] == profiles(*parts)


def test_an_operator_may_say_that_the_two_are_not_one() -> None:
    tokens = {"userId": new(user(1)), "userId@1": user(1)}
    events = [
        seen(0, user(1), email(2)),
        replace(seen(1, tokens["userId"]), tokens=tokens),
        seen(2, *tokens.values(), kind="cut"),
    ]
    world = World(2, RULES)
    for event in events:
        world.publish(event)
    world.settle()
    found = world.profiles()
    assert found == list(recompute(map(msgspec.json.encode, events), RULES))
    assert [len(json.loads(p)["conflicts"]) for p in found] == [1, 1]


def test_what_is_shared_under_both_versions_is_two_in_the_stream_as_well() -> None:
    kiosk = device(10)  # the stream knows tokens by their digests: no two with equal ones
    by = rules(("device_id = {", "device_id = { limit = 1,"))
    before = [seen(n, user(n), kiosk) for n in range(4)]
    events = [*before, *(again(e, n, former=True) for n, e in enumerate(before, 4))]
    events += [seen(20, kiosk, anonymous(11), kind="link"), seen(21, new(kiosk), anonymous(12), kind="link")]
    events.append(seen(22, anonymous(11), anonymous(12), time=900 * DAY))
    world = World(2, by)
    for event in events:
        world.publish(event)
    world.settle()
    assert world.profiles() == list(recompute(map(msgspec.json.encode, events), by))
    assert any("limit.device_id" in p.decode() for p in world.profiles())


def test_an_event_of_the_overlap_has_each_token_under_both_versions_and_a_later_one_only_its_own() -> None:
    _, before, during, after = rotation(1)
    assert [set.union(*map(versions, part)) for part in (before, during, after)] == [{"1"}, {"1", "2"}, {"2"}]
    for old, both, later in zip(before, during, after, strict=True):
        tokens = [json.loads(e)["tokens"] for e in (old, both, later)]
        assert tokens[1] == tokens[2] | {f"{path}@1": token for path, token in tokens[0].items()}
        assert json.loads(both)["anchor"] == json.loads(later)["anchor"]
        assert json.loads(both)["key"]["subject"] == json.loads(both)["anchor"]


def test_what_was_protected_is_protected_again_to_the_same_bytes_whatever_was_rotated_and_retired_since() -> None:
    raw, before, during, after = rotation(2)
    third = AFTER.rotated(Purpose.TOKEN, b"third token key, for this test..", RETIRED + DAY, RETIRED)
    for keys in (AFTER, third, third.retired("token.2", RETIRED + 2 * DAY, RETIRED)):
        assert raw.protected(keys) == before + during + after
        assert KeyRing.from_document(keys.to_document(), keys.kek).tokenizer().at(ROTATED).former is not None


def test_no_record_since_the_former_key_was_retired_depends_on_it() -> None:
    raw, before, during, after = rotation(2)
    first = len(before) + len(during)
    assert raw.protected(DESTROYED, first) == after


def test_the_pairs_of_one_event_are_all_that_is_remembered_beside_the_makers() -> None:
    raw = Raw()
    raw.day(ROTATED, "u-1")
    leg = ProtectLeg(registry(), DURING, RULES.blocked)
    leg.open(0, {"subject-keys": raw.table}).on_batch(SourceBatch(Topic.RAW.value, "", 0, raw.records))
    overlap = leg.tokens.at(ROTATED).overlap
    assert overlap is not None
    assert len(overlap.made) == 2
    assert leg.tokens.at(RECEIVED).overlap is None
