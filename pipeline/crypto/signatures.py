"""Who sent a record: its source signs it with a secret that it shares with the pipeline.

secret           = HKDF-SHA256 (RFC 5869) of the ring's sources key, no salt, 32 bytes,
                   info = frame("sealstream/source-secret/1", source, kid)
what it is given = sks_<kid>_<hex of secret><CRC-32 of all before, 8 hex>          kid: 8 hex, drawn at random
source-timestamp = when it signed, ms since 1970 in decimal digits
source-signature = v1.<kid>.<hex of HMAC-SHA256(secret, signed)>
signed           = frame("sealstream/source-signature/1", source, topic) ‖ frame(source-timestamp)
                   ‖ optional(seal-key) ‖ optional(key) ‖ optional(value)

`topic` is its name on the broker, `seal-key` that header's value; `optional` is that of `pipeline.events`. Secrets are
derived, so that none is stored anywhere: who has the key ring has them all.
"""

from __future__ import annotations

import hmac
import re
import zlib
from collections.abc import Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import Misuse
from ..events import SIGNATURE_HEADER, TIMESTAMP_HEADER, frame, optional

SECRET_BYTES = 32
KID_BYTES = 4
Header = tuple[str, bytes]
_SECRET = re.compile(r"(sks_([0-9a-f]{8})_([0-9a-f]{64}))([0-9a-f]{8})\Z")
_SIGNATURE = re.compile(rb"v1\.([0-9a-f]{8})\.[0-9a-f]{64}\Z")


class SourceSecret:
    """What a source signs with."""

    __slots__ = ("_key", "kid")

    def __init__(self, kid: str, key: bytes) -> None:
        self.kid = kid
        self._key = key

    def __repr__(self) -> str:
        return f"SourceSecret({self.kid!r}, …)"

    @classmethod
    def parse(cls, text: str) -> SourceSecret:
        """Read `export` back; `Misuse`, without the text, if it is none or was mistyped."""
        found = _SECRET.match(text.strip())
        if found is None or _crc(found[1]) != found[4]:
            raise Misuse("the source's secret: not what `sealstream sources add` gave, sks_…; copy all of it")
        return cls(found[2], bytes.fromhex(found[3]))

    def export(self) -> str:
        """Return it as text, for the source alone. Scanners for leaked secrets know it by `sks_` and its checksum."""
        text = f"sks_{self.kid}_{self._key.hex()}"
        return text + _crc(text)

    def signer(self, source: str, topic: str) -> Signer:
        return Signer(self.kid, self._key, source, topic)


class Signer:
    """Signs what one source writes to one topic with one secret."""

    __slots__ = ("_copy", "_prefix")

    def __init__(self, kid: str, key: bytes, source: str, topic: str) -> None:
        begun = hmac.new(key, frame(b"sealstream/source-signature/1", source.encode(), topic.encode()), "sha256")
        self._copy = begun.copy
        self._prefix = f"v1.{kid}.".encode()

    def __repr__(self) -> str:
        return "Signer(…)"

    def sign(self, timestamp: bytes, seal_key: bytes | None, key: bytes | None, value: bytes | None) -> bytes:
        """Return the header `source-signature`; `timestamp` is the header `source-timestamp` as it is sent."""
        mac = self._copy()
        mac.update(frame(timestamp) + optional(seal_key) + optional(key) + optional(value))
        return self._prefix + mac.hexdigest().encode()

    def headers(self, now: int, seal_key: bytes | None, key: bytes | None, value: bytes | None) -> list[Header]:
        """Return both headers of a record that is signed at `now` (ms)."""
        at = str(now).encode()
        return [(TIMESTAMP_HEADER, at), (SIGNATURE_HEADER, self.sign(at, seal_key, key, value))]

    def signed(
        self, signature: bytes, timestamp: bytes, seal_key: bytes | None, key: bytes | None, value: bytes | None
    ) -> bool:
        """Is `signature` what `sign` gives? In a time that does not depend on where they differ."""
        return hmac.compare_digest(signature, self.sign(timestamp, seal_key, key, value))


class SourceKeys:
    """The sources keys of a ring, by version (32 bytes each): what secrets are derived from."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._keys = dict(keys)

    def __repr__(self) -> str:
        return f"SourceKeys({sorted(self._keys)})"

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(sorted(self._keys))

    def secret(self, version: int, source: str, kid: str) -> SourceSecret | None:
        """Return the secret `kid` of `source`; None if that version was destroyed, or never was."""
        key = self._keys.get(version)
        if key is None:
            return None
        info = frame(b"sealstream/source-secret/1", source.encode(), kid.encode())
        return SourceSecret(kid, HKDF(SHA256(), SECRET_BYTES, None, info).derive(key))


def kid_of(signature: bytes) -> str | None:
    """Return which secret a header `source-signature` names, nothing checked; None if it is no signature."""
    found = _SIGNATURE.match(signature)
    return None if found is None else found[1].decode()


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
