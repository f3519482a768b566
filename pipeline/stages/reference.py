"""The reference: which tokens are one person under the rules, from a whole set of events at once.

In: protected events, in any order. Out: a `Ruling`: which sightings of two tokens together joined them, and which did
not, with the rule that forbade it. Rejects: none. It is the definition that the stream is held to (DESIGN §4), and what
`sealstream identity explain`, `plan` and `stats` go by. Shares no code with the stream but the rules.

1. Two linking tokens of one event are an *edge*; its first sighting is the one with the smallest (event time, event
   id). An operator's `link` is an edge, too; a `cut` forbids two tokens to be in one profile. Of several decisions
   about two tokens, the latest by (event time, event id) holds.
2. A token with more than N distinct neighbours of an equal or stronger kind is *shared*: no edge but an operator's
   joins it.
3. Links first, then edges by (the stronger kind, the weaker kind, first sighting): each joins the profiles of its two
   tokens unless they are one already or the joined one broke a rule. Links are not held back by limits, only by cuts.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from ..events import DECISIONS, frame
from .link import Rules

Pair = tuple[str, str]
"""Two tokens, in the order of their text."""


class Event(Protocol):
    """What counts of a `ProtectedEvent` here."""

    @property
    def event_id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def time(self) -> int: ...
    @property
    def anchor(self) -> str: ...
    @property
    def tokens(self) -> Mapping[str, str]: ...


class Edge(NamedTuple):
    """Two tokens and their first sighting together."""

    a: str
    b: str
    time: int
    event_id: str
    source: str


class Refused(NamedTuple):
    edge: Edge
    rule: str
    """`shared`, `cut`, `cluster_tokens`, or `limit.<kind>`."""


class Ruling(NamedTuple):
    people: list[list[str]]
    """Every token once, sorted, with those of its person."""
    joined: list[Edge]
    """In the order in which they joined; those between tokens that were one already left out."""
    within: list[Edge]
    """Edges between tokens that were one already."""
    refused: list[Refused]
    links: list[Edge]
    """Operators' links that hold; of `joined`, `within` or `refused`, too."""
    cuts: dict[Pair, Edge]
    shared: dict[str, int]
    """Shared tokens, and how many distinct neighbours they have that count."""
    first: dict[str, int]
    """Every token's first sighting, ms; 0 for what only operators' decisions name."""


def profile_id(event_id: str) -> str:
    """Return the id of the profile whose oldest event, by Kafka time and origin, has this id."""
    return hashlib.sha256(frame(b"sealstream/profile-id/1", bytes.fromhex(event_id))).hexdigest()[:32]


def decide(events: Iterable[Event], rules: Rules) -> Ruling:
    """Who is who. Time: E log E in the edges."""
    edges: dict[Pair, Edge] = {}
    decisions: dict[Pair, tuple[int, str, str, Edge]] = {}
    first: dict[str, int] = {}
    for event in events:
        anchor = event.anchor
        if event.type in DECISIONS:
            for token in set(event.tokens.values()) - {anchor}:
                if _links(anchor, rules) and _links(token, rules):
                    a, b = sorted((anchor, token))
                    edge = Edge(a, b, event.time, event.event_id, event.source)
                    made = (event.time, event.event_id, event.type, edge)
                    decisions[a, b] = max(decisions.get((a, b), made), made)
            continue
        first[anchor] = min(first.get(anchor, event.time), event.time)
        for token in set(event.tokens.values()) - {anchor}:
            if not _links(anchor, rules) or not _links(token, rules):
                continue
            first[token] = min(first.get(token, event.time), event.time)
            a, b = sorted((anchor, token))
            edge = Edge(a, b, event.time, event.event_id, event.source)
            edges[a, b] = min(edges.get((a, b), edge), edge, key=lambda e: (e.time, e.event_id))
    for pair in decisions:
        for token in pair:
            first.setdefault(token, 0)  # never seen otherwise
    links = [edge for _, _, kind, edge in decisions.values() if kind == "link"]
    cuts = {pair: edge for pair, (_, _, kind, edge) in decisions.items() if kind == "cut"}
    shared = _shared(edges.values(), rules)
    people = _People(first, cuts, rules)
    joined: list[Edge] = []
    within: list[Edge] = []
    refused: list[Refused] = []
    for edge in sorted(links, key=lambda e: (e.time, e.event_id, e.a, e.b)):
        _judge(edge, people.obstacle(edge, limits=False), people, joined, within, refused)
    linked = {(e.a, e.b) for e in links}
    ranked = [edge for pair, edge in edges.items() if pair not in linked]
    for edge in sorted(ranked, key=lambda e: (*_strengths(e, rules), e.time, e.event_id, e.a, e.b)):
        if edge.a in shared or edge.b in shared:
            refused.append(Refused(edge, "shared"))
        else:
            _judge(edge, people.obstacle(edge, limits=True), people, joined, within, refused)
    return Ruling(people.all(), joined, within, refused, links, cuts, shared, first)


def _judge(
    edge: Edge, obstacle: str | None, people: _People, joined: list[Edge], within: list[Edge], refused: list[Refused]
) -> None:
    if people.of[edge.a] is people.of[edge.b]:
        within.append(edge)
    elif obstacle is None:
        people.join(edge)
        joined.append(edge)
    else:
        refused.append(Refused(edge, obstacle))


class _Person:
    """`times`: kind → first sightings of its tokens. `cut`: tokens that may not come in."""

    def __init__(self, token: str, time: int) -> None:
        self.tokens = {token}
        self.times = {token.split(".")[0]: [time]}
        self.cut: set[str] = set()


class _People:
    def __init__(self, first: dict[str, int], cuts: Iterable[Pair], rules: Rules) -> None:
        self.of = {token: _Person(token, time) for token, time in first.items()}
        self._rules = rules
        for a, b in cuts:
            self.of[a].cut.add(b)
            self.of[b].cut.add(a)

    def obstacle(self, edge: Edge, *, limits: bool) -> str | None:
        """The rule that keeps two persons apart. A limit of a kind is broken by those who both bring some of it."""
        one, other = self.of[edge.a], self.of[edge.b]
        if not one.cut.isdisjoint(other.tokens):
            return "cut"
        if not limits:
            return None
        if len(one.tokens) + len(other.tokens) > self._rules.limits.cluster_tokens:
            return "cluster_tokens"
        both = one.times.keys() & other.times.keys()
        for name in sorted(both & self._rules.kinds.keys(), key=lambda k: self._rules.kinds[k].priority):
            kind = self._rules.kinds[name]
            if not kind.limit:
                continue
            times = sorted(one.times[name] + other.times[name])
            if any(
                not kind.window or late - early < kind.window_ms
                for early, late in zip(times, times[kind.limit :], strict=False)
            ):
                return f"limit.{name}"
        return None

    def join(self, edge: Edge) -> None:
        small, large = sorted((self.of[edge.a], self.of[edge.b]), key=lambda p: len(p.tokens))
        large.tokens |= small.tokens
        large.cut |= small.cut
        for kind, times in small.times.items():
            large.times[kind] = large.times.get(kind, []) + times
        for token in small.tokens:
            self.of[token] = large

    def all(self) -> list[list[str]]:
        return [sorted(person.tokens) for person in {id(p): p for p in self.of.values()}.values()]


def _shared(edges: Iterable[Edge], rules: Rules) -> dict[str, int]:
    count: dict[str, int] = defaultdict(int)
    for edge in edges:
        a, b = _priority(edge.a, rules), _priority(edge.b, rules)
        count[edge.a] += b <= a
        count[edge.b] += a <= b
    return {token: n for token, n in count.items() if n > rules.shared_at(token.split(".")[0])}


def _strengths(edge: Edge, rules: Rules) -> tuple[int, int]:
    a, b = _priority(edge.a, rules), _priority(edge.b, rules)
    return min(a, b), max(a, b)


def _priority(token: str, rules: Rules) -> int:
    return rules.kinds[token.split(".")[0]].priority


def _links(token: str, rules: Rules) -> bool:
    kind = rules.kinds.get(token.split(".")[0])
    return kind is not None and kind.links
