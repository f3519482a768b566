"""The identify leg: protected events → profiles, and the events again under their profile's id.

    events.protected ─► link · fold ──► resolve ─► profiles, events.resolved, alerts
                                        ▲      │
                            identity ───┘◄─────┘

An event is folded into its anchor token's row (`fold`), and the unions that it asks for are sent where they are new
(`link`). Once a checkpoint `resolve` announces the profiles that changed. Durable in the order outputs, messages,
state: a crash in between repeats outputs and messages, which changes nothing, and never loses one.

Metrics, as counts of `Effects`: `resolved`, `duplicate` (an origin folded before), `repeated` (a message that was sent
twice: not counted again), `ignored` (`consent`: a purpose that is no plain name, or neither true nor false; `computed`:
a value that a computed trait cannot use), `undecodable` (a record that is not from the protect leg; skipped),
`overflow` (a link beyond those that are kept of a token), `erasure` (a token whose facts were erased), `erased` (an
event that came after its erasure and stands before it: not counted), `reevaluated` (a root divided again by other
rules), `profile`, `message`, `alert`. Cost: `sealstream bench identify`.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection

import msgspec

from ..events import DAY, DECISIONS, ERASE, Record, SourceBatch, Topic, formers
from ..outcomes import UNDECODABLE
from ..ports import STATE, Effects, Out, PartitionLeg, Table
from ..stages.content import Event, content_reader, event_decoder
from ..stages.fold import (
    ADDED,
    BEFORE,
    BORN,
    GROUP,
    REPEATED,
    REPEATED_BORN,
    Taken,
    counts,
    decide,
    erase,
    fold,
    meet,
    pass_over,
    sight,
    visit,
    visited,
)
from ..stages.identity_rows import (
    DIGEST,
    Apart,
    Assigned,
    Evidence,
    Join,
    Left,
    Member,
    Row,
    Union,
    check_row,
    digest_of,
    kind_of,
    message_decoder,
    profile_id,
    stream,
    well_formed,
)
from ..stages.link import Rules
from ..stages.resolve import Resolver
from ..stages.size_cap import KIND

CACHED = 65_536
"""Decoded rows, and as many clusters, that a process keeps between checkpoints (about 1.5 kB each)."""

KNOWN_EDGES = 256 * DIGEST
"""Bytes of neighbours remembered per token; the link with a neighbour beyond is looked up at each event again."""


MAX_LINKS = 1000
"""Links kept per anchor, 48 bytes each. More of them are counted and dropped, in the order of arrival. When it is
erased, so many of the groups that it named are told."""

CHECKED = 2_000
"""Rows that a partition checks per tick for having been divided by other rules; a tick is about a second."""

NOBODY = bytes(DIGEST)
"""The profile's id of what is no profile's: an operator's event about a token without others, an erased one."""
NOBODY_ID = NOBODY.hex().encode()
_UNDER = b'{"profile_id":"%b",'
"""What an event's JSON begins with once its profile is known."""


class IdentifyLeg:
    """Makes the partition legs. `Leg` of `pipeline.ports`."""

    name = "identify"
    pace = 0.005
    stretch = 4
    sources: tuple[str, ...] = (Topic.PROTECTED.value, Topic.IDENTITY.value)
    tables: tuple[str, ...] = ("tokens", "evidence")

    def __init__(self, rules: Rules, *, cached: int = CACHED) -> None:
        self.rules = rules
        self.decode = event_decoder(rules)  # takes a millisecond to make
        self._cached = cached
        self._open: weakref.WeakSet[IdentifyPartition] = weakref.WeakSet()

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg:
        part = IdentifyPartition(self, tables["tokens"], tables["evidence"])
        self._open.add(part)
        return part

    def check(self, table: str, key: bytes, value: bytes) -> None:
        check_row(table, key, value)

    def cached(self) -> int:
        """A partition's share of the cache."""
        return self._cached // max(1, len(self._open))


class IdentifyPartition:
    def __init__(self, leg: IdentifyLeg, tokens: Table, evidence: Table) -> None:
        self._leg = leg
        self._rules = leg.rules
        self._decode = leg.decode
        self._content = content_reader(leg.rules)
        self._resolver = Resolver(leg.rules, tokens, evidence)
        self._streams: dict[tuple[str, str], str] = {}
        self._resolved: list[Out] = []
        self._sent = 0
        """How many events have left by `outputs` since the last `drain`."""
        self._duplicates = self._repeated = 0
        self._ignored_consents = self._ignored_values = 0
        self._undecodable = 0
        self._overflow = 0
        self._erased = self._erasures = 0
        self._met: list[str] = []
        """Tokens that the event at work names for the first time with its anchor."""

    def on_batch(self, batch: SourceBatch) -> None:
        self._resolver.now = max(self._resolver.now, max(record.timestamp for record in batch.records))
        if batch.topic == Topic.PROTECTED:
            self._events(batch)
        else:
            self._messages(batch)

    def on_tick(self, now: int, caught_up: bool) -> None:
        """Go on with what other rules have divided, in the background."""
        self._resolver.reevaluate(CHECKED)

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        self._resolver.repeat(keys)

    def outputs(self) -> dict[str, list[Out]]:
        """`ports.Streaming`: an event's profile is what is known when it comes; a replay may know more."""
        resolved, self._resolved = self._resolved, []
        self._sent += len(resolved)
        return {Topic.RESOLVED.value: resolved}

    def held(self) -> int:
        return self._resolver.held()

    def drain(self) -> Effects:
        profiles, messages, alerts = self._resolver.flush()
        outputs = self.outputs()
        counts = {
            ("resolved", ""): self._sent,
            ("duplicate", ""): self._duplicates,
            ("repeated", ""): self._repeated,
            ("ignored", "consent"): self._ignored_consents,
            ("ignored", "computed"): self._ignored_values,
            ("undecodable", ""): self._undecodable,
            ("overflow", "link"): self._overflow,
            ("erased", ""): self._erased,
            ("erasure", ""): self._erasures,
            ("reevaluated", ""): self._resolver.reevaluated,
            ("profile", ""): len(profiles),
            ("message", ""): len(messages),
            ("alert", KIND): len(alerts),
        }
        self._duplicates = self._repeated = self._undecodable = self._overflow = 0
        self._ignored_consents = self._ignored_values = self._sent = 0
        self._erased = self._erasures = 0
        self._resolver.reevaluated = 0
        self._resolver.trim(self._leg.cached())
        return Effects(
            (
                {Topic.PROFILES.value: profiles, **outputs, Topic.ALERTS.value: alerts},
                {Topic.IDENTITY.value: messages},
                STATE,
            ),
            {key: n for key, n in counts.items() if n},
        )

    # -- events ----------------------------------------------------------------------------------------------------

    def _events(self, batch: SourceBatch) -> None:
        # A hot loop: 6 µs an event of a known token.
        decode, content_of, streams = self._decode, self._content, self._streams
        resolver, rules = self._resolver, self._rules
        rows, folded, reborn = resolver.rows, resolver.folded, resolver.reborn
        resolved = self._resolved.append
        met = self._met
        for record in batch.records:
            value = record.value or b""
            try:
                event = decode(value)
            except UNDECODABLE:
                self._undecodable += 1
                continue
            anchor = event.anchor
            row = rows.get(anchor)
            if row is None:
                row = self._load(record, anchor)
                if row is None:
                    self._undecodable += 1
                    continue
            origin = event.origin
            where = streams.get((origin.topic, origin.incarnation))
            if where is None:
                where = self._stream(origin.topic, origin.incarnation)
            if (row.erased is not None and not counts(row.erased, event, where)) or event.type == ERASE:
                self._uncounted(row, event, where, value)
                value = value.replace(b"{", _UNDER % NOBODY_ID, 1)
                resolved(Out(NOBODY_ID, value, record.timestamp if record.timestamp > 0 else 0))
                continue
            content = content_of(event)
            done = fold(row, event, where, content, rules)
            if done is BEFORE:
                self._duplicates += 1
            else:
                folded[anchor] = row
                if done is not ADDED:
                    if done is BORN or done is REPEATED_BORN:
                        reborn.add(anchor)
                    if done is REPEATED or done is REPEATED_BORN:
                        self._repeated += 1
                if content is not None and content.ignored:
                    self._ignored_consents += content.ignored[0]
                    self._ignored_values += content.ignored[1]
                time = event.time
                if time // DAY > row.day:
                    row.day, row.edges = time // DAY, b""
                known = row.edges.hex()
                late = time <= row.latest or event.type in DECISIONS
                for token in event.tokens.values():
                    if token != anchor and (late or token[-32:] not in known):
                        known = self._sighted(anchor, row, token, event)
                if met:  # only now, as a join may ship the row's facts, and those of one version are one state
                    for token in met:
                        resolver.join(anchor, token)
                    met.clear()
            ident = (row.profile or _own_id(row)).hex().encode()
            value = value.replace(b"{", _UNDER % ident, 1)
            resolved(Out(ident, value, record.timestamp if record.timestamp > 0 else 0))

    def _load(self, record: Record, anchor: str) -> Row | None:
        """The row of an anchor; None if the record is not from the protect leg."""
        if not well_formed(anchor) or record.key != anchor.encode():
            return None
        return self._resolver.row(anchor)

    def _stream(self, topic: str, incarnation: str) -> str:
        name = self._streams[topic, incarnation] = stream(topic, incarnation)
        return name

    def _sighted(self, anchor: str, row: Row, token: str, event: Event) -> str:
        """An event of `anchor` names `token`; returns the digests of the known neighbours as hex."""
        if not well_formed(token):
            self._undecodable += 1
            return row.edges.hex()
        links = self._rules.links
        joins = links(kind_of(anchor)) and links(kind_of(token))
        if event.type in DECISIONS:
            if joins and decide(row, event, token):
                self._resolver.link(anchor, token)
            return row.edges.hex()
        if joins:
            new = sight(row, event, token, MAX_LINKS)
            if new is None:
                self._overflow += 1
            elif new:
                assert row.facts is not None
                row.facts.former.update(pair for pair in formers(event.tokens) if pair[1] == token)
                self._met.append(token)
        elif token.startswith(GROUP) and not links(kind_of(token)):
            facts = row.facts
            assert facts is not None
            if not visit(row, token, MAX_LINKS):
                self._overflow += 1
            self._resolver.visit(token, anchor, event.time, facts.erasures)
            row.latest = max(row.latest, event.time)
        if len(row.edges) < KNOWN_EDGES and event.time // DAY == row.day:
            row.edges += digest_of(token)
        return row.edges.hex()

    def _uncounted(self, row: Row, event: Event, where: str, value: bytes) -> None:
        """A marker of an erasure, or an event that one takes away."""
        anchor = event.anchor
        if event.type != ERASE:
            if not pass_over(row, event, where):
                self._duplicates += 1
                return
            self._erased += 1
            self._pass_over(anchor, row, event)
        else:
            try:
                marker = _marker(value).clear
            except UNDECODABLE:
                self._undecodable += 1
                return
            groups = [token for token in visited(row) if not self._rules.links(kind_of(token))]
            done = erase(row, event, where, marker.erasure, marker.partitions)
            if done is Taken.BEFORE:
                self._duplicates += 1
                return
            if done is Taken.ERASED:
                self._erasures += 1
                assert row.facts is not None
                self._resolver.erased(anchor, row)
                for group in groups:
                    self._resolver.leave(group, anchor, row.facts.erasures)
        self._resolver.folded[anchor] = row

    def _pass_over(self, anchor: str, row: Row, event: Event) -> None:
        """Which tokens hang together, and how many an identifier has met, is the same as if the event counted."""
        links, facts = self._rules.links, row.facts
        assert facts is not None
        unions, joins = [], []
        for token in event.tokens.values():
            if token == anchor:
                continue
            if not well_formed(token):
                self._undecodable += 1
            elif links(kind_of(anchor)) and links(kind_of(token)):
                if event.type in DECISIONS:
                    unions += [token] if event.type == "link" else []
                    continue
                new = meet(row, token, MAX_LINKS)
                if new is None:
                    self._overflow += 1
                elif new:
                    joins.append(token)
            elif token.startswith(GROUP) and not links(kind_of(token)) and event.type not in DECISIONS:
                self._resolver.leave(token, anchor, facts.erasures)
        for token in joins:
            self._resolver.join(anchor, token)
        for token in unions:
            self._resolver.link(anchor, token)

    # -- messages --------------------------------------------------------------------------------------------------

    def _messages(self, batch: SourceBatch) -> None:
        decode, resolver = message_decoder.decode, self._resolver
        for record in batch.records:
            try:
                message = decode(record.value or b"")
                token = (record.key or b"").decode()
            except UNDECODABLE:
                self._undecodable += 1
                continue
            match message:
                case Join(other):
                    resolver.joined(token, other)
                case Union(low):
                    resolver.union(token, low)
                case Member(anchor, visits, era):
                    resolver.member(token, anchor, visits, era)
                case Left(anchor, era):
                    resolver.member(token, anchor, None, era)
                case Apart(others, full):
                    resolver.apart(token, others, full=full)
                case Evidence():
                    resolver.evidence(token, message)
                case Assigned():
                    resolver.assigned(token, message)


class _Clear(msgspec.Struct, gc=False):
    erasure: str
    partitions: int


class _Marker(msgspec.Struct, gc=False):
    clear: _Clear


_marker = msgspec.json.Decoder(_Marker).decode


def _own_id(row: Row) -> bytes:
    """The id of a profile of which only this token is known yet."""
    facts = row.facts
    assert facts is not None
    return profile_id(facts, facts.births[-1]) if facts.births else NOBODY
