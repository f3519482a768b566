"""Guarantee: a sealed value opens only with its key, at its schema, path and event, unchanged; and is deterministic.

Mutations seen red: AAD without the path; without the schema; without the event id; without the key id; path and schema
joined without lengths; a random nonce; the nonce without the path's tag; a changed head accepted.
"""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.crypto.seal import SealBroken, SealPath, SubjectKey, key_id_of
from pipeline.errors import SealstreamError

KEYS = st.binary(min_size=32, max_size=32)
KEY_IDS = st.binary(min_size=8, max_size=8)
EVENT_IDS = st.binary(min_size=16, max_size=16)
NAMES = st.text("ab./1é", max_size=8)
PLAIN = st.binary(max_size=100)

KEY = SubjectKey(b"subject1", bytes(range(32)))
AT = SealPath("identify/1", "traits.email")
EVENT = bytes(range(16))


def seal(key: SubjectKey, at: SealPath, event_id: bytes, plain: bytes) -> bytes:
    return key.seal_all(event_id, [(at, plain)])[at.path]


def framed(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


@given(KEYS, KEY_IDS, EVENT_IDS, NAMES, NAMES, PLAIN)
def test_a_seal_is_what_the_format_says(
    key: bytes, key_id: bytes, event_id: bytes, schema: str, path: str, plain: bytes
) -> None:
    nonce = event_id[:8] + hashlib.sha256(framed(b"sealstream/seal-path/1", path.encode())).digest()[:4]
    aad = framed(b"sealstream/seal/1", schema.encode(), path.encode(), event_id, key_id)
    expected = b"\x01" + key_id + AESGCMSIV(key).encrypt(nonce, plain, aad)
    subject_key, at = SubjectKey(key_id, key), SealPath(schema, path)
    assert subject_key.seal_all(event_id, [(at, plain)]) == {at.path: expected}
    assert subject_key.open(at, event_id, expected) == plain
    assert key_id_of(expected) == key_id


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES), PLAIN)
def test_a_value_moved_to_another_field_or_schema_does_not_open(
    here: tuple[str, str], there: tuple[str, str], plain: bytes
) -> None:
    assume(here != there)
    with pytest.raises(SealBroken):
        KEY.open(SealPath(*there), EVENT, seal(KEY, SealPath(*here), EVENT, plain))


def test_a_value_moved_between_fields_with_equal_nonces_does_not_open_either() -> None:
    """Two paths whose 4-byte tags are equal exist: the AAD alone must keep them apart."""
    here, there = SealPath("a/1", "x"), SealPath("a/1", "y")
    there.nonce_tag = here.nonce_tag
    sealed = seal(KEY, here, EVENT, b"plain")
    assert seal(KEY, there, EVENT, b"plain") != sealed
    with pytest.raises(SealBroken):
        KEY.open(there, EVENT, sealed)
    moved = SealPath("a/1x", "")  # the same letters, cut elsewhere
    moved.nonce_tag = here.nonce_tag
    with pytest.raises(SealBroken):
        KEY.open(moved, EVENT, sealed)


@given(EVENT_IDS, EVENT_IDS, PLAIN)
def test_a_value_moved_to_another_event_does_not_open(here: bytes, there: bytes, plain: bytes) -> None:
    assume(here != there)
    sealed = seal(KEY, AT, here, plain)
    for event_id in (there, here[:8] + there[8:]):
        if event_id != here:
            with pytest.raises(SealBroken):
                KEY.open(AT, event_id, sealed)


@given(PLAIN)
def test_a_value_of_another_key_does_not_open(plain: bytes) -> None:
    sealed = seal(KEY, AT, EVENT, plain)
    for other in (SubjectKey(b"subject1", b"x" * 32), SubjectKey(b"subject2", bytes(range(32)))):
        with pytest.raises(SealBroken):
            other.open(AT, EVENT, sealed)
    renamed = SubjectKey(b"subject2", bytes(range(32)))
    with pytest.raises(SealBroken):  # the same key under another id: its id is authenticated
        renamed.open(AT, EVENT, b"\x01subject2" + sealed[9:])


@given(PLAIN, st.data())
def test_a_flipped_bit_or_a_cut_is_refused(plain: bytes, data: st.DataObject) -> None:
    sealed = seal(KEY, AT, EVENT, plain)
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    for broken in (bytes(flipped), sealed[: bit // 8], sealed[bit // 8 + 1 :], sealed + b"\0"):
        with pytest.raises(SealBroken):
            KEY.open(AT, EVENT, broken)


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert len({seal(SubjectKey(b"subject1", b"k" * 32), AT, EVENT, b"plain") for _ in range(5)}) == 1


def test_one_events_fields_have_different_nonces_so_equal_values_look_different() -> None:
    paths = [f"traits.{n}" for n in range(2000)]
    assert len({SealPath("identify/1", p).nonce_tag for p in paths}) == len(paths)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_an_event_id_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        KEY.seal_all(bytes(size), [])
    with pytest.raises(SealBroken):
        KEY.open(AT, bytes(size), seal(KEY, AT, EVENT, b""))


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x02" + bytes(40), b"\x01" + bytes(23)])
def test_the_key_id_of_something_else_is_refused(sealed: bytes) -> None:
    with pytest.raises(SealBroken):
        key_id_of(sealed)


def test_keys_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        SubjectKey(b"short", bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        SubjectKey(b"subject1", bytes(16))


def test_the_error_and_the_repr_hold_no_content() -> None:
    with pytest.raises(SealBroken) as raised:
        KEY.open(AT, EVENT, b"\x01subject1" + b"canary" * 10)
    assert "canary" not in repr(raised.value)
    assert "subject" not in repr(raised.value)
    assert isinstance(raised.value, SealstreamError)
    assert repr(KEY) == "SubjectKey(…)"
