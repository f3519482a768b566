"""Guarantee: what was rejected comes back exactly as it was sent, and only at its event and reason.

Mutations seen red: None framed as empty; AAD without the event id; without the reason; header names without a length;
a random nonce; the end of the content not checked.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.rejects import Original, RejectBox, pack, unpack
from pipeline.crypto.seal import SealBroken

BOX = RejectBox(1, bytes(range(32)))
EVENT = bytes(range(16))
OPTIONAL = st.none() | st.binary(max_size=40)
HEADERS = st.lists(st.tuples(st.text(max_size=5), OPTIONAL), max_size=4).map(tuple)
CONTENTS = st.tuples(OPTIONAL, OPTIONAL, HEADERS)


@given(CONTENTS)
def test_what_was_sealed_comes_back(content: tuple) -> None:  # type: ignore[type-arg]
    sealed = BOX.seal(EVENT, "bad_json", *content)
    assert tuple(BOX.open(EVENT, "bad_json", sealed)) == content
    assert sealed == BOX.seal(EVENT, "bad_json", *content)


@given(CONTENTS, CONTENTS)
def test_different_contents_are_framed_differently(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    assert (pack(*one) == pack(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((None, b"", ()), (b"", None, ())),
        ((None, None, (("a", None),)), (None, None, (("a", b""),))),
        ((b"ab", b"c", ()), (b"a", b"bc", ())),
        ((None, None, (("a", b"b"), ("c", None))), (None, None, (("ab", b""), ("c", None)))),
    ],
)
def test_contents_that_look_alike_are_kept_apart(one: tuple, other: tuple) -> None:  # type: ignore[type-arg]
    assert pack(*one) != pack(*other)
    assert tuple(unpack(pack(*one))) == one
    assert tuple(unpack(pack(*other))) == other


@given(CONTENTS, st.data())
def test_a_flipped_bit_or_a_cut_is_refused(content: tuple, data: st.DataObject) -> None:  # type: ignore[type-arg]
    sealed = BOX.seal(EVENT, "bad_json", *content)
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    for broken in (bytes(flipped), sealed[: bit // 8], sealed + b"\0"):
        with pytest.raises(SealBroken):
            BOX.open(EVENT, "bad_json", broken)


def test_it_opens_only_at_its_event_reason_and_key() -> None:
    sealed = BOX.seal(EVENT, "bad_json", b"k", b"v", ())
    same_nonce = EVENT[:12] + b"else"
    for box, event, reason in [
        (BOX, same_nonce, "bad_json"),
        (BOX, EVENT[::-1], "bad_json"),
        (BOX, EVENT[:12], "bad_json"),
        (BOX, EVENT, "bad_type"),
        (RejectBox(2, bytes(range(32))), EVENT, "bad_json"),
        (RejectBox(1, bytes(32)), EVENT, "bad_json"),
    ]:
        with pytest.raises(SealBroken):
            box.open(event, reason, sealed)


@given(CONTENTS, st.binary(min_size=1, max_size=3))
def test_content_with_anything_missing_or_behind_it_is_refused(content: tuple, more: bytes) -> None:  # type: ignore[type-arg]
    packed = pack(*content)
    with pytest.raises(SealBroken):
        unpack(packed + more)
    with pytest.raises(SealBroken):
        unpack(packed[:-1])


@pytest.mark.parametrize("content", [b"\x02", b"\x00\x00\x00\x00\x00\x01" + b"\x00\x00\x00\x01a\x02"])
def test_content_that_was_never_packed_is_refused_even_under_the_right_key(content: bytes) -> None:
    aad = b"".join(len(p).to_bytes(4, "big") + p for p in (b"sealstream/reject/1", b"rejects.1", EVENT, b"bad_json"))
    forged = b"\x01" + AESGCMSIV(bytes(range(32))).encrypt(EVENT[:12], content, aad)
    with pytest.raises(SealBroken):
        BOX.open(EVENT, "bad_json", forged)


def test_ten_megabytes_come_back() -> None:
    value = bytes(10_000_000)
    assert BOX.open(EVENT, "too_large", BOX.seal(EVENT, "too_large", None, value, ())).value == value


def test_odd_header_names_come_back() -> None:
    headers = (("", b""), ("na\udcffme", None), ("é" * 1000, b"x"), ("a", b"1"), ("a", b"2"))
    assert BOX.open(EVENT, "bad_header", BOX.seal(EVENT, "bad_header", None, None, headers)).headers == headers


def test_an_event_id_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        BOX.seal(b"short", "bad_json", None, None, ())


def test_reprs_hold_no_content() -> None:
    original = BOX.open(EVENT, "bad_json", BOX.seal(EVENT, "bad_json", b"canary", b"canary", (("canary", b"canary"),)))
    assert "canary" not in repr(original)
    assert repr(BOX) == "RejectBox('rejects.1')"


def test_long_content_is_compressed_and_stays_bound_to_its_form() -> None:
    value = b"0123456789" * 300_000
    sealed = BOX.seal(EVENT, "too_large", b"k", value, [("h", b"v")])
    assert sealed[:1] == b"\x02"
    assert len(sealed) < len(value) // 50
    assert BOX.open(EVENT, "too_large", sealed) == Original(b"k", value, (("h", b"v"),))
    for other in (b"\x01", b"\x00", b"\x03"):
        with pytest.raises(SealBroken):
            BOX.open(EVENT, "too_large", other + sealed[1:])
