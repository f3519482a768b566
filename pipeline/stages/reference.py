"""The reference: which tokens are one person under the rules, from a whole set of events at once.

In: protected events, in any order. Out: a `Ruling`: which sightings of two tokens together joined them, and which did
not, with the rule that forbade it. Rejects: none. It is the definition that the stream is held to (DESIGN §4), and what
`sealstream identity explain`, `plan` and `stats` go by. Shares no code with the stream but the rules.

1. Two linking tokens of one event are an *edge*; its first sighting is the one with the smallest (event time, event
   id). An operator's `link` is an edge, too; a `cut` forbids two tokens to be in one profile. Of several decisions
   about two tokens, the latest by (event time, event id) holds.
2. Tokens of one identifier under two key versions, which an event has side by side, count as one below.
3. A token with more than N distinct neighbours of an equal or stronger kind is *shared*: no edge but an operator's
   joins it. (2. does not hold for two that are; it does for their neighbours.) It stays so when neighbours are erased.
4. First the pairs of 2. are joined, as links are, but for shared ones. Then links, then edges by (the stronger kind,
   the weaker kind, first sighting): each joins the profiles of its two tokens unless they are one already or the joined
   one broke a rule. Links are not held back by limits, only by cuts.

All of this of the events that `unerased` leaves.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from ..events import DECISIONS, ERASE, ORDERS, Origin, formers, frame
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


class Erasable(Protocol):
    """What counts of it for erasures. `clear` of a marker has `erasure` and `partitions`."""

    @property
    def origin(self) -> Origin: ...
    @property
    def type(self) -> str: ...
    @property
    def time(self) -> int: ...
    @property
    def received_at(self) -> int: ...
    @property
    def anchor(self) -> str: ...
    @property
    def clear(self) -> Any: ...


E = TypeVar("E", bound=Erasable)

Erasure = tuple[int, str, int, str, str]
"""Time, name, number of partitions, topic and incarnation."""


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


def unerased(events: Iterable[E]) -> tuple[list[E], list[E]]:
    """Return the events that count, and those that erasures take away; markers of erasures are of neither.

    A marker of a token's erasure stands in each raw partition of one stream (topic and incarnation). Of the token's
    latest erasure by (time, name), the first marker in a partition takes away what the partition has of the token
    before it, or all of it while there is none. Of other streams, and partitions that were added later, it takes away
    what was received up to its time. A token's events are those that are anchored on it.
    """
    every = list(events)
    markers: dict[str, dict[Erasure, dict[int, int]]] = {}
    for event in every:
        if event.type == ERASE and (named := marked(event)) is not None:
            origin = event.origin
            erasure = event.time, *named, origin.topic, origin.incarnation
            places = markers.setdefault(event.anchor, {}).setdefault(erasure, {})
            places[origin.partition] = min(places.get(origin.partition, origin.offset), origin.offset)
    stands: list[E] = []
    taken: list[E] = []
    for event in every:
        if event.type != ERASE:
            of_token = markers.get(event.anchor)
            (stands if of_token is None or _after(event, *max(of_token.items())) else taken).append(event)
    return stands, taken


def marked(event: Erasable) -> tuple[str, int] | None:
    """Of a marker, the erasure's name and number of partitions; None if it has none, and marks nothing."""
    clear = event.clear
    if not isinstance(clear, dict):
        return None
    name, partitions = clear.get("erasure"), clear.get("partitions")
    return (name, partitions) if isinstance(name, str) and type(partitions) is int else None


def _after(event: Erasable, erasure: Erasure, places: Mapping[int, int]) -> bool:
    time, _, partitions, *stream = erasure
    origin = event.origin
    if [origin.topic, origin.incarnation] == stream:
        if origin.partition in places:
            return origin.offset > places[origin.partition]
        if origin.partition < partitions:
            return False
    return event.received_at > time


def decide(events: Iterable[Event], rules: Rules, erased: Iterable[Event] = ()) -> Ruling:
    """Who is who. `erased`: events that do not count any more. Time: E log E in the edges."""
    edges: dict[Pair, Edge] = {}
    decisions: dict[Pair, tuple[int, str, str, Edge]] = {}
    first: dict[str, int] = {}
    pairs: dict[Pair, Edge] = {}
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
        if _links(anchor, rules):
            for pair in formers(event.tokens):
                if all(_links(token, rules) for token in pair):
                    a, b = sorted(pair)
                    edge = Edge(a, b, event.time, event.event_id, event.source)
                    pairs[a, b] = min(pairs.get((a, b), edge), edge, key=lambda e: (e.time, e.event_id))
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
    met = [
        Edge(event.anchor, token, event.time, event.event_id, event.source)
        for event in erased
        if event.type not in ORDERS and _links(event.anchor, rules)
        for token in set(event.tokens.values()) - {event.anchor}
        if _links(token, rules)
    ]
    shared = _shared([*edges.values(), *met], rules, _identifiers(pairs))
    shared = {token: n for token, n in shared.items() if token in first}
    same = _identifiers(pair for pair in pairs if not shared.keys() >= set(pair))
    people = _People(first, cuts, rules, same)
    joined: list[Edge] = []
    within: list[Edge] = []
    refused: list[Refused] = []
    joint = [edge for pair, edge in pairs.items() if shared.keys().isdisjoint(pair)]
    for certain in (joint, links):
        for edge in sorted(certain, key=lambda e: (e.time, e.event_id, e.a, e.b)):
            _judge(edge, people.obstacle(edge, limits=False), people, joined, within, refused)
    linked = {(e.a, e.b) for e in (*joint, *links)}
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
    """`times`: kind → identifier → first sighting of its tokens here. `cut`: tokens that may not come in."""

    def __init__(self, token: str, identifier: str, time: int) -> None:
        self.tokens = {token}
        self.times = {token.split(".")[0]: {identifier: time}}
        self.cut: set[str] = set()

    def identifiers(self) -> set[str]:
        return {identifier for times in self.times.values() for identifier in times}


class _People:
    def __init__(self, first: dict[str, int], cuts: Iterable[Pair], rules: Rules, same: dict[str, str]) -> None:
        self.of = {token: _Person(token, same.get(token, token), time) for token, time in first.items()}
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
        most = self._rules.limits.cluster_tokens
        if len(one.tokens) + len(other.tokens) > most and len(one.identifiers() | other.identifiers()) > most:
            return "cluster_tokens"
        both = one.times.keys() & other.times.keys()
        for name in sorted(both & self._rules.kinds.keys(), key=lambda k: self._rules.kinds[k].priority):
            kind = self._rules.kinds[name]
            if not kind.limit:
                continue
            together = dict(one.times[name])
            _take_in(together, other.times[name])
            times = sorted(together.values())
            if any(
                not kind.window or late - early < kind.window_ms
                for early, late in zip(times, times[kind.limit :], strict=False)
            ):
                return f"limit.{name}"
        return None

    def join(self, edge: Edge) -> None:
        small, large = sorted((self.of[edge.a], self.of[edge.b]), key=lambda p: len(p.tokens))
        for kind, times in small.times.items():
            _take_in(large.times.setdefault(kind, {}), times)
        large.tokens |= small.tokens
        large.cut |= small.cut
        for token in small.tokens:
            self.of[token] = large

    def all(self) -> list[list[str]]:
        return [sorted(person.tokens) for person in {id(p): p for p in self.of.values()}.values()]


def _take_in(times: dict[str, int], more: Mapping[str, int]) -> None:
    for identifier, time in more.items():
        times[identifier] = min(times.get(identifier, time), time)


def _identifiers(pairs: Iterable[Pair]) -> dict[str, str]:
    """Token → the first of those that are one identifier; of those that are alone nothing."""
    whole: dict[str, set[str]] = {}
    for one, other in pairs:
        both = whole.get(one, {one}) | whole.get(other, {other})
        whole.update(dict.fromkeys(both, both))
    return {token: min(tokens) for token, tokens in whole.items()}


def _shared(edges: Iterable[Edge], rules: Rules, same: Mapping[str, str]) -> dict[str, int]:
    neighbours: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        one, other = same.get(edge.a, edge.a), same.get(edge.b, edge.b)
        a, b = _priority(edge.a, rules), _priority(edge.b, rules)
        if one != other and b <= a:
            neighbours[edge.a].add(other)
        if one != other and a <= b:
            neighbours[edge.b].add(one)
    return {token: len(of) for token, of in neighbours.items() if len(of) > rules.shared_at(token.split(".")[0])}


def _strengths(edge: Edge, rules: Rules) -> tuple[int, int]:
    a, b = _priority(edge.a, rules), _priority(edge.b, rules)
    return min(a, b), max(a, b)


def _priority(token: str, rules: Rules) -> int:
    return rules.kinds[token.split(".")[0]].priority


def _links(token: str, rules: Rules) -> bool:
    kind = rules.kinds.get(token.split(".")[0])
    return kind is not None and kind.links
