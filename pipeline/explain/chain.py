"""Explain: what joined two identifiers, or what keeps them apart."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from ..stages.link import Rules
from ..stages.reference import Edge
from .evidence import People, Sighting, joins_nothing


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """Two identifiers seen together, `left` on the side of the first one asked for. `time`: their first sighting."""

    left: str
    right: str
    time: int
    source: str
    event_id: str
    link: bool = False
    """An operator's."""
    refused: str = ""
    """The rule that keeps them from joining."""


class Apart(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first rule on the way that keeps two apart. `cut`: the operator's decision behind it."""

    rule: str
    why: str
    step: Step
    cut: Step | None = None


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`chain`: from one to the other; empty if nothing ever connected them, or they are the same token."""

    left: str
    right: str
    one_profile: bool
    profiles: list[str | None]
    said: str
    unknown: list[str] = []
    """Those of the two that no event has."""
    chain: list[Step] = []
    apart: Apart | None = None
    cut: Step | None = None
    """An operator's cut between the two profiles, where nothing else connects them."""


def explain(events: list[Sighting], rules: Rules, left: str, right: str) -> Explanation:
    """`events` as `evidence.gather` gives them. The chain has as few refused joins as can be, then as few steps."""
    people = People(events, rules)
    profiles = [people.profile(left), people.profile(right)]
    mute = next((token for token in (left, right) if joins_nothing(token, rules)), None)
    if mute is not None:
        return Explanation(left, right, False, profiles, f"identifiers of the kind {_kind(mute)} join nothing")
    unknown = [token for token in (left, right) if token not in people.of]
    if unknown:
        return Explanation(left, right, False, profiles, "no event has them both", unknown)
    ruling = people.ruling
    links = {(e.a, e.b) for e in ruling.links}
    if people.of[left] == people.of[right]:
        edges = [(e, "") for e in ruling.joined]
        chain = _steps(_path(edges, left, right), left, links)
        return Explanation(left, right, True, profiles, "one profile", chain=chain)
    edges = [(e, "") for e in (*ruling.joined, *ruling.within)] + [(e, rule) for e, rule in ruling.refused]
    chain = _steps(_path(edges, left, right), left, links)
    first = next((step for step in chain if step.refused), None)
    if first is None:
        cut = _cut(people, left, right)
        return Explanation(left, right, False, profiles, "nothing ever connected them", cut=cut)
    apart = Apart(first.refused, *_why(people, rules, first))
    return Explanation(left, right, False, profiles, f"kept apart: {apart.why}", chain=chain, apart=apart)


def _path(edges: Iterable[tuple[Edge, str]], start: str, goal: str) -> list[tuple[Edge, str]]:
    """Dijkstra by (refused, steps); empty if there is no way."""
    at: dict[str, list[tuple[str, Edge, str]]] = defaultdict(list)
    for edge, rule in edges:
        at[edge.a].append((edge.b, edge, rule))
        at[edge.b].append((edge.a, edge, rule))
    heap: list[tuple[int, int, str]] = [(0, 0, start)]
    came: dict[str, tuple[Edge, str]] = {}
    cost = {start: (0, 0)}
    while heap:
        refused, steps, token = heapq.heappop(heap)
        if token == goal:
            break
        if (refused, steps) > cost[token]:
            continue
        for other, edge, rule in at[token]:
            price = refused + bool(rule), steps + 1
            if price < cost.get(other, (len(at) + 1, 0)):
                cost[other] = price
                came[other] = edge, rule
                heapq.heappush(heap, (*price, other))
    path: list[tuple[Edge, str]] = []
    while goal in came:
        path.append(came[goal])
        edge = came[goal][0]
        goal = edge.a if edge.b == goal else edge.b
    return path[::-1]


def _steps(path: list[tuple[Edge, str]], start: str, links: set[tuple[str, str]]) -> list[Step]:
    steps: list[Step] = []
    for edge, rule in path:
        end = edge.b if edge.a == start else edge.a
        steps.append(_step(edge, start, end, link=(edge.a, edge.b) in links, refused=rule))
        start = end
    return steps


def _step(edge: Edge, left: str, right: str, *, link: bool = False, refused: str = "") -> Step:
    return Step(left, right, edge.time, edge.source, edge.event_id, link, refused)


def _why(people: People, rules: Rules, step: Step) -> tuple[str, Step, Step | None]:
    """In words that hold kinds and numbers only; the step; and the cut, if that is what it is."""
    rule, kind = step.refused, step.refused.partition("limit.")[2]
    if kind:
        found = rules.kinds[kind]
        span = f" within {found.window}" if found.window else ""
        return f"a profile has at most {found.limit} {kind}{span}", step, None
    if rule == "cluster_tokens":
        return f"a profile has at most {rules.limits.cluster_tokens} identifiers", step, None
    if rule == "shared":
        token = next(t for t in (step.left, step.right) if t in people.ruling.shared)
        most = rules.shared_at(_kind(token))
        return f"a {_kind(token)} met {people.ruling.shared[token]} others and is shared beyond {most}", step, None
    return "an operator cut them", step, _cut(people, step.left, step.right)


def _cut(people: People, left: str, right: str) -> Step | None:
    mine, theirs = people.of[left], people.of[right]
    for (a, b), edge in sorted(people.ruling.cuts.items()):
        if (people.of[a], people.of[b]) == (mine, theirs):
            return _step(edge, a, b)
        if (people.of[b], people.of[a]) == (mine, theirs):
            return _step(edge, b, a)
    return None


def _kind(token: str) -> str:
    return token.split(".")[0]
