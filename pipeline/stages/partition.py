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
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ..events import Conflict
from .identity_rows import DIGEST, Facts, kind_of
from .link import Rules

LINK = struct.Struct(f"<{DIGEST}sq16sq")
"""Digest of the other token; time (ms) and event id of the first event with both; day of the last one."""
DAY = 24 * 3_600_000

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


def links(facts: Facts, rules: Rules, anchor: str) -> Iterator[tuple[str, int, bytes, int]]:
    """Yield (other token, first time, first event's id, last day) of the links that count."""
    if not rules.links(kind_of(anchor)):
        return
    for prefix, packed in facts.links.items():
        if not rules.links(kind_of(prefix)):
            continue
        for digest, time, event_id, day in LINK.iter_unpack(packed):
            yield prefix + digest.hex(), time, event_id, day


def with_link(packed: bytes, digest: bytes, time: int, event_id: bytes, day: int) -> bytes:
    """The links of one prefix with one more event; the same object if it tells nothing new."""
    at = _find(packed, digest)
    if at < 0:
        return packed + LINK.pack(digest, time, event_id, day)
    _, first, first_id, last = LINK.unpack_from(packed, at)
    if (time, event_id) >= (first, first_id):
        if day <= last:
            return packed
        time, event_id = first, first_id
    return packed[:at] + LINK.pack(digest, time, event_id, max(day, last)) + packed[at + LINK.size :]


def _find(packed: bytes, digest: bytes) -> int:
    at = packed.find(digest)
    while at % LINK.size and at >= 0:
        at = packed.find(digest, at + 1)
    return at


class _Person:
    __slots__ = ("barred", "times", "tokens")

    def __init__(self, token: str, kind: str, time: int) -> None:
        self.tokens = [token]
        self.times = {kind: [time]}
        self.barred: set[str] = set()


def partition(
    known: Mapping[str, Facts], members: Collection[str], apart: Mapping[str, str], rules: Rules
) -> Partition:
    """`known`: of the members that have any. `apart`: tokens outside that links may lead to → the rule that says so."""
    edges: dict[Pair, tuple[int, bytes]] = {}
    decisions: dict[Pair, tuple[int, bytes, bool]] = {}
    first: dict[str, int] = {}
    neighbours: dict[str, int] = {}
    for anchor, facts in known.items():
        if facts.births:
            first[anchor] = min(first.get(anchor, facts.first), facts.first)
        strength = _strength(anchor, rules)
        for token, time, event_id, _ in links(facts, rules, anchor):
            pair = (anchor, token) if anchor < token else (token, anchor)
            met = edges.get(pair)
            if met is None:
                other = _strength(token, rules)
                if other >= strength:
                    neighbours[token] = neighbours.get(token, 0) + 1
                if other <= strength:
                    neighbours[anchor] = neighbours.get(anchor, 0) + 1
            if met is None or (time, event_id) < met:
                edges[pair] = time, event_id
            if time < first.get(token, time + 1):
                first[token] = time
        for token, decision in facts.decisions.items():
            if not (rules.links(kind_of(anchor)) and rules.links(kind_of(token))):
                continue
            pair = (anchor, token) if anchor < token else (token, anchor)
            if pair not in decisions or decisions[pair] < decision:
                decisions[pair] = decision
    shared = {token for token, n in neighbours.items() if n > rules.shared_at(kind_of(token))}
    people = {token: _Person(token, kind_of(token), first.get(token, 0)) for token in members}
    ranked: list[tuple[int, int, int, bytes, Pair]] = []
    for pair, (time, event_id, link) in decisions.items():
        if pair[0] in people and pair[1] in people:
            if link:
                edges.pop(pair, None)
                ranked.append((0, 0, time, event_id, pair))
            else:
                people[pair[0]].barred.add(pair[1])
                people[pair[1]].barred.add(pair[0])
    for pair, (time, event_id) in edges.items():
        a, b = _strength(pair[0], rules), _strength(pair[1], rules)
        ranked.append((a, b, time, event_id, pair) if a < b else (b, a, time, event_id, pair))
    ranked.sort()
    refused: list[tuple[Pair, str, int]] = []
    for strongest, _, time, _, pair in ranked:
        one, another = people.get(pair[0]), people.get(pair[1])
        if strongest and (pair[0] in shared or pair[1] in shared):
            refused.append((pair, "shared", time))
        elif one is None or another is None:
            rule = apart.get(pair[0] if one is None else pair[1])
            if rule is not None:
                refused.append((pair, rule, time))
        elif one is not another:
            rule = _obstacle(one, another, rules, limits=strongest > 0)
            if rule is None:
                _join(one, another, people)
            else:
                refused.append((pair, rule, time))
    conflicts = _conflicts(refused, shared, people, rules)
    return Partition(_parts(known, people, conflicts, rules), shared)


def _strength(token: str, rules: Rules) -> int:
    kind = rules.kinds.get(kind_of(token))
    return kind.priority if kind is not None else 0


def _obstacle(one: _Person, other: _Person, rules: Rules, *, limits: bool) -> str | None:
    if not one.barred.isdisjoint(other.tokens):
        return "cut"
    if not limits:
        return None
    if len(one.tokens) + len(other.tokens) > rules.limits.cluster_tokens:
        return "cluster_tokens"
    broken: list[tuple[int, str]] = []
    for name, times in one.times.items():
        theirs = other.times.get(name)
        kind = rules.kinds.get(name)
        if theirs is None or kind is None or not kind.limit or len(times) + len(theirs) <= kind.limit:
            continue
        if not kind.window or _crowded(sorted(times + theirs), kind.limit, kind.window_ms):
            broken.append((kind.priority, name))
    return f"limit.{min(broken)[1]}" if broken else None


def _crowded(times: list[int], limit: int, span: int) -> bool:
    return any(times[i + limit] - times[i] < span for i in range(len(times) - limit))


def _join(one: _Person, other: _Person, people: dict[str, _Person]) -> None:
    if len(one.tokens) < len(other.tokens):
        one, other = other, one
    one.tokens += other.tokens
    one.barred |= other.barred
    for kind, times in other.times.items():
        one.times[kind] = one.times.get(kind, []) + times
    for token in other.tokens:
        people[token] = one


def _conflicts(
    refused: list[tuple[Pair, str, int]], shared: set[str], people: Mapping[str, _Person], rules: Rules
) -> dict[int, list[Conflict]]:
    """By the id of a person: what it shows."""
    found: dict[int, list[Conflict]] = {}
    for pair, rule, time in refused:
        conflict = Conflict(list(pair), rule, time)
        for token, other in (pair, pair[::-1]):
            person = people.get(token)
            if person is None:
                continue
            if rule == "shared" and (token in shared or _strength(token, rules) > _strength(other, rules)):
                continue  # it says so alone; and who is weaker is not told
            found.setdefault(id(person), []).append(conflict)
    for token in shared:
        if token in people:
            found.setdefault(id(people[token]), []).append(Conflict([token], "shared"))
    return found


def _parts(
    known: Mapping[str, Facts], people: Mapping[str, _Person], conflicts: Mapping[int, list[Conflict]], rules: Rules
) -> list[Part]:
    seen: dict[str, tuple[int, int]] = {}

    def note(token: str, first: int, day: int) -> None:
        before = seen.get(token)
        seen[token] = (first, day) if before is None else (min(first, before[0]), max(day, before[1]))

    for anchor, facts in known.items():
        person = people[anchor]
        if facts.births:
            note(anchor, facts.first, facts.last // DAY * DAY)
        for token, time, _, day in links(facts, rules, anchor):
            if people.get(token) is person:
                note(token, time, day * DAY)
    parts = []
    for person in {id(p): p for p in people.values()}.values():
        tokens = sorted(person.tokens)
        mine = sorted(conflicts.get(id(person), ()), key=lambda c: c.tokens)
        parts.append(Part(tokens, {t: seen[t] for t in tokens if t in seen}, mine))
    return parts
