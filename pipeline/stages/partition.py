"""Divide the tokens that hang together into persons, as the rules allow.

In: what is known of each token of a cluster. Out: its parts, each with the conflicts that it shows; and which tokens
are shared. Rejects: none. Metrics: none. Cost: 8 µs for a customer with five identifiers, 2 µs a link beyond; E log E.
Done when links change, not when events come.

`stages.reference` is the definition. A cluster holds every token that an edge may join to its others, so what comes out
is the same whatever else is in it; a link that leads out of it is a conflict if its other end is known to stay apart,
and else on its way.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..events import DAY, Conflict
from .identity_rows import DIGEST, Facts, entry_at, kind_of, kind_rank, tokens_of
from .link import Rules

LINK = struct.Struct(f"<{DIGEST}sq16sq")
"""Digest of the other token; time (ms) and event id of the first event with both; day of the last one."""

Pair = tuple[str, str]


class Part(NamedTuple):
    tokens: list[str]
    """Sorted."""
    seen: dict[str, tuple[int, int]]
    """By token, sorted: first, and last to the day (ms)."""
    conflicts: list[Conflict]
    """Sorted."""


class Partition(NamedTuple):
    parts: list[Part]
    shared: set[str]
    plain: bool
    """No rule can bind, nor could one with fewer of the tokens and links."""


def with_link(packed: bytes, digest: bytes, time: int, event_id: bytes, day: int) -> bytes:
    """The links of one prefix with one more event; the same object if it tells nothing new."""
    at = entry_at(digest, packed, LINK.size)
    if at < 0:
        return packed + LINK.pack(digest, time, event_id, day)
    _, first, first_id, last = LINK.unpack_from(packed, at)
    if (time, event_id) >= (first, first_id):
        if day <= last:
            return packed
        time, event_id = first, first_id
    return packed[:at] + LINK.pack(digest, time, event_id, max(day, last)) + packed[at + LINK.size :]


class Partitioner:
    """Divides clusters by the rules given."""

    def __init__(self, rules: Rules) -> None:
        self._priority = {name: kind.priority for name, kind in rules.kinds.items() if kind.links}
        self._kinds = rules.kinds
        self._shared_at = {name: rules.shared_at(name) for name in rules.kinds}
        self._few = min(self._shared_at.values())  # among so many tokens none is shared
        self._most = rules.limits.cluster_tokens
        self.windows = any(kind.window for kind in rules.kinds.values())
        """Do first times matter to more than `seen` and to the order of links?"""

    def divide(self, known: Mapping[str, Facts], members: Collection[str], apart: Mapping[str, str]) -> Partition:
        """`known`: of the members that have any. `apart`: tokens outside that links may lead to → the rule.

        In members, each token stands once.
        """
        pairs = self._pairs(known)
        if not apart and len(members) <= self._few and self._within_limits(members, _identifiers(pairs)):
            whole = self._whole(known, members)
            if whole is not None:
                return whole._replace(plain=not pairs and not any(facts.erasures for facts in known.values()))
        return self._divided(known, members, apart, pairs)

    def _pairs(self, known: Mapping[str, Facts]) -> dict[Pair, tuple[int, bytes]]:
        """Tokens of one identifier under two key versions, with the first sighting of both in one event."""
        pairs: dict[Pair, tuple[int, bytes]] = {}
        for anchor, facts in known.items():
            if facts.former:
                newer = {former: token for token, former in facts.former.items()}
                for token, time, event_id, _ in self._links(anchor, facts):
                    if token in newer:
                        a, b = sorted((token, newer[token]))
                        pairs[a, b] = min(pairs.get((a, b), (time, event_id)), (time, event_id))
        return pairs

    def _within_limits(self, members: Collection[str], same: Mapping[str, str]) -> bool:
        if len(members) > self._most:
            return False
        count: dict[str, int] = {}
        for token in {same.get(token, token) for token in members} if same else members:
            kind = kind_of(token)
            count[kind] = count.get(kind, 0) + 1
        return all(n <= (self._kinds[kind].limit or n) for kind, n in count.items() if kind in self._kinds)

    def _whole(self, known: Mapping[str, Facts], members: Collection[str]) -> Partition | None:
        """One person, if no rule can bind and its links hold it together: nearly all are."""
        leader = dict.fromkeys(members, "")
        seen: dict[str, tuple[int, int]] = {}
        joined = 1
        for anchor, facts in known.items():
            if facts.decisions:
                return None
            if facts.births:
                _note(seen, anchor, facts.first, facts.last // DAY * DAY)
            for token, time, _, day in self._links(anchor, facts):
                if token not in leader:
                    continue  # on its way
                _note(seen, token, time, day * DAY)
                one, other = _leader(leader, anchor), _leader(leader, token)
                if one != other:
                    leader[one] = other
                    joined += 1
        if joined < len(leader):
            return None
        tokens = sorted(leader)
        return Partition([Part(tokens, {t: seen[t] for t in tokens if t in seen}, [])], set(), plain=True)

    def seen(self, known: Mapping[str, Facts], tokens: Collection[str]) -> dict[str, tuple[int, int]]:
        """`Part.seen` of a person with these tokens, sorted."""
        seen: dict[str, tuple[int, int]] = {}
        mine = set(tokens)
        for anchor in tokens:
            facts = known.get(anchor)
            if facts is None:
                continue
            if facts.births:
                _note(seen, anchor, facts.first, facts.last // DAY * DAY)
            for token, time, _, day in self._links(anchor, facts):
                if token in mine:
                    _note(seen, token, time, day * DAY)
        return {token: seen[token] for token in tokens if token in seen}

    def _links(self, anchor: str, facts: Facts) -> Iterator[tuple[str, int, bytes, int]]:
        """Yield (other token, first time, first event's id, last day) of the links that count."""
        if kind_of(anchor) not in self._priority:
            return
        for prefix, packed in facts.links.items():
            if kind_of(prefix) in self._priority:
                for digest, time, event_id, day in LINK.iter_unpack(packed):
                    yield prefix + digest.hex(), time, event_id, day

    def _divided(
        self,
        known: Mapping[str, Facts],
        members: Collection[str],
        apart: Mapping[str, str],
        pairs: dict[Pair, tuple[int, bytes]],
    ) -> Partition:
        first: dict[str, int] = {}
        strengths = _Strengths(self._priority)
        edges, neighbours = self._edges(known, first, strengths)
        met = self._met(known)
        if pairs or met:
            neighbours = _distinct(edges.keys() | met, _identifiers(pairs), strengths)
        shared = {token for token, n in neighbours.items() if n > self._shared_at[kind_of(token)]}
        joins_nobody = shared | {token for token, rule in apart.items() if rule == "shared"}
        same = _identifiers(pair for pair in pairs if not joins_nobody.issuperset(pair))
        people = {
            token: _Person(token, same.get(token, token), kind_of(token), first.get(token, 0)) for token in members
        }
        refused: list[tuple[Pair, str, int]] = []
        joint = {pair: first for pair, first in pairs.items() if joins_nobody.isdisjoint(pair)}
        for strongest, _, time, _, pair in self._ranked(known, edges, joint, people, strengths):
            one, another = people.get(pair[0]), people.get(pair[1])
            if strongest > 0 and (pair[0] in shared or pair[1] in shared):
                refused.append((pair, "shared", time))
            elif one is None or another is None:
                rule = apart.get(pair[0] if one is None else pair[1])
                if rule is not None:
                    refused.append((pair, rule, time))
            elif one is not another:
                rule = self._obstacle(one, another, limits=strongest > 0)
                if rule is None:
                    _join(one, another, people)
                else:
                    refused.append((pair, rule, time))
        conflicts = self._conflicts(refused, shared, people)
        parts = []
        for person in {id(p): p for p in people.values()}.values():
            tokens = sorted(person.tokens)
            mine = sorted(conflicts.get(id(person), ()), key=lambda c: c.tokens)
            parts.append(Part(tokens, self.seen(known, tokens), mine))
        return Partition(parts, shared, plain=False)

    def _edges(
        self, known: Mapping[str, Facts], first: dict[str, int], strengths: _Strengths
    ) -> tuple[dict[Pair, tuple[int, bytes]], dict[str, int]]:
        """First sightings by pair, and by token how many neighbours of equal or stronger kinds; fills `first`."""
        edges: dict[Pair, tuple[int, bytes]] = {}
        neighbours: dict[str, int] = {}
        for anchor, facts in known.items():
            if facts.births:
                first[anchor] = min(first.get(anchor, facts.first), facts.first)
            for token, time, event_id, _ in self._links(anchor, facts):
                pair = (anchor, token) if anchor < token else (token, anchor)
                met = edges.get(pair)
                if met is None:
                    strength, other = strengths[anchor], strengths[token]
                    if other >= strength:
                        neighbours[token] = neighbours.get(token, 0) + 1
                    if other <= strength:
                        neighbours[anchor] = neighbours.get(anchor, 0) + 1
                if met is None or (time, event_id) < met:
                    edges[pair] = time, event_id
                if time < first.get(token, time + 1):
                    first[token] = time
        return edges, neighbours

    def _met(self, known: Mapping[str, Facts]) -> set[Pair]:
        """Pairs that occurred together in events that were erased."""
        return {
            (anchor, token) if anchor < token else (token, anchor)
            for anchor, facts in known.items()
            if facts.met and kind_of(anchor) in self._priority
            for prefix, digests in facts.met.items()
            if kind_of(prefix) in self._priority
            for token in tokens_of(prefix, digests)
        }

    def _ranked(
        self,
        known: Mapping[str, Facts],
        edges: dict[Pair, tuple[int, bytes]],
        joint: Mapping[Pair, tuple[int, bytes]],
        people: Mapping[str, _Person],
        strengths: _Strengths,
    ) -> list[tuple[int, int, int, bytes, Pair]]:
        """Pairs, operators' links, then edges, in the order in which they count; cuts are noted at the persons."""
        decisions: dict[Pair, tuple[int, bytes, bool]] = {}
        for anchor, facts in known.items():
            for token, decision in facts.decisions.items():
                if kind_of(anchor) in self._priority and kind_of(token) in self._priority:
                    pair = (anchor, token) if anchor < token else (token, anchor)
                    decisions[pair] = max(decisions.get(pair, decision), decision)
        ranked = [(-1, 0, time, event_id, pair) for pair, (time, event_id) in joint.items()]
        for pair in joint:
            edges.pop(pair, None)
        for pair, (time, event_id, link) in decisions.items():
            if pair[0] not in people or pair[1] not in people:
                continue
            if link:
                edges.pop(pair, None)
                ranked.append((0, 0, time, event_id, pair))
            else:
                people[pair[0]].barred.add(pair[1])
                people[pair[1]].barred.add(pair[0])
        for pair, (time, event_id) in edges.items():
            a, b = strengths[pair[0]], strengths[pair[1]]
            ranked.append((a, b, time, event_id, pair) if a < b else (b, a, time, event_id, pair))
        ranked.sort()
        return ranked

    def _obstacle(self, one: _Person, other: _Person, *, limits: bool) -> str | None:
        few, many = (one, other) if len(one.tokens) < len(other.tokens) else (other, one)
        if many.barred and not many.barred.isdisjoint(few.tokens):  # each bars the other
            return "cut"
        if not limits:
            return None
        if len(one.tokens) + len(other.tokens) > self._most and _together(one, other) > self._most:
            return "cluster_tokens"
        broken: list[tuple[int, str]] = []
        for name, times in one.times.items():
            theirs = other.times.get(name)
            kind = self._kinds.get(name)
            if theirs is None or kind is None or not kind.limit or len(times) + len(theirs) <= kind.limit:
                continue
            if len(times) + len(theirs) - len(times.keys() & theirs.keys()) <= kind.limit:
                continue
            if not kind.window or _crowded(sorted(_earliest(times, theirs).values()), kind.limit, kind.window_ms):
                broken.append((kind.priority, name))
        return f"limit.{min(broken)[1]}" if broken else None

    def _conflicts(
        self, refused: list[tuple[Pair, str, int]], shared: set[str], people: Mapping[str, _Person]
    ) -> dict[int, list[Conflict]]:
        """By the id of a person: what it shows."""
        found: dict[int, list[Conflict]] = {}
        for pair, rule, time in refused:
            conflict = Conflict(list(pair), rule, time)
            for token, other in (pair, pair[::-1]):
                person = people.get(token)
                if person is None:
                    continue
                if rule == "shared" and (token in shared or kind_rank(token) > kind_rank(other)):
                    continue  # it says so alone; and the one that was not the anchor is not told
                found.setdefault(id(person), []).append(conflict)
        for token in shared:
            if token in people:
                found.setdefault(id(people[token]), []).append(Conflict([token], "shared"))
        return found


class _Strengths(dict[str, int]):
    """Token → priority of its kind, which is looked up once."""

    def __init__(self, priority: Mapping[str, int]) -> None:
        self._priority = priority

    def __missing__(self, token: str) -> int:
        strength = self[token] = self._priority[kind_of(token)]
        return strength


class _Person:
    """`times`: by kind and identifier, when it was seen first."""

    __slots__ = ("barred", "times", "tokens")

    def __init__(self, token: str, identifier: str, kind: str, time: int) -> None:
        self.tokens = [token]
        self.times = {kind: {identifier: time}}
        self.barred: set[str] = set()


def _note(seen: dict[str, tuple[int, int]], token: str, first: int, day: int) -> None:
    before = seen.get(token)
    seen[token] = (first, day) if before is None else (min(first, before[0]), max(day, before[1]))


def _distinct(edges: Iterable[Pair], same: Mapping[str, str], strengths: _Strengths) -> dict[str, int]:
    """The neighbours that `Partitioner._edges` counts, where several tokens are one identifier, or some were erased."""
    found: dict[str, set[str]] = {}
    for pair in edges:
        for token, other in (pair, pair[::-1]):
            identifier = same.get(other, other)
            if identifier != same.get(token, token) and strengths[other] <= strengths[token]:
                found.setdefault(token, set()).add(identifier)
    return {token: len(identifiers) for token, identifiers in found.items()}


def _identifiers(pairs: Iterable[Pair]) -> dict[str, str]:
    """Token → the token that stands for its identifier, of tokens that were made of one under two key versions."""
    leader: dict[str, str] = {}
    for pair in pairs:
        for token in pair:
            leader.setdefault(token, "")
        one, other = sorted(_leader(leader, token) for token in pair)
        if one != other:
            leader[other] = one
    return {token: _leader(leader, token) for token in leader}


def _together(one: _Person, other: _Person) -> int:
    """How many identifiers they have."""
    kinds = one.times.keys() | other.times.keys()
    return sum(len(one.times.get(kind, {}).keys() | other.times.get(kind, {}).keys()) for kind in kinds)


def _earliest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    both = one | other
    for identifier in one.keys() & other.keys():
        both[identifier] = min(one[identifier], other[identifier])
    return both


def _leader(leader: dict[str, str], token: str) -> str:
    while above := leader[token]:
        token = above
    return token


def _crowded(times: list[int], limit: int, span: int) -> bool:
    return any(times[i + limit] - times[i] < span for i in range(len(times) - limit))


def _join(one: _Person, other: _Person, people: dict[str, _Person]) -> None:
    if len(one.tokens) < len(other.tokens):
        one, other = other, one
    one.tokens += other.tokens
    one.barred |= other.barred
    for kind, times in other.times.items():
        mine = one.times.setdefault(kind, times)
        if mine is not times:
            for identifier, time in times.items():
                mine[identifier] = min(mine.get(identifier, time), time)
    for token in other.tokens:
        people[token] = one
