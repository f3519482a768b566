"""The protect leg and sealed producers: a sealed event comes out as it would have in clear; what does not open, or came
in clear where it must not, is rejected with its reason and kept as it was sent.

Mutations seen red: a reject that keeps the opened record, in the stage or in the flow; `*` ignored; a source without a
header let through; the header or the 0xF5 alone taken for plaintext; the last header counts; a header without a value
taken for none; the limit without the overhead; longer values opened; `bad_seal` for an unknown key; the record's time
lost; rejects of unseal dropped; the setting not handed over; decrypt-only keys that do not open, or are given out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.adapters.memory_table import MemoryTable
from pipeline.cli.replay import again
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.rejects import Original
from pipeline.crypto.sessions import OVERHEAD, Sealer
from pipeline.events import RawRecord
from pipeline.outcomes import RejectedRecord
from tests.stages.event_world import RECEIVED, Leg, event, ring

DATA = Path(__file__).parents[1] / "data"
CANARY = "canary.4f1b@example.com"
EVENT = json.dumps(event(type="identify", traits={"email": CANARY, "shoe": CANARY})).encode()
Headers = tuple[tuple[str, bytes | None], ...]


def sealed(values: Iterable[bytes | None], source: str = "shop", *, extra: Headers = ()) -> list[RawRecord]:
    """One session's records, at offsets from 0; without a value nothing is sealed."""
    sealer = Sealer(source, ring().public_keys(RECEIVED))
    found = []
    for offset, value in enumerate(values):
        body, seal_key = sealer.seal(value or b"", RECEIVED)
        headers = (("source-id", source.encode()), ("seal-key", seal_key), *extra)
        found.append(RawRecord(offset, RECEIVED, None, body, headers))
    return found


def in_clear(values: Iterable[bytes | None], source: str | None = "shop") -> list[RawRecord]:
    headers = () if source is None else (("source-id", source.encode()),)
    return [RawRecord(offset, RECEIVED, None, value, headers) for offset, value in enumerate(values)]


def fate(leg: Leg, record: RawRecord) -> tuple[str, str, str]:
    """("protected", "", "") or reason, path and stage of the one record's reject, which gives back what was sent."""
    protected, rejected = leg.run([record])
    if protected:
        return "protected", "", ""
    found = msgspec.json.decode(next(iter(rejected.values())), type=RejectedRecord)
    assert kept(found) == Original(record.key, record.value, record.headers)
    assert CANARY.encode() not in next(iter(rejected.values()))
    return found.reason, found.path, found.stage


def kept(rejected: RejectedRecord) -> Original:
    return ring().reject_boxes().at(0).open(bytes.fromhex(rejected.event_id), rejected.reason, rejected.sealed)


def samples() -> list[bytes]:
    files = ("sdk-events.jsonl", "hostile.jsonl")
    lines = [line for name in files for line in (DATA / name).read_bytes().splitlines() if line]
    assert len(lines) > 50
    return lines


def test_a_sealed_event_comes_out_byte_for_byte_as_it_would_have_in_clear() -> None:
    leg = Leg()
    protected, rejected = leg.run(in_clear(samples()))
    again, refused = leg.run(records := sealed(samples()))
    assert len(protected) > 10
    assert len(rejected) > 10
    assert again == protected
    assert refused.keys() == rejected.keys()
    for offset, value in refused.items():
        one, other = (msgspec.json.decode(v, type=RejectedRecord) for v in (value, rejected[offset]))
        told = [(r.reason, r.stage, r.path, r.rule, r.schema, r.source) for r in (one, other)]
        assert told[0] == told[1]
        assert kept(one) == Original(None, records[offset].value, records[offset].headers)


def test_protecting_the_same_sealed_record_twice_gives_the_same_bytes() -> None:
    records, table = sealed([EVENT, b"{", EVENT]), MemoryTable()
    runs = []
    for _ in range(2):
        leg = Leg()  # remembers no session
        leg.part = leg.leg.open(0, {"subject-keys": table})
        runs.append(leg.run(records))
    assert runs[0] == runs[1]
    assert [len(side) for side in runs[0]] == [2, 1]


def test_records_of_many_sessions_and_in_clear_open_in_any_order() -> None:
    parts = [sealed([EVENT] * 3, f"shop-{i}") for i in range(5)] + [in_clear([EVENT] * 3)]
    mixed = [part[i] for i in range(3) for part in parts]
    records = [msgspec.structs.replace(r, offset=i) for i, r in enumerate(mixed)]
    protected, rejected = Leg().run(records)
    assert not rejected
    assert [json.loads(v)["source"] for v in protected.values()] == [*(f"shop-{i}" for i in range(5)), "shop"] * 3


def changed(part: Callable[[RawRecord], RawRecord]) -> RawRecord:
    return part(sealed([EVENT])[0])


def headers(*given: tuple[str, bytes | None]) -> Callable[[RawRecord], RawRecord]:
    return lambda r: msgspec.structs.replace(r, headers=given)


BAD = ("bad_seal", "", "unseal")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (lambda r: msgspec.structs.replace(r, value=r.value[:-1]), BAD),
        (lambda r: msgspec.structs.replace(r, value=r.value[:1]), BAD),
        (lambda r: msgspec.structs.replace(r, value=EVENT), BAD),
        (lambda r: headers(("source-id", b"other"), *r.headers[1:])(r), BAD),
        (lambda r: headers(*r.headers[1:])(r), BAD),
        (lambda r: headers(r.headers[0], ("seal-key", b""))(r), BAD),
        (lambda r: headers(r.headers[0], ("seal-key", None))(r), BAD),
        (lambda r: headers(r.headers[0], ("seal-key", b""), r.headers[1])(r), BAD),
        (lambda r: headers(r.headers[0], *sealed([EVENT])[0].headers[1:])(r), BAD),
        (lambda r: headers(r.headers[0])(r), ("bad_seal", "seal-key", "unseal")),
        (headers(), ("bad_seal", "seal-key", "unseal")),
        (lambda r: headers(("source-id", b"\xff"), r.headers[1])(r), ("bad_header", "source-id", "decode")),
        (lambda r: headers(r.headers[0], r.headers[1], ("seal-key", b""))(r), ("protected", "", "")),
        (lambda r: msgspec.structs.replace(r, value=b""), ("empty", "", "decode")),
        (lambda r: msgspec.structs.replace(r, value=None), ("empty", "", "decode")),
        (lambda r: r, ("protected", "", "")),
    ],
)
def test_what_was_changed_is_rejected_with_its_reason(part: Any, told: tuple[str, str, str]) -> None:
    for leg in (Leg(), Leg(must_seal=("shop",))):
        assert fate(leg, changed(part)) == told


def test_what_is_sealed_twice_opens_once() -> None:
    twice = sealed([sealed([EVENT])[0].value])[0]
    assert fate(Leg(), twice) == ("bad_encoding", "", "decode")


def test_a_key_that_is_not_in_the_ring_is_a_reason_of_its_own_and_a_replay_with_it_passes() -> None:
    record = sealed([EVENT])[0]
    without = KeyRing(ring().kek, [k for k in ring().keys if k.purpose is not Purpose.PRODUCERS])
    destroyed = KeyRing(ring().kek, [*without.keys, RingKey(Purpose.PRODUCERS, 1, KeyState.DESTROYED, 0, None)])
    for poor in (without, destroyed):
        leg = Leg(keys=poor)
        assert fate(leg, record) == ("no_seal_key", "seal-key", "unseal")
        assert fate(leg, in_clear([EVENT])[0])[0] == "protected"
        _, rejected = leg.run([record])
        found = msgspec.json.decode(rejected[0], type=RejectedRecord)
        assert (found.source, found.rule) == ("shop", "sealed to a key that the key ring does not have")
        sent = again(kept(found), found.origin)
        assert fate(Leg(), RawRecord(9, RECEIVED, sent.key, sent.value, sent.headers))[0] == "protected"


def test_a_decrypt_only_key_still_opens_and_is_not_given_to_producers() -> None:
    record = sealed([EVENT])[0]
    (old,) = [k for k in ring().keys if k.purpose is Purpose.PRODUCERS]
    retired = RingKey(Purpose.PRODUCERS, 1, KeyState.DECRYPT_ONLY, 0, old.key)
    newer = RingKey(Purpose.PRODUCERS, 2, KeyState.ACTIVE, 1, bytes(32))
    keys = KeyRing(ring().kek, [k for k in ring().keys if k is not old] + [retired, newer])
    assert fate(Leg(keys=keys), record)[0] == "protected"
    assert [(k.version, k.active_from) for k in keys.public_keys(RECEIVED)] == [(2, 1)]


@pytest.mark.parametrize(
    ("must_seal", "source", "told"),
    [
        ((), "shop", "protected"),
        (("shop",), "shop", "not_sealed"),
        (("other", "shop"), "shop", "not_sealed"),
        (("shop",), "shop2", "protected"),
        (("shop",), None, "protected"),
        (("unknown",), None, "not_sealed"),
        (("*",), "shop", "not_sealed"),
        (("*",), None, "not_sealed"),
    ],
)
def test_plaintext_of_a_source_that_must_seal_is_rejected(
    must_seal: tuple[str, ...], source: str | None, told: str
) -> None:
    leg = Leg(must_seal=must_seal)
    assert fate(leg, in_clear([EVENT], source)[0])[0] == told
    assert leg.counts[("rejected", told) if told == "not_sealed" else (told, "")] == 1
    assert fate(leg, in_clear([b"{"], source)[0])[0] == ("bad_json" if told == "protected" else told)
    if source:
        assert fate(leg, sealed([EVENT], source)[0])[0] == "protected"


def test_the_limit_is_that_of_the_event_sealed_or_not() -> None:
    leg = Leg(max_event_bytes=2_048)
    fits, longer = (EVENT.ljust(n) for n in (2_048, 2_049))
    assert [fate(leg, r)[0] for r in sealed([fits, longer])] == ["protected", "too_large"]
    assert len(sealed([fits])[0].value or b"") == 2_048 + OVERHEAD
    damaged = msgspec.structs.replace(sealed([longer])[0], value=b"\xf5" * (2_049 + OVERHEAD))
    assert fate(leg, damaged)[0] == "too_large"


def test_values_and_headers_do_not_show_in_reprs() -> None:
    from pipeline.stages.unseal import unseal

    leg = Leg().leg
    (opened,) = unseal(sealed([EVENT]), leg.opener, (), 1 << 20).passed
    assert opened.value == EVENT
    assert repr(opened) == "Opened(offset=0, …)"
