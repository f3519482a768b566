"""Signatures of sources. The formats: `tests/crypto/test_vectors.py`.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.signatures import SourceKeys, SourceSecret, kid_of
from pipeline.errors import Misuse

KEYS = SourceKeys({1: bytes(range(32)), 3: bytes(32)})
SECRET = SourceSecret("0a1b2c3d", bytes(range(32)))
SIGNED = (b"1790000000000", b"seal", b"key", b"value")
PART = st.none() | st.binary(max_size=6)


def secret(version: int, source: str, kid: str) -> SourceSecret:
    found = KEYS.secret(version, source, kid)
    assert found is not None
    return found


def test_secrets_of_other_sources_kids_and_versions_differ() -> None:
    made = [secret(v, s, k).export()[13:] for v in (1, 3) for s in ("a", "b") for k in ("00000000", "00000001")]
    assert len(set(made)) == 8
    assert secret(1, "a", "00000000").export() == secret(1, "a", "00000000").export()
    assert KEYS.secret(2, "a", "00000000") is None
    assert KEYS.versions == (1, 3)


def test_a_secret_reads_back_and_a_mistyped_one_is_refused_without_showing_it() -> None:
    text = SECRET.export()
    assert re.fullmatch(r"sks_[0-9a-f]{8}_[0-9a-f]{72}", text)
    assert SourceSecret.parse(text + "\n").export() == text
    digit = {"0": "1"}
    for at in range(len(text)):
        wrong = text[:at] + digit.get(text[at], "0") + text[at + 1 :]
        with pytest.raises(Misuse, match="the source's secret") as told:
            SourceSecret.parse(wrong)
        assert wrong[13:] not in str(told.value)
    for wrong in ("", "sks_", text[:-1], text + "0", text.upper()):
        with pytest.raises(Misuse):
            SourceSecret.parse(wrong)


def test_neither_secrets_nor_keys_are_shown() -> None:
    shown = " ".join(map(repr, (SECRET, KEYS, SECRET.signer("shop", "events.raw"))))
    assert bytes(range(32)).hex()[:8] not in shown
    assert shown == "SourceSecret('0a1b2c3d', …) SourceKeys([1, 3]) Signer(…)"


@given(one=st.tuples(st.text(), st.text(), PART, PART, PART), other=st.tuples(st.text(), st.text(), PART, PART, PART))
def test_no_two_records_have_the_same_signature(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    signatures = [
        SECRET.signer(source, topic).sign(b"1", *parts)  # type: ignore[arg-type]
        for source, topic, *parts in (one, other)
    ]
    assert (signatures[0] == signatures[1]) == (one == other)


def test_a_signature_fits_what_was_signed_and_nothing_else() -> None:
    signer = SECRET.signer("shop", "events.raw")
    signature = signer.sign(*SIGNED)
    assert signer.signed(signature, *SIGNED)
    for n in range(len(SIGNED)):
        for wrong in (b"other", b"", None) if n else (b"1790000000001",):
            parts = [*SIGNED[:n], wrong, *SIGNED[n + 1 :]]
            assert not signer.signed(signature, *parts)  # type: ignore[arg-type]
    for at in range(len(signature)):
        assert not signer.signed(signature[:at] + b"x" + signature[at + 1 :], *SIGNED)
    assert not SECRET.signer("shoq", "events.raw").signed(signature, *SIGNED)
    assert not SECRET.signer("shop", "dev.events.raw").signed(signature, *SIGNED)
    assert not SourceSecret("0a1b2c3e", bytes(range(32))).signer("shop", "events.raw").signed(signature, *SIGNED)


@given(st.binary(max_size=80) | st.from_regex(r"v1\.[0-9a-f]{8}\.[0-9a-f]{63,65}", fullmatch=True).map(str.encode))
def test_only_a_signature_names_a_secret(given: bytes) -> None:
    well_formed = re.fullmatch(rb"v1\.[0-9a-f]{8}\.[0-9a-f]{64}", given) is not None
    assert kid_of(given) == (given[3:11].decode() if well_formed else None)
