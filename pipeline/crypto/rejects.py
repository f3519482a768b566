"""Seal what a producer sent and we rejected, whole, so that `replay` gives back exactly the same bytes.

Sealed bytes: 0x01 ‖ AES-256-GCM-SIV ciphertext ‖ tag. Nonce = event_id[:12];
AAD = frame("sealstream/reject/1", key_id, event_id, reason). Deterministic: a replayed batch rejects to equal bytes.
Content over 1 MiB is compressed first (zlib, RFC 1950), and the format is 0x02, in the AAD "sealstream/reject/2": what
was small only while the producer had it compressed must fit into a record once more.
Content, injective: optional(key) ‖ optional(value) ‖ number of headers (4) ‖ per header frame(name) ‖ optional(value),
where optional(x) is 0x00 for none and 0x01 ‖ frame(x) otherwise. Lengths are 4 bytes big-endian. Names are the bytes
that were sent: what was not UTF-8 of them stands in a Python string as surrogate escapes (PEP 383).
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from ..events import frame, optional
from .aead import NONCE_BYTES, TAG_BYTES, InvalidTag, cipher
from .seal import EVENT_ID_BYTES, SealBroken

PLAIN, DEFLATED = b"\x01", b"\x02"
_DOMAINS = {PLAIN: b"sealstream/reject/1", DEFLATED: b"sealstream/reject/2"}
PLAIN_BYTES = 1 << 20
"""Longer content is compressed."""


class Original(NamedTuple):
    """A raw record's content as it was sent. `None` is not empty: Kafka tells them apart, and so do we."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def __repr__(self) -> str:
        return "Original(…)"


class RejectBox:
    """The rejects key of one version; `key_id` ("rejects.<version>") stands in each rejected record."""

    __slots__ = ("_cipher", "_key_id", "key_id")

    def __init__(self, version: int, key: bytes) -> None:
        self.key_id = f"rejects.{version}"
        self._key_id = self.key_id.encode()
        self._cipher = cipher(key)

    def __repr__(self) -> str:
        return f"RejectBox({self.key_id!r})"

    def seal(
        self,
        event_id: bytes,
        reason: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> bytes:
        """Return the sealed record (event id 16 bytes). 5 µs for a 560-byte value, 10 MB work as well."""
        if len(event_id) != EVENT_ID_BYTES:
            raise ValueError("an event id has 16 bytes")
        form, content = PLAIN, pack(key, value, headers)
        if len(content) > PLAIN_BYTES:
            form, content = DEFLATED, zlib.compress(content)
        return form + self._cipher.encrypt(event_id[:NONCE_BYTES], content, self._aad(form, event_id, reason))

    def open(self, event_id: bytes, reason: str, sealed: bytes) -> Original:
        """Return what was sent, or raise `SealBroken`."""
        form = sealed[:1]
        if len(event_id) != EVENT_ID_BYTES or len(sealed) < len(form) + TAG_BYTES or form not in _DOMAINS:
            raise SealBroken
        try:
            content = self._cipher.decrypt(event_id[:NONCE_BYTES], sealed[1:], self._aad(form, event_id, reason))
        except InvalidTag:
            raise SealBroken from None
        return unpack(content if form == PLAIN else zlib.decompress(content))

    def _aad(self, form: bytes, event_id: bytes, reason: str) -> bytes:
        return frame(_DOMAINS[form], self._key_id, event_id, reason.encode())


class RejectBoxes:
    """The boxes that seal, chosen by the record's Kafka time as token keys are: a replay rejects to equal bytes."""

    __slots__ = ("_boxes", "_starts")

    def __init__(self, boxes: Sequence[tuple[int, RejectBox]]) -> None:
        """Each with the Kafka time (ms) from which it is used, ascending; never empty."""
        self._starts = [start for start, _ in boxes]
        self._boxes = [box for _, box in boxes]

    def __repr__(self) -> str:
        return f"RejectBoxes({[box.key_id for box in self._boxes]})"

    def at(self, time_ms: int) -> RejectBox:
        """Return the box for a record of Kafka time `time_ms`; before the first activation: the first box."""
        return self._boxes[max(0, bisect_right(self._starts, time_ms) - 1)]


def pack(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [optional(key), optional(value), len(headers).to_bytes(4, "big")]
    for name, content in headers:
        parts.append(frame(name.encode("utf-8", "surrogateescape")))
        parts.append(optional(content))
    return b"".join(parts)


def unpack(content: bytes) -> Original:
    """Invert `pack`; `SealBroken` for anything that it cannot have made."""
    reader = _Reader(content)
    key = reader.optional()
    value = reader.optional()
    headers = tuple((reader.text(), reader.optional()) for _ in range(reader.length()))
    reader.end()
    return Original(key, value, headers)


class _Reader:
    __slots__ = ("_at", "_content")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, size: int) -> bytes:
        start = self._at
        self._at += size
        if self._at > len(self._content):
            raise SealBroken
        return self._content[start : self._at]

    def length(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def text(self) -> str:
        try:
            return self.take(self.length()).decode("utf-8", "surrogateescape")
        except UnicodeDecodeError:
            raise SealBroken from None

    def optional(self) -> bytes | None:
        mark = self.take(1)
        if mark == b"\x00":
            return None
        if mark != b"\x01":
            raise SealBroken
        return self.take(self.length())

    def end(self) -> None:
        if self._at != len(self._content):
            raise SealBroken
