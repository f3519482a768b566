"""The key-encryption key behind a port, and how every other key is wrapped under it.

A wrapped key's record: 0x01 ‖ commitment (32) ‖ what the KEK made of it. The commitment is
HMAC-SHA256(key, frame("sealstream/commit/1", key_id)): AES-GCM-SIV alone does not commit to its key, so without it one
wrapped record could open to two keys under two KEKs. All 256 bits are kept, for 128-bit collision resistance.

`LocalKek` gives 0x01 ‖ kek_id (8) ‖ AES-256-GCM-SIV(key), with the nonce SHA-256(frame("sealstream/wrap/1", aad))[:12].
Each key's AAD names it by a random or unique id, so each wrap has its own nonce (and RFC 8452 derives fresh keys from
it); wrapping the same key for the same place again gives the same bytes.

Other providers give their own first byte ‖ what is theirs (`adapters.kek_providers`); they wrap one key alone, the
KEK that wraps all others (`crypto.data_kek`).
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from ..errors import Corrupt
from ..events import frame
from .aead import KEY_BYTES, NONCE_BYTES, InvalidTag, cipher

FORMAT = b"\x01"
KEK_ID_BYTES = 8
COMMITMENT_BYTES = 32
PKCS11, AWS_KMS, VAULT = b"\x02", b"\x03", b"\x04"
PROVIDERS = {FORMAT: "a local KEK", PKCS11: "PKCS#11", AWS_KMS: "AWS KMS", VAULT: "Vault Transit"}
"""The first byte of what a KEK gives → who gave it."""
_COMMIT, _WRAP = frame(b"sealstream/commit/1"), frame(b"sealstream/wrap/1")
"""Begin frames of two parts: 3 µs less for a person's key than `frame`."""


class Kek(Protocol):
    """A provider that wraps small secrets: a local key, an HSM by PKCS#11, AWS KMS, Vault.

    `unwrap` raises `Corrupt` when the bytes, `aad` or the KEK are not those of `wrap`; both raise `Transient` when a
    provider is away or refuses, `Misuse` when what they were told does not exist there.
    """

    def wrap(self, plain: bytes, aad: bytes) -> bytes: ...
    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes: ...


class LocalKek:
    """A KEK held in process memory (32 bytes); 3 µs to wrap or unwrap a key."""

    __slots__ = ("_cipher", "_head", "_key")

    def __init__(self, key: bytes) -> None:
        self._cipher = cipher(key)
        self._key = key
        self._head = FORMAT + hmac.digest(key, frame(b"sealstream/kek-id/1"), "sha256")[:KEK_ID_BYTES]

    def __repr__(self) -> str:
        return "LocalKek(…)"

    @property
    def kek_id(self) -> str:
        """Public, 16 hex; derived from the key."""
        return self._head[len(FORMAT) :].hex()

    def export(self) -> bytes:
        """Return the key itself. For `adapters.keyfile` only."""
        return self._key

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        return self._head + self._cipher.encrypt(_wrap_nonce(aad), plain, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        if not wrapped.startswith(self._head):
            if wrapped.startswith(FORMAT) and len(wrapped) >= len(self._head):
                raise Corrupt("a key was wrapped under another KEK: use the key file that it was made with")
            raise Corrupt("a wrapped key does not read back as it was written")
        try:
            return self._cipher.decrypt(_wrap_nonce(aad), wrapped[len(self._head) :], aad)
        except InvalidTag:
            raise Corrupt("a wrapped key does not read back as it was written") from None


def wrapped_by(provider: bytes, wrapped: bytes) -> bytes:
    """Return what follows the provider's byte; `Corrupt`, naming both, if another one has wrapped it."""
    found = wrapped[:1]
    if found == provider:
        return wrapped[1:]
    if found in PROVIDERS:
        raise Corrupt(
            f"a key was wrapped by {PROVIDERS[found]}, and {PROVIDERS[provider]} cannot open it: set SEALSTREAM_KEK to "
            "what it was made with"
        )
    raise Corrupt("a wrapped key does not read back as it was written")


def _wrap_nonce(aad: bytes) -> bytes:
    return hashlib.sha256(_WRAP + len(aad).to_bytes(4, "big") + aad).digest()[:NONCE_BYTES]


def commitment(key: bytes, key_id: bytes) -> bytes:
    return hmac.digest(key, _COMMIT + len(key_id).to_bytes(4, "big") + key_id, "sha256")


def wrap_key(kek: Kek, key: bytes, key_id: bytes, aad: bytes) -> bytes:
    """Return the record of `key` (32 bytes); `aad` must name `key_id` and what the key is for."""
    return FORMAT + commitment(key, key_id) + kek.wrap(key, aad)


def is_key_record(record: bytes) -> bool:
    """Has it the form of one?"""
    return len(record) > len(FORMAT) + COMMITMENT_BYTES and record.startswith(FORMAT)


def unwrap_key(kek: Kek, record: bytes, key_id: bytes, aad: bytes) -> bytes:
    """Return the 32-byte key of a record made by `wrap_key`; raise `Corrupt` if anything of it differs."""
    start = len(FORMAT) + COMMITMENT_BYTES
    if not is_key_record(record):
        raise Corrupt("a key record does not read back as it was written")
    key = kek.unwrap(record[start:], aad)
    if len(key) != KEY_BYTES or not hmac.compare_digest(commitment(key, key_id), record[len(FORMAT) : start]):
        raise Corrupt("a key record does not match its key commitment")
    return key
