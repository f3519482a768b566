"""A key file whose KEK a provider holds: nothing in it opens anything without the provider.

Mutations seen red: the KEK written in clear; a file of the other kind read; another provider's called damage; the KEK
wrapped anew when the file is written again.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from pipeline.adapters import keyfile
from pipeline.crypto.data_kek import DataKek
from pipeline.crypto.keyring import KeyRing
from pipeline.errors import Corrupt, Misuse, Transient
from tests.crypto.test_data_kek import Provider


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def ring(provider: Provider) -> KeyRing:
    return KeyRing.generate(os.urandom, 1_700_000_000_000, DataKek.generate(provider, os.urandom))


@pytest.fixture
def made(tmp_path: Path, ring: KeyRing) -> Path:
    keyfile.create(tmp_path / "keys.json", ring)
    return tmp_path / "keys.json"


def test_it_reads_back_with_the_provider_which_is_asked_once(made: Path, ring: KeyRing, provider: Provider) -> None:
    before = provider.asked
    again = keyfile.load(made, provider)
    assert again.keys == ring.keys
    assert provider.asked == before + 1
    assert isinstance(again.kek, DataKek)


def test_no_key_stands_in_it(made: Path, ring: KeyRing) -> None:
    assert isinstance(ring.kek, DataKek)
    content = made.read_bytes()
    read = json.loads(content)
    assert (read["format"], list(read)) == ("sealstream/key-file/2", ["format", "kek", "ring"])
    assert base64.b64decode(read["kek"]) == ring.kek.wrapped
    for key in (ring.kek.export(), *(k.key for k in ring.keys if k.key is not None)):
        for shown in (key, key.hex().encode(), base64.b64encode(key), base64.b64encode(key)[:20]):
            assert shown not in content


def test_written_again_the_provider_is_not_asked_and_the_bytes_are_the_same(
    made: Path, provider: Provider, tmp_path: Path
) -> None:
    ring = keyfile.load(made, provider)
    provider.away = True
    keyfile.create(tmp_path / "again.json", ring)
    assert (tmp_path / "again.json").read_bytes() == made.read_bytes()


def test_without_a_provider_it_is_misuse_that_says_what_to_set(made: Path) -> None:
    with pytest.raises(Misuse, match="set SEALSTREAM_KEK"):
        keyfile.load(made)


def test_a_file_with_its_kek_in_clear_is_refused_where_a_provider_is_set(tmp_path: Path, provider: Provider) -> None:
    """Else who can write the file could bring keys of his own."""
    keyfile.create(tmp_path / "clear.json", KeyRing.generate(os.urandom, 0))
    with pytest.raises(Misuse, match="in clear"):
        keyfile.load(tmp_path / "clear.json", provider)
    assert not provider.asked


def test_another_key_at_the_provider_is_corrupt_and_says_which_file(made: Path) -> None:
    with pytest.raises(Corrupt, match="its KEK cannot be opened") as raised:
        keyfile.load(made, Provider(b"k" * 32))
    assert str(made) in str(raised.value)
    assert "damaged" not in str(raised.value)


def test_a_provider_that_is_away_is_transient(made: Path, provider: Provider) -> None:
    provider.away = True
    with pytest.raises(Transient):
        keyfile.load(made, provider)


def test_any_changed_byte_of_the_file_is_refused(made: Path, provider: Provider) -> None:
    content = made.read_bytes()
    for i in range(0, len(content), 11):
        made.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(Corrupt):
            keyfile.load(made, provider)
