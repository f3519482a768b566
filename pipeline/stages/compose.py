"""Make a profile from what is known of its tokens.

In: the facts of a cluster's tokens, in any order. Out: the bytes of a `Profile`, the same for equal sets of events.
Cost: 2 µs for a cluster in which one token has events, 4 µs more for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .fold import count
from .identity_rows import Birth, Facts, kind_of, profile_id
from .link import Bounds

_encode = msgspec.json.Encoder(order="deterministic").encode


class _Encoded(msgspec.Struct, omit_defaults=True, gc=False):
    """`events.Profile` with parts that are JSON already; the same fields in the same order."""

    profile_id: str
    tokens: msgspec.Raw
    first_seen: int
    last_seen: int
    events: dict[str, int] = {}
    traits: dict[str, msgspec.Raw] = {}
    sources: list[str] = []
    conflicts: list[Any] = []


def tokens_json(tokens: Iterable[str]) -> msgspec.Raw:
    """The map kind → sorted tokens."""
    by_kind: dict[str, list[str]] = {}
    for token in sorted(tokens):
        by_kind.setdefault(kind_of(token), []).append(token)
    return msgspec.Raw(_encode(by_kind))


def earliest(parts: Iterable[Facts]) -> tuple[Facts, Birth]:
    """The birth of a cluster by (received_at, origin), and the facts that it stands in."""
    found = [(f.births[-1], f) for f in parts]
    if len(found) > 1:
        found.sort(key=lambda b: (b[0][0], b[1].streams[b[0][1]], b[0][2], b[0][3]))
    birth, facts = found[0]
    return facts, birth


def profile(ident: bytes, tokens: msgspec.Raw, parts: Sequence[Facts], bounds: Bounds) -> bytes:
    """The profile's JSON. `parts` holds the facts of at least one token."""
    if len(parts) == 1:
        only = parts[0]
        return _encode(
            _Encoded(
                ident.hex(),
                tokens,
                only.first,
                only.last,
                only.events,
                {name: msgspec.Raw(t[4]) for name, t in only.traits.items()} if only.traits else {},
                only.sources,
            )
        )
    events: dict[str, int] = {}
    sources: set[str] = set()
    for part in parts:
        for name, n in part.events.items():
            count(events, name, n, bounds.event_names)
        sources.update(part.sources)
    traits = _last_written(parts)
    return _encode(
        _Encoded(
            ident.hex(),
            tokens,
            min(part.first for part in parts),
            max(part.last for part in parts),
            events,
            {name: msgspec.Raw(traits[name]) for name in sorted(traits)[: bounds.traits]},
            sorted(sources)[: bounds.sources],
        )
    )


def _last_written(parts: Sequence[Facts]) -> dict[str, bytes]:
    best: dict[str, tuple[int, str, int, int, bytes]] = {}
    for part in parts:
        streams = part.streams
        for name, (time, index, partition, offset, value) in part.traits.items():
            this = (time, streams[index], partition, offset, value)
            if name not in best or this > best[name]:
                best[name] = this
    return {name: written[4] for name, written in best.items()}


def ids(facts: Facts) -> list[bytes]:
    """Every id under which a profile may have been announced because of this token."""
    return [profile_id(facts, birth) for birth in facts.births]
