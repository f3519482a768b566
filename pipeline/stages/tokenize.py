"""Tokenize: take every field that may not stay out of the event, and make tokens of its identifiers.

In: `Decoded`, whose body is consumed: what stays in it is clear. Out: `Tokenized`. Rejects: `no_identifier`,
`bad_identifier`, and those of `decision`. Counts: identifiers that made no token, by reason and kind. Cost: 2.3 µs with
3 tokens that are remembered; a phone number seen for the first time takes 100 µs more, another identifier 7
(bench/costs.py).

An identifier that has no normal form makes no token. Where its field is sealed as well, the event passes, as nothing
is lost; where the token is all that would remain of it, the event is rejected. One that is blocked (`stages.block`)
makes none either, and the event passes as long as another one says whose it is. Empty ones count as absent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from ..crypto.tokens import Tokenizer, TokenVersion
from ..events import ERASE, ORDERS
from ..outcomes import Reason, Rejected, Split, Stage
from ..remembered import Remembered
from . import decision
from .block import Blocked, blocks
from .clock import event_time
from .decode import Decoded
from .extract import BLOCKED, Dropped, Maker, Makers, Secret, Unusable
from .normalize import KINDS, normal
from .schema import AS_IT_IS

REMEMBERED = 131_072
REMEMBERED_CHARS = 128
"""Values per identifier kind whose tokens are kept in process memory, and how long they are at most: 0.2 kB each for an
address of 20 characters, 0.8 kB at worst (four bytes a character). Of longer ones the token is made each time."""

UNSET: Final = msgspec.UNSET
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
    secrets: list[Secret]

    def __repr__(self) -> str:
        return f"Tokenized({self.decoded.schema.title})"


class Overlap:
    """The tokens of an event under the key version before, beside those that its makers have just made."""

    def __init__(self, version: int) -> None:
        self._suffix = f"@{version}"
        self.made: dict[str, str] = {}
        """By the token in use."""

    def beside(self, tokens: dict[str, str]) -> dict[str, str]:
        """Return `tokens`, and at `<path>@<version>` those of the same identifiers."""
        return tokens | {path + self._suffix: self.made[token] for path, token in tokens.items() if token in self.made}


class Period(NamedTuple):
    """What makes tokens for records with `since` ≤ Kafka time < `until` (ms). Makers: kind → (value → token, `BLOCKED`
    or None)."""

    makers: Makers
    since: int
    until: int
    overlap: Overlap | None


class _Maker(Remembered[str | None]):
    """Value as sent → token, for one identifier kind and key version; `BLOCKED`, or None if it has no normal form."""

    __slots__ = ("_is_blocked", "_kind", "_token", "made")

    def __init__(self, kind: str, token: Callable[[str], str], is_blocked: Callable[[str], bool], most: int) -> None:
        super().__init__(most)
        self._kind, self._token, self._is_blocked, self.made = kind, token, is_blocked, 0

    def __missing__(self, value: str) -> str | None:
        self.made += 1
        form = normal(self._kind, value)
        if self._is_blocked(value if form is None else form):
            token: str | None = BLOCKED
        else:
            token = None if form is None else self._token(form)
        return token if len(value) > REMEMBERED_CHARS else self.keep(value, token)


class Tokens:
    """Token makers by kind for the version in use; remembers what it made."""

    def __init__(self, tokenizer: Tokenizer, blocked: Blocked, remembered: int = REMEMBERED) -> None:
        self._tokenizer = tokenizer
        self._blocks = {kind: blocks(blocked, kind) for kind in KINDS}
        self._remembered = remembered
        self._versions: dict[int, Makers] = {}
        self._periods: dict[int, Period] = {}
        self._remembering: list[tuple[int, _Maker]] = []
        self._told: Counter[int] = Counter()

    def __repr__(self) -> str:
        return "Tokens(…)"

    def at(self, time_ms: int) -> Period:
        version = self._tokenizer.at(time_ms)
        period = self._periods.get(version.since)
        if period is None:
            makers, overlap = self._makers(version), None
            if version.former is not None:
                overlap = Overlap(version.former.version)
                before = self._makers(version.former)
                makers = {**makers, **{kind: _both(makers[kind], before[kind], overlap.made) for kind in KINDS}}
            period = self._periods[version.since] = Period(makers, version.since, version.until, overlap)
        return period

    def made(self) -> Counter[int]:
        """Key version → how many values were made under it since the last call, at most."""
        now: Counter[int] = Counter()
        for version, maker in self._remembering:
            now[version] += maker.made
        new, self._told = now - self._told, now
        return new

    def _makers(self, version: TokenVersion) -> Makers:
        makers = self._versions.get(version.version)
        if makers is None:
            made = {kind: _Maker(kind, version.maker(kind), self._blocks[kind], self._remembered) for kind in KINDS}
            self._remembering += [(version.version, maker) for maker in made.values()]
            makers = {kind: maker.__getitem__ for kind, maker in made.items()}
            makers[AS_IT_IS] = decision.well_formed
            self._versions[version.version] = makers
        return makers


def _both(now: Maker, before: Maker, made: dict[str, str]) -> Maker:
    def make(value: str) -> str | None:
        token, former = now(value), before(value)
        if token and former:
            made[token] = former
        return token

    return make


def tokenize(events: list[Decoded], tokens: Tokens) -> tuple[Split[Tokenized], Dropped]:
    """Return the tokenized events, and how many identifiers made no token."""
    passed: list[Tokenized] = []
    rejected: list[Rejected] = []
    dropped: Dropped = Counter()
    add = passed.append
    makers, since, until, overlap = tokens.at(events[0].record.timestamp) if events else Period({}, 0, 0, None)
    for decoded in events:
        body, schema = decoded.body, decoded.schema
        received = decoded.record.timestamp
        if not since <= received < until:
            makers, since, until, overlap = tokens.at(received)
        if overlap is not None:
            overlap.made.clear()
        try:
            made, anchor, secrets = schema.extract(body, makers, dropped)
        except Unusable as u:
            rejected.append(_reject(decoded, Reason.BAD_IDENTIFIER, u.path, f"not a usable {u.kind}"))
            continue
        if anchor is None:
            found = _anchor(decoded, made)
            if isinstance(found, Rejected):
                rejected.append(found)
                continue
            anchor = found
            if schema.schema.type == ERASE:
                received = -1  # its time is part of its name, and the same on every partition
        if overlap is not None:
            made = overlap.beside(made)
        if decoded.extra is not None:
            secrets.append((schema.extra, _encode(decoded.extra)))
        happened = sent = event = None
        if schema.timed[0]:
            happened, body.timestamp = body.timestamp, UNSET
        if schema.timed[1]:
            sent, body.sentAt = body.sentAt, UNSET
        type_, body.type = body.type, UNSET
        message_id, body.messageId = body.messageId, UNSET
        if type_ == "track":
            event, body.event = body.event, UNSET
        time = event_time(happened, sent, received)
        add(Tokenized(decoded, type_, event, message_id, time, made, anchor, secrets))
    return Split(passed, rejected), dropped


def _anchor(decoded: Decoded, made: dict[str, str]) -> str | Rejected:
    """Where no identifier gives one: that of an operator's event, or the reject."""
    if decoded.schema.schema.type in ORDERS:
        return decision.anchor(decoded, made)
    return _reject(decoded, Reason.NO_IDENTIFIER, "", "no field of it identifies anybody")


def _reject(decoded: Decoded, reason: Reason, path: str, rule: str) -> Rejected:
    return Rejected(decoded.record, Stage.TOKENIZE, reason, path, rule, decoded.schema.title)
