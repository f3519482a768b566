"""Guarantee: what a producer sealed opens to the same bytes, in its own record, source and session alone, by the key
that it was sealed to; and no nonce is used twice under a session's key.

Mutations seen red: the AAD without source and session id, or of neither and the info; a session
remembered by its header alone; a counter that stands still, or is random; no lock; a bound one too far, none in time, a
clock set back that goes on; no look at the process id; a sealer that can be copied; the same session key again; the
highest key whatever its time; the key id, the form or the length of header and value not checked; a failed session that
raises; a document without keys; a header of any length remembered.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto import sessions
from pipeline.crypto.seal import SealBroken
from pipeline.crypto.sessions import (
    OVERHEAD,
    Opener,
    PublicKey,
    Sealer,
    UnknownKey,
    public_key,
    read_public,
    write_public,
)
from pipeline.errors import Misuse
from pipeline.events import frame

NOW = 1_790_000_000_000
PRIVATE, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = public_key(1, 0, PRIVATE)
OPENER = Opener([PRIVATE])
EVENT = b'{"canary":"canary.4f1b@example.com"}'
KEY_ID = range(1, 9)
"""Where the key id stands in `seal-key`."""


def sealer(source: str = "shop", *keys: PublicKey) -> Sealer:
    return Sealer(source, keys or [PUBLIC])


def refused(seal_key: bytes, value: bytes, source: str = "shop", opener: Opener = OPENER) -> bool:
    try:
        opener.open(source, seal_key, value)
    except (SealBroken, UnknownKey):
        return True
    return False


# -- opening ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_what_was_sealed_opens_record_by_record_in_any_order(events: list[bytes], random) -> None:  # type: ignore[no-untyped-def]
    made = sealer()
    sealed = [(event, *made.seal(event, NOW)) for event in events]
    random.shuffle(sealed)
    opener = Opener([OTHER, PRIVATE])
    for event, value, seal_key in (*sealed, *sealed):
        assert opener.open("shop", seal_key, value) == event
        assert len(value) == len(event) + OVERHEAD
        assert Opener([PRIVATE]).open("shop", seal_key, value) == event


def test_any_flipped_bit_is_refused() -> None:
    value, seal_key = sealer().seal(EVENT, NOW)
    for bit in range(len(value) * 8):
        assert refused(seal_key, flipped(value, bit)), bit
    for bit in range(len(seal_key) * 8):
        with pytest.raises(UnknownKey if bit // 8 in KEY_ID else SealBroken):
            OPENER.open("shop", flipped(seal_key, bit), value)


def flipped(content: bytes, bit: int) -> bytes:
    made = bytearray(content)
    made[bit // 8] ^= 1 << bit % 8
    return bytes(made)


def test_any_cut_or_addition_is_refused() -> None:
    value, seal_key = sealer().seal(EVENT, NOW)
    for at in range(len(value)):
        assert refused(seal_key, value[:at])
        assert refused(seal_key, value[at + 1 :])
    for at in range(len(seal_key)):
        assert refused(seal_key[:at], value)
        assert refused(seal_key[at + 1 :], value)
    assert refused(seal_key, value + b"\0")
    assert refused(seal_key + b"\0", value)


def test_a_header_of_another_session_does_not_open_a_record() -> None:
    (one, its_key), (two, other_key) = sealer().seal(EVENT, NOW), sealer().seal(EVENT, NOW)
    assert refused(other_key, one)
    assert refused(its_key, two)
    assert not refused(its_key, one)


def test_the_counter_of_another_record_does_not_open_a_record() -> None:
    made = sealer()
    (one, seal_key), (two, _) = made.seal(EVENT, NOW), made.seal(EVENT, NOW)
    assert refused(seal_key, one[:2] + two[2:10] + one[10:])


def test_a_record_opens_as_its_own_source_alone_whether_its_session_is_remembered_or_not() -> None:
    value, seal_key = sealer().seal(EVENT, NOW)
    assert refused(seal_key, value, "shop2", Opener([PRIVATE]))
    opener = Opener([PRIVATE])
    assert opener.open("shop", seal_key, value) == EVENT
    for source in ("shop2", "Shop", "", "sho"):
        assert refused(seal_key, value, source, opener)
    assert opener.open("shop", seal_key, value) == EVENT


def test_another_key_than_it_was_sealed_to_is_unknown_and_does_not_open_under_a_forged_id() -> None:
    value, seal_key = sealer().seal(EVENT, NOW)
    for opener in (Opener([]), Opener([OTHER])):
        with pytest.raises(UnknownKey):
            opener.open("shop", seal_key, value)
    forged = seal_key[:1] + public_key(1, 0, OTHER).key_id + seal_key[9:]
    with pytest.raises(SealBroken):
        Opener([OTHER, PRIVATE]).open("shop", forged, value)


def test_a_session_that_was_forgotten_or_never_opened_gives_the_same_answer_again() -> None:
    opener = Opener([PRIVATE], cached=2)
    sealed = [sealer().seal(EVENT, NOW) for _ in range(4)]
    for value, seal_key in sealed * 2:
        assert opener.open("shop", seal_key, value) == EVENT
        assert refused(seal_key, value, "other", opener)
        assert refused(seal_key, value, "other", opener)
    assert opener._session.cache_info().currsize == 2


def test_a_header_that_can_be_none_is_not_remembered() -> None:
    value, seal_key = sealer().seal(EVENT, NOW)
    opener = Opener([PRIVATE])
    for header in (b"", seal_key[:-1], seal_key + b"\0", seal_key * 10_000, bytes(2_000_000)):
        with pytest.raises(SealBroken):
            opener.open("shop", header, value)
    assert opener._session.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("form", "key", "opens"),
    [
        (b"\x01", bytes(32), True),
        (b"\x02", bytes(32), False),
        (b"\x01", bytes(16), False),
        (b"\x01", b"", False),
        (b"\x01", bytes(33), False),
    ],
)
def test_what_somebody_seals_in_another_form_does_not_open(form: bytes, key: bytes, opens: bool) -> None:
    """Everybody has the public key, so a session may hold anything."""
    to = X25519PublicKey.from_public_bytes(PUBLIC.public)
    info = frame(b"sealstream/session/1", PUBLIC.key_id, b"shop")
    seal_key = form + PUBLIC.key_id + sessions.SUITE.encrypt(key, to, info)
    session_id = hashlib.sha256(frame(b"sealstream/session-id/1", seal_key)).digest()[:16]
    aad = frame(b"sealstream/sealed-event/1", b"shop", session_id, bytes(8))
    sealed = AESGCM(key if len(key) in (16, 32) else bytes(32)).encrypt(bytes(12), EVENT, aad)
    assert refused(seal_key, b"\xf5\x01" + bytes(8) + sealed) != opens


# -- sessions --------------------------------------------------------------------------------------------------------


def used(made: Sealer, times: int, now: int = NOW) -> list[tuple[bytes, bytes]]:
    """(seal-key, counter) of so many events: what a nonce and its key are made of."""
    sealed = [made.seal(EVENT, now) for _ in range(times)]
    return [(seal_key, value[2:10]) for value, seal_key in sealed]


def test_a_session_ends_at_its_bound_and_no_counter_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_EVENTS", 5)
    found = used(sealer(), 23)
    assert len(set(found)) == 23
    assert len({seal_key for seal_key, _ in found}) == 5
    assert [int.from_bytes(counter, "big") for _, counter in found] == [i % 5 for i in range(23)]


class Slow(int):
    """A counter that is read slowly: whoever else may, comes in between."""

    def to_bytes(self, *args: object, **more: object) -> bytes:
        time.sleep(0.001)
        return int(self).to_bytes(8, "big")

    def __add__(self, other: int) -> Slow:
        return Slow(int(self) + other)


def test_threads_never_share_a_counter() -> None:
    made = sealer()
    first = used(made, 1)
    made._counter = Slow(made._counter)
    with ThreadPoolExecutor(8) as pool:
        found = first + [pair for part in pool.map(lambda _: used(made, 10), range(8)) for pair in part]
    assert len(set(found)) == len(found) == 81
    assert len({seal_key for seal_key, _ in found}) == 1


def test_the_nonce_is_the_counter_and_the_key_is_the_sessions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSION_EVENTS", 2)
    nonces: list[tuple[bytes, bytes]] = []

    class Recording:
        def __init__(self, key: bytes) -> None:
            self.key = key

        def encrypt(self, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
            nonces.append((self.key, nonce))
            return plain

    monkeypatch.setattr(sessions, "AESGCM", Recording)
    used(sealer(), 6)
    assert len(set(nonces)) == 6
    assert len({key for key, _ in nonces}) == 3
    assert [nonce for _, nonce in nonces] == [bytes(11) + bytes([i % 2]) for i in range(6)]


@pytest.mark.parametrize(("later", "same"), [(0, True), (3_599_999, True), (3_600_000, False), (-1, False)])
def test_a_session_lasts_an_hour_and_a_clock_that_was_set_back_ends_it(later: int, same: bool) -> None:
    made = sealer()
    (one, _), (two, _) = used(made, 1) + used(made, 1, NOW + later)
    assert (one == two) == same


def test_a_forked_process_begins_its_own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sealer()
    before = used(made, 2)
    monkeypatch.setattr(os, "getpid", lambda: -7)
    child = used(made, 2)
    assert len({*before, *child}) == 4
    assert {seal_key for seal_key, _ in before}.isdisjoint(seal_key for seal_key, _ in child)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_sealer_is_not_copied(copied) -> None:  # type: ignore[no-untyped-def]
    made = sealer()
    made.seal(EVENT, NOW)
    with pytest.raises(TypeError, match="cannot be copied"):
        copied(made)


def test_a_session_that_cannot_begin_seals_nothing() -> None:
    """The neutral point is no key of anybody."""
    made = sealer("shop", PublicKey(1, 0, bytes(32)))
    for _ in range(2):
        with pytest.raises(ValueError, match="shared key"):
            made.seal(EVENT, NOW)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "private"), [(0, 1), (999, 1), (1_000, 1), (1_999, 1), (2_000, 2), (9_000, 3)])
def test_a_session_is_sealed_to_the_key_that_is_active_by_the_producers_clock(now: int, private: int) -> None:
    keys = [public_key(v, v * 1_000, bytes([v]) * 32) for v in (3, 1, 2)]
    value, seal_key = sealer("shop", *keys).seal(EVENT, now)
    assert Opener([bytes([private]) * 32]).open("shop", seal_key, value) == EVENT


def test_the_document_of_public_keys_reads_back_in_order_and_shows_no_private_one() -> None:
    keys = [public_key(v, v, bytes([v]) * 32) for v in (2, 1)]
    document = write_public(keys)
    assert read_public(document) == (keys[1], keys[0])
    assert all(bytes([v]) * 8 not in document for v in (1, 2))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format":"sealstream/producer-keys/1","keys":[]}',
        b'{"format":"sealstream/producer-keys/2","keys":[{"version":1,"active_from":0,"public":"'
        + b"A" * 43
        + b'="}]}',
        b'{"format":"sealstream/producer-keys/1","keys":[{"version":1,"active_from":0,"public":"AAAA"}]}',
        b'{"format":"sealstream/producer-keys/1","keys":[{"version":1,"public":"AAAA"}]}',
        b'{"keys":' + b"[" * 100_000,
    ],
)
def test_a_document_that_is_none_is_misuse(document: bytes) -> None:
    with pytest.raises(Misuse, match="keys public --json"):
        read_public(document)


def test_reprs_show_nothing() -> None:
    made = sealer()
    made.seal(EVENT, NOW)
    assert (repr(made), repr(OPENER)) == ("Sealer(…)", "Opener(…)")
