"""Tokenize: take every field that may not stay out of the event, and make tokens of its identifiers.

In: `Decoded`, whose body is consumed: what stays in it is clear. Out: `Tokenized`. Rejects: `no_identifier`,
`bad_identifier`. Counts: identifiers without a normal form, by kind. Cost: 2.3 µs with 3 tokens that are remembered; a
phone number seen for the first time takes 100 µs more, another identifier 5 (bench/costs.py).

An identifier that has no normal form makes no token. Where its field is sealed as well, the event passes, as nothing
is lost; where the token is all that would remain of it, the event is rejected. Empty ones count as absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from ..crypto.seal import SealPath
from ..crypto.tokens import Tokenizer
from ..outcomes import Reason, Rejected, Split, Stage
from .clock import event_time
from .decode import Decoded
from .normalize import KINDS, normal

REMEMBERED = 65_536
"""Values per identifier kind whose tokens are kept in process memory (about 0.4 kB each)."""

UNSET: Final = msgspec.UNSET
_RANK: Final = {kind: rank for rank, kind in enumerate(KINDS)}
_LAST: Final = len(KINDS)
_encode: Final = msgspec.json.Encoder().encode


class Tokenized(msgspec.Struct, gc=False):
    """`secrets`: what is to be sealed, as JSON. `clear`: the body, of which only that is left."""

    decoded: Decoded
    type: str
    event: str | None
    message_id: str
    time: int
    tokens: dict[str, str]
    anchor: str
    secrets: list[tuple[SealPath, bytes]]

    def __repr__(self) -> str:
        return f"Tokenized({self.decoded.schema.title})"


class Tokens:
    """Token makers by kind for the version in use; remembers what it made."""

    def __init__(self, tokenizer: Tokenizer, remembered: int = REMEMBERED) -> None:
        self._tokenizer = tokenizer
        self._remembered = remembered
        self._versions: dict[int, dict[str, Callable[[str], str | None]]] = {}

    def __repr__(self) -> str:
        return "Tokens(…)"

    def at(self, time_ms: int) -> tuple[dict[str, Callable[[str], str | None]], int, int]:
        """Return kind → (value → token, or None), and the period of record times for which it holds."""
        version = self._tokenizer.at(time_ms)
        makers = self._versions.get(version.version)
        if makers is None:
            makers = {kind: self._maker(kind, version.maker(kind)) for kind in KINDS}
            self._versions[version.version] = makers
        return makers, version.since, version.until

    def _maker(self, kind: str, token: Callable[[str], str]) -> Callable[[str], str | None]:
        @lru_cache(self._remembered)
        def make(value: str) -> str | None:
            form = normal(kind, value)
            return None if form is None else token(form)

        return make


def tokenize(events: list[Decoded], tokens: Tokens) -> tuple[Split[Tokenized], Counter[str]]:
    """Return the tokenized events, and how many identifiers of each kind had no normal form."""
    passed: list[Tokenized] = []
    rejected: list[Rejected] = []
    unusable: Counter[str] = Counter()
    makers, since, until = tokens.at(events[0].record.timestamp) if events else ({}, 0, 0)
    for decoded in events:
        received = decoded.record.timestamp
        if not since <= received < until:
            makers, since, until = tokens.at(received)
        found = _tokenize(decoded, received, makers, unusable)
        if isinstance(found, Rejected):
            rejected.append(found)
        else:
            passed.append(found)
    return Split(passed, rejected), unusable


def _tokenize(
    decoded: Decoded,
    received: int,
    makers: dict[str, Callable[[str], str | None]],
    unusable: Counter[str],
) -> Tokenized | Rejected:
    body, schema = decoded.body, decoded.schema
    tokens: dict[str, str] = {}
    secrets: list[tuple[SealPath, bytes]] = []
    anchor, best = "", _LAST
    at: list[Any] = []
    for parent, container, slots, blank in schema.plan:
        if parent < 0:
            here = body
        else:
            outer = at[parent]
            here = None if outer is None else getattr(outer, container)
            if blank and here is not None:
                setattr(outer, container, UNSET)
        at.append(here)
        if here is None:
            continue
        for name, path, kind, place in slots:
            value = getattr(here, name)
            if value is None:
                continue
            setattr(here, name, UNSET)
            if kind and value:
                token = makers[kind](value)
                if token is not None:
                    tokens[path] = token
                    rank = _RANK[kind]
                    if rank < best:
                        anchor, best = token, rank
                else:
                    unusable[kind] += 1
                    if place is None:
                        return _reject(decoded, Reason.BAD_IDENTIFIER, path, f"not a usable {kind}")
            if place is not None:
                secrets.append((place, _encode(value)))
    if not anchor:
        return _reject(decoded, Reason.NO_IDENTIFIER, "", "no field of it identifies anybody")
    if decoded.extra is not None:
        secrets.append((schema.extra, _encode(decoded.extra)))
    has_time, has_sent = schema.timed
    time = event_time(body.timestamp if has_time else None, body.sentAt if has_sent else None, received)
    type_, message_id, event = body.type, body.messageId, None
    body.type = body.messageId = UNSET
    if has_time:
        body.timestamp = UNSET
    if has_sent:
        body.sentAt = UNSET
    if type_ == "track":
        event, body.event = body.event, UNSET
    return Tokenized(decoded, type_, event, message_id, time, tokens, anchor, secrets)


def _reject(decoded: Decoded, reason: Reason, path: str, rule: str) -> Rejected:
    return Rejected(decoded.record, Stage.TOKENIZE, reason, path, rule, decoded.schema.title)
