"""Read what the legs wrote; None for what none of them can have written."""

from __future__ import annotations

import msgspec

from ..adapters.reader import Found
from ..events import ERASE, Merged, Origin, ProtectedEvent
from ..outcomes import UNDECODABLE, RejectedRecord
from ..stages.identity_rows import well_formed
from ..stages.reference import marked

_PARTITIONS = 1 << 31
_NUMBERS = 1 << 63


class _Resolved(msgspec.Struct, frozen=True):
    profile_id: str
    origin: Origin


_protected = msgspec.json.Decoder(ProtectedEvent)
_rejected = msgspec.json.Decoder(RejectedRecord)
_resolved = msgspec.json.Decoder(_Resolved)
_merged = msgspec.json.Decoder(Merged)
_profile = msgspec.json.Decoder(dict[str, msgspec.Raw])


def protected(found: Found) -> ProtectedEvent | None:
    try:
        event = _protected.decode(found.value or b"")
    except UNDECODABLE:
        return None
    good = (
        _possible(event.origin)
        and abs(event.time) < _NUMBERS
        and abs(event.received_at) < _NUMBERS
        and well_formed(event.anchor)
        and all(map(well_formed, event.tokens.values()))
        and (event.type != ERASE or marked(event) is not None)
    )
    return event if good else None


def rejected(found: Found) -> Origin | None:
    try:
        origin = _rejected.decode(found.value or b"").origin
    except UNDECODABLE:
        return None
    return origin if _possible(origin) else None


def resolved(found: Found) -> Origin | None:
    try:
        origin = _resolved.decode(found.value or b"").origin
    except UNDECODABLE:
        return None
    return origin if _possible(origin) else None


def profile_id(key: bytes | None) -> bytes | None:
    """The 16 bytes of an id of 32 hex."""
    try:
        ident = bytes.fromhex((key or b"").decode())
    except ValueError:
        return None
    return ident if len(ident) == 16 else None


def merged_into(value: bytes) -> bytes | None:
    """The id that a record of `profiles` leads to, b"" of a profile itself."""
    try:
        if not value.startswith(b'{"merged_into"'):
            return b"" if _profile.decode(value) else None
        return profile_id(_merged.decode(value).merged_into.encode())
    except UNDECODABLE:
        return None


def _possible(origin: Origin) -> bool:
    return 0 <= origin.partition < _PARTITIONS and 0 <= origin.offset < _NUMBERS
