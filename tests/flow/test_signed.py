"""The protect leg and sources that sign: what its source did not sign, in its own time, does not pass; the rest comes
out as if nobody had to sign.

Mutations seen red, here and in the tests of its parts. Stage: asked before it was registered, or one ms late; before
it, not asked although it must be registered, or not disabled; disabled ones, ended secrets, unfitting signatures or
late ones pass, on either side; `*` ignored; the last header counts; the limit without the overhead; the operator's name
given away, or a changed source not noticed; unsigned records signed again, by an ended secret, or beside their old
headers; a destroyed key used; digits without an end. Signature: source, topic, time, seal-key, key or value left out;
none taken for empty, or null for none; one secret for all sources or kids; checksum ignored; a repr with the key.
Replay: `expired` signed again always, or never. Flow: refused ones dropped; nobody asked. Sources: no end after a
rotation, a later end, three secrets, all of them revoked; an end that is included. On control: always fresh; fresh from
the end of a look, or for as long as the machine sleeps; announced late, or for now; tombstones, the rest of a batch,
changes or failures not noticed; a topic that was made anew; compaction; another key's source; one row only read again,
or the last one alone; followed without adding up; the time taken before there is a connection; an end put off. Sources
merged: later end, earlier begin, unsorted, the last `off`; of two `off` one ended. Commands: the operator, one that is
there, or a past time taken; nan hours; `--from` ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.replay import Replay
from pipeline.crypto.rejects import Original
from pipeline.crypto.sessions import OVERHEAD, Sealer
from pipeline.crypto.signatures import Signer, SourceKeys
from pipeline.errors import Misuse
from pipeline.events import RawRecord
from pipeline.outcomes import Reason, RejectedRecord
from pipeline.stages.authenticate import Authenticator
from pipeline.stages.sources import Secret, Source
from tests.stages.event_world import RECEIVED, Leg, event, ring

CANARY = "canary.77c1@example.com"
EVENT = json.dumps(event(type="identify", traits={"email": CANARY})).encode()
TOPIC = "events.raw"
KEYS = ring().source_keys()
WITHIN = 60_000
OLD = Secret("00000001", 1, RECEIVED - 1_000, RECEIVED + 500)
NEW = Secret("00000002", 1, RECEIVED - 500)
GONE = Secret("00000003", 9, RECEIVED - 1_000)  # its sources key was destroyed
SHOP = Source("shop", (OLD, NEW, GONE), ((RECEIVED + 5_000, RECEIVED + 6_000),))
Headers = tuple[tuple[str, bytes | None], ...]


def signer(secret: Secret = NEW, source: str = "shop", topic: str = TOPIC, keys: SourceKeys = KEYS) -> Signer:
    made = keys.secret(1, source, secret.kid)
    assert made is not None
    return made.signer(source, topic)


def signed(
    value: bytes | None = EVENT,
    *,
    by: Signer | None = None,
    source: str = "shop",
    key: bytes | None = b"k",
    at: int = RECEIVED,
    written: int | None = None,
    more: Headers = (),
) -> RawRecord:
    """A record at Kafka time `written` with its signature of `at`."""
    time = str(at).encode()
    seal_key = next((content or b"" for name, content in more if name == "seal-key"), None)
    signature = (by or signer(source=source)).sign(time, seal_key, key, value)
    headers = (("source-id", source.encode()), *more, ("source-timestamp", time), ("source-signature", signature))
    return RawRecord(0, at if written is None else written, key, value, headers)


def authenticator(*sources: Source, must_sign: Iterable[str] = (), operator: Source | None = None) -> Authenticator:
    made = Authenticator(TOPIC, KEYS, must_sign=set(must_sign), within_ms=WITHIN, operator=operator)
    made.know(sources)
    return made


def leg(*sources: Source, **more: Any) -> Leg:
    return Leg(authenticator=authenticator(*(sources or (SHOP,)), **more))


def fate(leg: Leg, record: RawRecord) -> tuple[str, str]:
    """("protected", "") or reason and path of the one record's reject, which gives back what was sent."""
    protected, rejected = leg.run([record])
    if protected:
        return "protected", ""
    (value,) = rejected.values()
    found = msgspec.json.decode(value, type=RejectedRecord)
    kept = ring().reject_boxes().at(0).open(bytes.fromhex(found.event_id), found.reason, found.sealed)
    assert kept == Original(record.key, record.value, record.headers)
    assert CANARY.encode() not in value
    if found.stage == "authenticate":
        assert found.rule
    return found.reason, found.path


def without(record: RawRecord, *names: str, add: Headers = ()) -> RawRecord:
    headers = tuple(h for h in record.headers if h[0] not in names) + add
    return msgspec.structs.replace(record, headers=headers)


def test_a_signed_record_comes_out_byte_for_byte_as_an_unsigned_one_of_a_source_that_need_not() -> None:
    plain = RawRecord(0, RECEIVED, b"k", EVENT, (("source-id", b"shop"),))
    one, other = leg(), Leg()
    other.part = other.leg.open(0, {"subject-keys": one.table})
    assert one.run([signed()]) == other.run([plain])


def test_a_record_that_is_sealed_and_signed_passes_and_its_seal_key_cannot_be_exchanged() -> None:
    sealer = Sealer("shop", ring().public_keys(RECEIVED))
    value, seal_key = sealer.seal(EVENT, RECEIVED)
    record = signed(value, more=(("seal-key", seal_key),), key=None)
    assert fate(leg(), record) == ("protected", "")
    other = without(record, "seal-key", add=(("seal-key", bytes(len(seal_key))),))
    assert fate(leg(), other) == ("bad_signature", "source-signature")


PASSES, UNSIGNED, BAD = ("protected", ""), ("unsigned", "source-signature"), ("bad_signature", "source-signature")
NO_TIME, EXPIRED = ("bad_signature", "source-timestamp"), ("expired", "source-timestamp")
OFF = ("source_disabled", "source-id")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (signed(), PASSES),
        (signed(by=signer(OLD)), PASSES),
        (signed(by=signer(OLD), at=RECEIVED + 500), BAD),  # ended
        (signed(by=signer(OLD), at=RECEIVED + 499), PASSES),
        (signed(at=RECEIVED - 501), BAD),  # not begun
        (signed(by=signer(GONE)), BAD),  # its key is not in the ring
        (signed(by=signer(Secret("0000000f", 1, 0))), BAD),  # not one of the source's
        (signed(by=signer(source="other")), BAD),
        (signed(by=signer(topic="dev.events.raw")), BAD),
        (msgspec.structs.replace(signed(), key=b"other"), BAD),
        (msgspec.structs.replace(signed(), key=None), BAD),
        (msgspec.structs.replace(signed(), value=EVENT + b" "), BAD),
        (without(signed(), "source-signature"), UNSIGNED),
        (without(signed(), "source-signature", add=(("source-signature", b""),)), BAD),
        (without(signed(), "source-signature", add=(("source-signature", None),)), BAD),
        (without(signed(), "source-timestamp"), NO_TIME),
        (without(signed(), "source-timestamp", add=(("source-timestamp", b"-1"),)), NO_TIME),
        (without(signed(), "source-timestamp", add=(("source-timestamp", b"9" * 5_000),)), NO_TIME),
        (without(signed(), "source-timestamp", add=(("source-timestamp", "١".encode()),)), NO_TIME),
        (without(signed(), "source-timestamp", add=(("source-timestamp", b"1790000000001"),)), BAD),
        (signed(at=RECEIVED - WITHIN, written=RECEIVED), PASSES),
        (signed(at=RECEIVED + WITHIN, written=RECEIVED), PASSES),
        (signed(at=RECEIVED - WITHIN - 1, written=RECEIVED), EXPIRED),
        (signed(at=RECEIVED + WITHIN + 1, written=RECEIVED), EXPIRED),
        (signed(at=RECEIVED + 4_999), PASSES),
        (signed(at=RECEIVED + 5_000), OFF),
        (without(signed(at=RECEIVED + 5_999), "source-signature"), OFF),
        (signed(at=RECEIVED + 6_000), PASSES),
        (signed(more=(("source-id", b"other"),)), PASSES),  # the first one counts
        (without(signed(more=(("source-id", b"other"),)), "source-signature"), UNSIGNED),
        (without(signed(), "source-id", add=(("source-id", b"other"), ("source-id", b"shop"))), PASSES),  # of `other`
        (without(signed(), "none", add=(("source-signature", b"x"), ("source-timestamp", b"x"))), PASSES),
        (signed(more=(("seal-key", None),)), ("bad_seal", "")),  # a null header is there, and empty
        (signed(more=(("seal-key", b""),)), ("bad_seal", "")),
        (without(signed(), "none", add=(("seal-key", None),)), BAD),
        (signed(b""), ("empty", "")),
        (signed(None), ("empty", "")),
        (signed(b"{"), ("bad_json", "")),
        (without(signed(b"{"), "source-signature"), UNSIGNED),
    ],
)
def test_only_what_its_source_signed_in_its_own_time_passes(record: RawRecord, told: tuple[str, str]) -> None:
    assert fate(leg(), record) == told


@pytest.mark.parametrize("must_sign", [(), ("kiosk",), ("shop",), ("*",)])
@pytest.mark.parametrize("named", [True, False])
def test_before_it_was_registered_it_is_judged_as_one_that_is_not(must_sign: tuple[str, ...], named: bool) -> None:
    shop = msgspec.structs.replace(SHOP, name="shop" if named else "unknown")
    record = without(signed(at=SHOP.since), "source-signature", *(() if named else ("source-id",)))
    before = msgspec.structs.replace(record, timestamp=SHOP.since - 1)
    registered, unregistered = leg(shop, must_sign=must_sign), Leg(authenticator=authenticator(must_sign=must_sign))
    assert fate(registered, record) == UNSIGNED
    assert fate(registered, before) == fate(unregistered, before)
    asked = "*" in must_sign or (named and "shop" in must_sign)
    assert fate(registered, before) == (("unsigned", "source-id") if asked else PASSES)


@pytest.mark.parametrize("must_sign", [(), ("shop",)])
def test_a_source_that_must_sign_only_from_a_later_time_is_disabled_before_it(must_sign: tuple[str, ...]) -> None:
    found = leg(Source("shop", (NEW,), ((NEW.since - 400, NEW.since - 300),)), must_sign=must_sign)
    record = without(signed(), "source-signature")
    fates = [fate(found, msgspec.structs.replace(record, timestamp=NEW.since - n)) for n in (401, 400, 301, 300)]
    otherwise = ("unsigned", "source-id") if must_sign else PASSES
    assert fates == [otherwise, OFF, OFF, otherwise]


@pytest.mark.parametrize("header", [(("source-id", b"kiosk"),), (), (("source-id", None),), (("source-id", b"\xff"),)])
@pytest.mark.parametrize("must_sign", [(), ("kiosk",), ("unknown",), ("*",)])
def test_who_is_not_registered_passes_unless_he_must_be(header: Headers, must_sign: tuple[str, ...]) -> None:
    record = RawRecord(0, RECEIVED, None, EVENT, header)
    name = (header[0][1] or b"") if header else b"unknown"
    asked = "*" in must_sign or name.decode(errors="replace") in must_sign
    otherwise = PASSES if name in (b"kiosk", b"unknown") else ("bad_header", "source-id")
    assert fate(leg(must_sign=must_sign), record) == (("unsigned", "source-id") if asked else otherwise)


def test_the_operator_signs_and_nobody_can_be_registered_as_him() -> None:
    operator = Source("operator", (Secret("00000001", 1, RECEIVED),))
    found = leg(operator=operator)
    forged = RawRecord(0, RECEIVED, None, EVENT, (("source-id", b"operator"),))
    assert fate(found, forged) == UNSIGNED
    assert fate(found, signed(source="operator", by=signer(OLD, "operator"))) == PASSES
    with pytest.raises(Misuse, match="operator"):
        authenticator(Source("operator", (NEW,)), operator=operator)


def test_a_record_without_a_source_is_of_the_source_unknown_which_can_be_registered() -> None:
    found = leg(Source("unknown", (NEW,)))
    bare = RawRecord(0, RECEIVED, b"k", EVENT, ())
    assert fate(found, bare) == UNSIGNED
    at = str(RECEIVED).encode()
    signature = signer(source="unknown").sign(at, None, b"k", EVENT)
    headers = (("source-timestamp", at), ("source-signature", signature))
    assert fate(found, msgspec.structs.replace(bare, headers=headers)) == PASSES


def test_what_is_longer_than_it_may_be_is_told_so_and_not_hashed() -> None:
    long = b"x" * (1_001 + OVERHEAD)
    found = Leg(authenticator=authenticator(SHOP), max_event_bytes=1_000)
    assert fate(found, without(signed(long), "source-signature")) == ("too_large", "")
    assert fate(found, without(signed(long[:-1]), "source-signature")) == UNSIGNED


def test_rejects_and_the_rest_of_a_batch_keep_their_order() -> None:
    records = [msgspec.structs.replace(r, offset=n) for n, r in enumerate([
        signed(), without(signed(), "source-signature"), signed(b"{"), signed(by=signer(GONE)), signed(),
    ])]  # fmt: skip
    protected, rejected = leg().run(records)
    assert list(protected) == [0, 4]
    assert list(rejected) == [1, 2, 3]


def test_what_is_known_can_change_while_it_is_used_and_a_record_is_judged_by_its_own_time() -> None:
    known = authenticator(SHOP)
    found = Leg(authenticator=known)
    record = signed(by=signer(OLD))
    assert fate(found, record) == PASSES
    known.know([SHOP.revoked(OLD.kid, RECEIVED)])
    assert fate(found, record) == BAD
    known.know([SHOP.revoked(OLD.kid, RECEIVED + 1)])
    assert fate(found, record) == PASSES
    known.know([])
    assert fate(found, without(record, "source-signature")) == PASSES


TEXT = st.sampled_from([None, b"", b"shop", b"other", b"v1.00000002." + b"0" * 64, b"1790000000000", b"\xff"])
NAME = st.sampled_from(["source-id", "source-signature", "source-timestamp", "seal-key", "x"])


@given(headers=st.lists(st.tuples(NAME, TEXT), max_size=6), time=st.sampled_from([-1, 0, RECEIVED, 2**62]))
def test_whatever_the_headers_are_a_record_comes_out_on_one_side(headers: list[Any], time: int) -> None:
    record = RawRecord(0, time, b"k", EVENT, tuple(headers))
    protected, rejected = leg().run([record])
    assert len(protected) + len(rejected) == 1
    first = next((content for name, content in headers if name == "source-id"), None)
    if first == b"shop" and time >= SHOP.since:  # nothing above is its signature
        assert rejected


# -- once more, later ------------------------------------------------------------------------------------------------


def test_what_its_source_signed_is_signed_again_with_a_secret_that_is_valid_now() -> None:
    known, later = authenticator(SHOP), RECEIVED + 10 * WITHIN
    record = signed(by=signer(OLD), more=(("x", b"1"),))
    headers = known.signed_again(record, later)
    assert headers is not None
    again = msgspec.structs.replace(record, headers=headers, timestamp=later)
    assert fate(Leg(authenticator=known), again) == PASSES
    assert [h for h in headers if h[0] in ("source-id", "x")] == [("source-id", b"shop"), ("x", b"1")]
    assert len(headers) == len(record.headers)
    assert fate(Leg(authenticator=known), msgspec.structs.replace(record, timestamp=later)) == BAD
    expired = signed(at=RECEIVED, written=RECEIVED + 2 * WITHIN)
    assert known.signed_again(expired, later) is not None  # whether it may be is for the caller to say


@pytest.mark.parametrize(
    ("late", "reasons", "again"),
    [
        (False, (), True),
        (False, ("source_disabled",), True),
        (True, (), False),
        (True, ("expired",), True),
    ],
)
def test_replay_signs_again_but_what_was_expired_only_where_that_is_asked_for(
    late: bool, reasons: tuple[str, ...], again: bool
) -> None:
    record = signed(at=RECEIVED, written=RECEIVED + 2 * WITHIN) if late else signed(at=RECEIVED + 5_000)
    found = leg()
    _, rejected = found.run([record])
    sent: list[Original] = []
    later = RECEIVED + 100 * WITHIN
    run = Replay(
        ring(),
        authenticator(SHOP),
        frozenset(Reason(r) for r in reasons),
        None,
        {},
        lambda: later / 1000,
    )

    class Found:
        partition, offset, value = 0, 0, rejected[0]

    assert run.take(Found, lambda original, _: sent.append(original))
    (original,) = sent
    assert original.headers[-1] == ("replayed-from", b"events.raw//0/0")
    assert (fate(found, RawRecord(0, later, *original)) == PASSES) == again
    if not again:
        assert original.headers[:-1] == record.headers


@pytest.mark.parametrize(
    "record",
    [
        without(signed(), "source-signature"),
        without(signed(), "source-id"),
        msgspec.structs.replace(signed(), value=b"other"),
        signed(by=signer(OLD), at=RECEIVED + 500),
        signed(by=signer(source="other"), source="other"),
        RawRecord(0, SHOP.since - 1, None, EVENT, (("source-id", b"shop"),)),
    ],
)
def test_what_was_not_signed_in_its_time_is_not_signed_now(record: RawRecord) -> None:
    assert authenticator(SHOP).signed_again(record, RECEIVED) is None


def test_a_source_without_a_valid_secret_cannot_have_anything_signed_again() -> None:
    known = authenticator(SHOP.revoked(NEW.kid, RECEIVED + 1))
    assert known.signed_again(signed(), RECEIVED) is not None
    assert known.signed_again(signed(), RECEIVED + 10_000) is None
