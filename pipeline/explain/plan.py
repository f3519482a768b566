"""Plan: what other rules would make of the same events."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec

from ..stages.link import Rules
from .evidence import People, Sighting


class Change(msgspec.Struct, frozen=True):
    """Profiles that become others; ids before and after, and all of their tokens."""

    before: list[str]
    after: list[str]
    tokens: list[str]


class Plan(msgspec.Struct, frozen=True):
    profiles: tuple[int, int]
    """Before, after."""
    merges: int
    """Profiles to which identifiers of several come together."""
    splits: int
    """Profiles that lose identifiers: to other profiles, or to none."""
    conflicts: dict[str, tuple[int, int]]
    """By rule, before and after; those that stay as many included."""
    shared: dict[str, tuple[int, int]]
    """Shared identifiers by kind, the same way."""
    changes: bool
    blocked_differ: bool
    """What is blocked differs; that holds for what is protected from then on, and is not counted here."""
    samples: list[Change]


def plan(events: list[Sighting], current: Rules, wanted: Rules, samples: int = 10) -> Plan:
    """`events` as `evidence.gather` gives them; the largest changes are the samples."""
    before, after = People(events, current), People(events, wanted)
    into: dict[int, set[int]] = defaultdict(set)
    out_of: dict[int, set[int]] = defaultdict(set)
    for number, token in enumerate(sorted(before.of.keys() | after.of.keys()), 1):
        one, other = before.of.get(token, -number), after.of.get(token, -number)  # negative: it links nothing there
        into[one].add(other)
        out_of[other].add(one)
    changes = [_change(before, after, group, into) for group in _groups(into, out_of)]
    refused = [{(e.a, e.b): rule for e, rule in people.ruling.refused} for people in (before, after)]
    shared = [people.ruling.shared.keys() for people in (before, after)]
    return Plan(
        profiles=(len(before.profiles), len(after.profiles)),
        merges=sum(len(out_of[n]) > 1 for n in after.profiles),
        splits=sum(len(into[n]) > 1 for n in before.profiles),
        conflicts=_both(*(Counter(found.values()) for found in refused)),
        shared=_both(*(Counter(t.split(".")[0] for t in found) for found in shared)),
        changes=bool(changes) or refused[0] != refused[1] or shared[0] != shared[1],
        blocked_differ=current.blocked != wanted.blocked,
        samples=sorted(changes, key=lambda c: (-len(c.tokens), c.tokens))[:samples],
    )


def _groups(into: dict[int, set[int]], out_of: dict[int, set[int]]) -> list[set[int]]:
    """Those before that share some after, where anything changes."""
    groups: list[set[int]] = []
    done: set[int] = set()
    for start in into:
        if start in done:
            continue
        group, todo = {start}, [start]
        while todo:
            for new in into[todo.pop()]:
                found = out_of[new] - group
                group |= found
                todo += found
        done |= group
        if len(group) > 1 or len(into[start]) > 1:
            groups.append(group)
    return groups


def _change(before: People, after: People, group: set[int], into: dict[int, set[int]]) -> Change:
    news = {new for old in group for new in into[old]}
    sides = (before, group), (after, news)
    tokens = {t for people, numbers in sides for n in numbers if n >= 0 for t in people.tokens[n]}
    return Change(_ids(before, group), _ids(after, news), sorted(tokens))


def _ids(people: People, numbers: set[int]) -> list[str]:
    return sorted(ident for n in numbers if n >= 0 and (ident := people.profile_of(n)) is not None)


def _both(one: Counter[str], other: Counter[str]) -> dict[str, tuple[int, int]]:
    return {name: (one[name], other[name]) for name in sorted(one.keys() | other.keys())}
