"""Stats: how large profiles are, what the rules forbade, and what hints at too many joins or too few."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict

import msgspec

from ..stages.link import Kind, Rules
from .evidence import People, Sighting

SIZES = (1, 2, 5, 10, 20, 50, 100, 500, 1000)
DEVICES = ("device_id", "anonymous_id")


class Overmerge(msgspec.Struct, frozen=True):
    """Profiles by what may be too much in them."""

    at_limit: dict[str, int]
    """By kind, of those that allow more than one: as many of it as are allowed."""
    many_devices: dict[str, int]
    """By kind of device: more than `more_than` of it."""
    more_than: int
    at_cluster_cap: int
    capped: int
    """Joins refused since a profile was at the cap."""
    largest: list[tuple[str, int]]
    """Profile id and number of identifiers, of the largest ones."""


class Undermerge(msgspec.Struct, frozen=True):
    """Profiles by what may be missing."""

    one_refusal_apart: int
    """Only one other profile was ever seen with them, and a rule keeps the two apart."""
    by_rule: dict[str, int]
    """Of those, by rule."""
    singletons: dict[str, int]
    """Profiles of one identifier, by its kind."""


class Stats(msgspec.Struct, frozen=True):
    events: int
    """That were needed; of equal ones the first."""
    identifiers: dict[str, int]
    profiles: int
    sizes: dict[str, int]
    """Profiles by their number of identifiers: "1", "2", "3-5", …"""
    conflicts: dict[str, int]
    """Pairs of identifiers, by the rule that keeps them from joining."""
    shared: dict[str, int]
    links: int
    cuts: int
    overmerge: Overmerge
    undermerge: Undermerge


def stats(events: list[Sighting], rules: Rules, more_than: int = 10, largest: int = 5) -> Stats:
    """`events` as `evidence.gather` gives them. Identifiers without an event of their own are in no profile."""
    people = People(events, rules)
    ruling = people.ruling
    profiles = people.profiles
    kinds = {n: Counter(_kind(t) for t in people.tokens[n]) for n in profiles}
    sizes = {n: len(people.tokens[n]) for n in profiles}
    spread = Counter(bisect_left(SIZES, size) for size in sizes.values())
    conflicts = Counter(rule for _, rule in ruling.refused)
    return Stats(
        events=len(events),
        identifiers=_counted(Counter(_kind(t) for t in people.of), rules),
        profiles=len(profiles),
        sizes={_label(i): spread[i] for i in range(len(SIZES) + 1) if spread[i]},
        conflicts=dict(sorted(conflicts.items())),
        shared=_counted(Counter(_kind(t) for t in ruling.shared), rules),
        links=len(ruling.links),
        cuts=len(ruling.cuts),
        overmerge=Overmerge(
            at_limit={
                name: n
                for name, kind in _ordered(rules)
                if kind.limit > 1 and (n := sum(_at_limit(people, i, name, kind) for i in profiles))
            },
            many_devices={
                name: n for name in DEVICES if (n := sum(count[name] > more_than for count in kinds.values()))
            },
            more_than=more_than,
            at_cluster_cap=sum(size >= rules.limits.cluster_tokens for size in sizes.values()),
            capped=conflicts["cluster_tokens"],
            largest=[
                (people.profile_of(n) or "", size)
                for n, size in sorted(sizes.items(), key=lambda s: (-s[1], people.tokens[s[0]]))[:largest]
            ],
        ),
        undermerge=_undermerge(people, kinds, rules),
    )


def _undermerge(people: People, kinds: dict[int, Counter[str]], rules: Rules) -> Undermerge:
    apart: dict[int, dict[int, str]] = defaultdict(dict)
    for edge, rule in people.ruling.refused:
        one, other = people.of[edge.a], people.of[edge.b]
        apart[one].setdefault(other, rule)
        apart[other].setdefault(one, rule)
    near = {n: apart[n] for n in kinds if len(apart.get(n, ())) == 1}
    by_rule = Counter(rule for others in near.values() for rule in others.values())
    alone = Counter(kind for count in kinds.values() if count.total() == 1 for kind in count)
    return Undermerge(len(near), dict(sorted(by_rule.items())), _counted(alone, rules))


def _at_limit(people: People, number: int, name: str, kind: Kind) -> bool:
    times = sorted(people.ruling.first[t] for t in people.tokens[number] if _kind(t) == name)
    pairs = zip(times, times[kind.limit - 1 :], strict=False)
    return any(not kind.window or late - early < kind.window_ms for early, late in pairs)


def _counted(count: Counter[str], rules: Rules) -> dict[str, int]:
    """By kind, the strongest first; kinds that no rule names at the end."""
    known = [name for name, _ in _ordered(rules) if count[name]]
    return {name: count[name] for name in (*known, *sorted(count.keys() - rules.kinds.keys()))}


def _ordered(rules: Rules) -> list[tuple[str, Kind]]:
    return sorted(rules.kinds.items(), key=lambda kind: kind[1].priority)


def _label(i: int) -> str:
    if i == len(SIZES):
        return f">{SIZES[-1]}"
    low = SIZES[i - 1] + 1 if i else 1
    return str(low) if low == SIZES[i] else f"{low}-{SIZES[i]}"


def _kind(token: str) -> str:
    return token.split(".")[0]
