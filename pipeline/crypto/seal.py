"""Seal and open single field values under a person's key (DESIGN §5).

Sealed bytes: 0x01 ‖ key_id (8) ‖ AES-256-GCM-SIV ciphertext ‖ tag (16), 25 bytes longer than the plain value.
Nonce (12)  = event_id[:8] ‖ SHA-256(frame("sealstream/seal-path/1", path))[:4]
AAD         = frame("sealstream/seal/1", schema, path, event_id, key_id)

Deterministic on purpose: a replayed event gives the same bytes. No caller passes a nonce, and a value moved to another
field, schema, event or key does not open. Not hidden: a value's length, and whether one event's value was sealed twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..errors import SealstreamError
from ..events import frame
from .aead import KEY_BYTES, TAG_BYTES, InvalidTag, cipher

FORMAT = b"\x01"
EVENT_ID_BYTES = 16
KEY_ID_BYTES = 8
_HEAD_BYTES = len(FORMAT) + KEY_ID_BYTES
_EVENT_ID_LENGTH = EVENT_ID_BYTES.to_bytes(4, "big")
_KEY_ID_LENGTH = KEY_ID_BYTES.to_bytes(4, "big")


class SealBroken(SealstreamError):
    """A sealed value does not open: other key, event, field or schema, or changed bytes. Which one is not told."""

    def __init__(self) -> None:
        super().__init__("a sealed value does not open with this key at this place")


class SealPath:
    """Where a sealed value stands: schema ("<name>/<version>") and dotted path. Made once per field at load."""

    __slots__ = ("aad_prefix", "nonce_tag", "path", "schema")

    def __init__(self, schema: str, path: str) -> None:
        self.schema = schema
        self.path = path
        self.nonce_tag = hashlib.sha256(frame(b"sealstream/seal-path/1", path.encode())).digest()[:4]
        self.aad_prefix = frame(b"sealstream/seal/1", schema.encode(), path.encode()) + _EVENT_ID_LENGTH

    def __repr__(self) -> str:
        return f"SealPath({self.schema!r}, {self.path!r})"


class SubjectKey:
    """A person's key (0.2 kB). `key_id` is 8 bytes and public, `name` the same in hex; the key itself is not shown.

    The cipher is made at each use (1.7 µs): kept ones have 3 kB each, so that no useful share of the people would fit,
    and one that the processor's cache does not hold costs as much as a new one. So all is in one value, too.
    """

    __slots__ = ("_whole",)

    def __init__(self, key_id: bytes, key: bytes) -> None:
        if len(key_id) != KEY_ID_BYTES or len(key) != KEY_BYTES:
            raise ValueError("a subject key has 32 bytes, and its id 8 bytes")
        self._whole = FORMAT + key_id + key

    def __repr__(self) -> str:
        return "SubjectKey(…)"

    @property
    def key_id(self) -> bytes:
        return self._whole[len(FORMAT) : _HEAD_BYTES]

    @property
    def name(self) -> str:
        return self._whole[len(FORMAT) : _HEAD_BYTES].hex()

    def seal_all(self, event_id: bytes, secrets: Iterable[tuple[SealPath, bytes]]) -> dict[str, bytes]:
        """Return path → sealed value, for the fields of the event `event_id` (16 bytes) that are given as plain."""
        if len(event_id) != EVENT_ID_BYTES:
            raise ValueError("an event id has 16 bytes")
        whole = self._whole
        head, nonce_head = whole[:_HEAD_BYTES], event_id[:8]
        aad_tail = event_id + _KEY_ID_LENGTH + head[len(FORMAT) :]
        encrypt = cipher(whole[_HEAD_BYTES:]).encrypt
        sealed: dict[str, bytes] = {}
        for at, plain in secrets:  # faster than a comprehension, which is a call
            sealed[at.path] = head + encrypt(nonce_head + at.nonce_tag, plain, at.aad_prefix + aad_tail)
        return sealed

    def open(self, at: SealPath, event_id: bytes, sealed: bytes) -> bytes:
        """Return the plain value, or raise `SealBroken`."""
        whole = self._whole
        head = whole[:_HEAD_BYTES]
        if len(event_id) != EVENT_ID_BYTES or len(sealed) < _HEAD_BYTES + TAG_BYTES or not sealed.startswith(head):
            raise SealBroken
        try:
            return cipher(whole[_HEAD_BYTES:]).decrypt(
                event_id[:8] + at.nonce_tag,
                sealed[_HEAD_BYTES:],
                at.aad_prefix + event_id + _KEY_ID_LENGTH + head[len(FORMAT) :],
            )
        except InvalidTag:
            raise SealBroken from None


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the key that sealed `sealed` (not yet authenticated), or raise `SealBroken`."""
    if len(sealed) < _HEAD_BYTES + TAG_BYTES or not sealed.startswith(FORMAT):
        raise SealBroken
    return sealed[len(FORMAT) : _HEAD_BYTES]
