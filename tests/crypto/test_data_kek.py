"""The KEK that a provider has wrapped: opened only as what it was, and the provider is asked for it alone.

Mutations seen red: the KEK id not compared; not in the AAD; the domain left out; `open` gives a new record; the
provider asked for subject keys.
"""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest

from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.data_kek import DataKek
from pipeline.crypto.epochs import Epochs
from pipeline.crypto.kek import LocalKek, wrap_key
from pipeline.crypto.subjects import SubjectKeys
from pipeline.errors import Corrupt, Transient
from pipeline.events import frame


class Provider:
    """A KEK elsewhere that counts what it is asked; `away` raises."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        self._kek, self.asked, self.away = LocalKek(key), 0, False
        self.aads: list[bytes] = []

    def _ask(self, aad: bytes) -> None:
        if self.away:
            raise Transient("away")
        self.asked += 1
        self.aads.append(aad)

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        self._ask(aad)
        return b"\x04" + self._kek.wrap(plain, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        self._ask(aad)
        return self._kek.unwrap(wrapped[1:], aad)


def test_it_opens_as_the_kek_that_it_was_and_keeps_its_record() -> None:
    provider = Provider()
    made = DataKek.generate(provider, os.urandom)
    opened = DataKek.open(provider, made.wrapped)
    assert (opened.export(), opened.wrapped, opened.kek_id) == (made.export(), made.wrapped, made.kek_id)
    assert made.export() not in made.wrapped
    assert provider.asked == 2


def test_its_bytes_are_those_of_the_document() -> None:
    """docs/crypto.md, computed here once more."""
    provider, key = Provider(), bytes(range(32))
    kek_id = hmac.digest(key, frame(b"sealstream/kek-id/1"), "sha256")[:8]
    commitment = hmac.digest(key, frame(b"sealstream/commit/1", kek_id), hashlib.sha256)
    aad = frame(b"sealstream/data-kek/1", kek_id)
    made = DataKek.generate(provider, lambda n: key[:n])
    assert made.wrapped == kek_id + b"\x01" + commitment + Provider().wrap(key, aad)
    assert provider.aads == [aad]


def test_whatever_is_changed_in_it_does_not_open() -> None:
    provider = Provider()
    wrapped, other = (DataKek.generate(provider, os.urandom).wrapped for _ in range(2))
    for i in range(len(wrapped)):
        if i == 41:  # the provider's own byte, which it looks at itself
            continue
        with pytest.raises(Corrupt):
            DataKek.open(provider, wrapped[:i] + bytes([wrapped[i] ^ 0x80]) + wrapped[i + 1 :])
    for n in (0, 7, 8, 40, 41, len(wrapped) - 1):
        with pytest.raises(Corrupt):
            DataKek.open(provider, wrapped[:n])
    with pytest.raises(Corrupt):
        DataKek.open(provider, wrapped[:8] + other[8:])


def test_a_record_that_calls_a_key_by_anothers_id_does_not_open() -> None:
    """Made by somebody who may use the provider, too."""
    provider, kek_id = Provider(), b"8 bytes."
    record = wrap_key(provider, b"k" * 32, kek_id, frame(b"sealstream/data-kek/1", kek_id))
    with pytest.raises(Corrupt, match="not the one"):
        DataKek.open(provider, kek_id + record)


def test_a_provider_that_is_away_is_transient() -> None:
    provider = Provider()
    wrapped = DataKek.generate(provider, os.urandom).wrapped
    provider.away = True
    with pytest.raises(Transient):
        DataKek.open(provider, wrapped)
    with pytest.raises(Transient):
        DataKek.generate(provider, os.urandom)


def test_subject_keys_are_made_and_opened_without_the_provider() -> None:
    provider, table = Provider(), MemoryTable()
    kek = DataKek.generate(provider, os.urandom)
    provider.away = True
    made = SubjectKeys(table, Epochs((), kek)).get("email.1.a", 0)
    assert SubjectKeys(table, Epochs((), LocalKek(kek.export()))).get("email.1.a", 0).name == made.name
    assert provider.asked == 1


def test_its_picture_has_no_key() -> None:
    kek = DataKek(b"K" * 32, b"wrapped")
    assert "K" * 4 not in repr(kek) + str(kek)
