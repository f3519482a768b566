"""What a record of `profiles` says to whoever finds profiles by them: its tokens, or where the profile has gone.

In: a record's key and value. Out: `Said`, or None for a record that is none of ours. Other fields are passed over, so
that a newer version's profiles are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from ..outcomes import UNDECODABLE

ID = re.compile(r"[0-9a-f]{32}\Z")
_TOKEN = re.compile(r"[a-z][a-z0-9_]*\.[0-9]{1,9}\.[0-9a-f]{32}\Z")


class Said(msgspec.Struct, frozen=True):
    """`merged_into`: the profile of that id has taken this one in, and no token is this one's any more."""

    tokens: frozenset[str] = frozenset()
    merged_into: str | None = None


class _Record(msgspec.Struct):
    tokens: dict[str, list[str]] | None = None
    merged_into: str | None = None


_decode = msgspec.json.Decoder(_Record).decode


def profile_id(key: bytes | None) -> str | None:
    """Return the id (32 hex) that a record is keyed by, or None."""
    text = (key or b"").decode("latin-1")
    return text if ID.match(text) else None


def said(value: bytes) -> Said | None:
    """Return what a record says that is no tombstone, or None if it is no profile."""
    try:
        record = _decode(value)
    except UNDECODABLE:
        return None
    if record.merged_into is not None:
        return Said(merged_into=record.merged_into) if ID.match(record.merged_into) else None
    if record.tokens is None:
        return None
    tokens = frozenset(token for tokens in record.tokens.values() for token in tokens)
    return Said(tokens) if all(map(_TOKEN.match, tokens)) else None


def follow(ident: str, merged_into: Callable[[str], str | None]) -> str | None:
    """Return the id at which the pointers from `ident` end, or None if they go round in a circle."""
    seen = {ident}
    while (target := merged_into(ident)) is not None:
        if target in seen:
            return None
        seen.add(target)
        ident = target
    return ident
