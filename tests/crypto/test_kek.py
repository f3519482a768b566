"""Guarantee: a wrapped key opens to itself under its own KEK, id and place; anything else is Corrupt.

Mutations seen red: the commitment not compared, or without the key id; the size not checked; the AAD neither
authenticated nor in the nonce; the KEK's id not compared; the record's format not checked; `InvalidTag` let through.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.kek import COMMITMENT_BYTES, Kek, LocalKek, commitment, unwrap_key, wrap_key
from pipeline.errors import Corrupt, Transient

KEK = LocalKek(bytes(range(32)))
OTHER = LocalKek(bytes(32))
KEY = b"\xa5" * 32
KEYS = st.binary(min_size=32, max_size=32)
ID, AAD = b"email-id", b"for: email-id"
RECORD = wrap_key(KEK, KEY, ID, AAD)


class Agreeable:
    """A KEK that does not notice what it unwraps: it gives whatever key it is made with."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        return b"\x01wrapped"

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        return self._key


class Away:
    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        raise Transient("the provider is away")

    unwrap = wrap


@given(KEYS, KEYS, st.binary(max_size=40), st.binary(max_size=80))
def test_a_key_comes_back_and_wraps_to_the_same_bytes_again(kek: bytes, key: bytes, key_id: bytes, aad: bytes) -> None:
    record = wrap_key(LocalKek(kek), key, key_id, aad)
    assert unwrap_key(LocalKek(kek), record, key_id, aad) == key
    assert wrap_key(LocalKek(kek), key, key_id, aad) == record
    assert len(record) == 90
    assert key not in record


@given(KEYS, st.binary(max_size=40), st.binary(max_size=40))
def test_the_same_key_for_two_places_does_not_look_the_same(key: bytes, one: bytes, other: bytes) -> None:
    behind_the_heads = len(RECORD) - 48
    assert (wrap_key(KEK, key, ID, one)[behind_the_heads:] == wrap_key(KEK, key, ID, other)[behind_the_heads:]) == (
        one == other
    )


def test_a_changed_bit_anywhere_is_corrupt() -> None:
    for bit in range(len(RECORD) * 8):
        changed = bytearray(RECORD)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            unwrap_key(KEK, bytes(changed), ID, AAD)


def test_a_cut_anywhere_is_corrupt() -> None:
    for at in range(len(RECORD)):
        for broken in (RECORD[:at], RECORD[at + 1 :], RECORD[:at] + RECORD[at + 1 :]):
            with pytest.raises(Corrupt):
                unwrap_key(KEK, broken, ID, AAD)


@given(st.binary(min_size=1, max_size=100))
def test_anything_else_before_behind_or_instead_is_corrupt(more: bytes) -> None:
    for broken in (RECORD + more, more + RECORD, more, RECORD[:33] + more, RECORD[:42] + more):
        with pytest.raises(Corrupt):
            unwrap_key(KEK, broken, ID, AAD)


@pytest.mark.parametrize(
    ("kek", "key_id", "aad"),
    [(OTHER, ID, AAD), (KEK, b"other-id", AAD), (KEK, ID, b"for: other-id"), (KEK, ID, b""), (KEK, b"", AAD)],
    ids=["kek", "key id", "aad", "no aad", "no key id"],
)
def test_it_opens_only_under_its_kek_key_id_and_aad(kek: LocalKek, key_id: bytes, aad: bytes) -> None:
    with pytest.raises(Corrupt):
        unwrap_key(kek, RECORD, key_id, aad)


def test_another_kek_is_told_from_damage() -> None:
    with pytest.raises(Corrupt, match="under another KEK"):
        OTHER.unwrap(KEK.wrap(KEY, AAD), AAD)
    with pytest.raises(Corrupt, match="does not read back"):
        KEK.unwrap(KEK.wrap(KEY, AAD)[:-1], AAD)


@given(KEYS, KEYS)
def test_what_a_kek_gives_is_compared_with_the_commitment(made: bytes, given_back: bytes) -> None:
    record = wrap_key(Agreeable(made), made, ID, AAD)
    if made == given_back:
        assert unwrap_key(Agreeable(given_back), record, ID, AAD) == made
    else:
        with pytest.raises(Corrupt, match="key commitment"):
            unwrap_key(Agreeable(given_back), record, ID, AAD)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_what_a_kek_gives_must_have_the_size_of_a_key_even_if_committed_to(size: int) -> None:
    short = bytes(size)
    record = b"\x01" + commitment(short, ID) + b"\x01wrapped"
    with pytest.raises(Corrupt):
        unwrap_key(Agreeable(short), record, ID, AAD)


def test_the_commitment_is_to_the_key_and_its_id_in_full() -> None:
    assert len(commitment(KEY, ID)) == COMMITMENT_BYTES == 32
    assert RECORD[1:33] == commitment(KEY, ID)
    assert len({commitment(KEY, ID), commitment(KEY, b""), commitment(bytes(32), ID)}) == 3


def test_a_provider_that_is_away_is_transient_and_not_corrupt() -> None:
    away: Kek = Away()
    with pytest.raises(Transient):
        wrap_key(away, KEY, ID, AAD)
    with pytest.raises(Transient):
        unwrap_key(away, RECORD, ID, AAD)


@given(KEYS)
def test_the_kek_id_is_derived_from_the_key_and_is_in_what_it_wraps(key: bytes) -> None:
    kek = LocalKek(key)
    assert len(bytes.fromhex(kek.kek_id)) == 8
    assert kek.kek_id == LocalKek(key).kek_id
    assert bytes.fromhex(kek.kek_id) not in key
    assert kek.wrap(b"x", b"")[1:9].hex() == kek.kek_id
    assert kek.export() == key


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_kek_of_another_size_is_refused_without_its_content(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes") as raised:
        LocalKek(b"C" * size)
    assert "CCC" not in str(raised.value)


def test_nothing_of_a_key_is_in_a_repr_or_a_message() -> None:
    kek = LocalKek(b"K" * 32)
    assert repr(kek) == str(kek) == "LocalKek(…)"
    for record in (RECORD, RECORD[:50], wrap_key(kek, b"L" * 32, b"other-id", AAD)):
        with pytest.raises(Corrupt) as raised:
            unwrap_key(kek, record, ID, AAD)
        assert not any(part in str(raised.value) for part in ("KKK", "LLL", KEY.hex()[:6], ID.decode()))
        assert raised.value.__cause__ is None
