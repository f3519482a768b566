"""Timeline: what became of a profile as events came in, by the order in which Kafka received them.

The reference is asked after each event that may have moved something, of the connected component alone. Time: the
square of their number, bounded by `WORK`: beyond it several events are taken in at once, and a change is told of the
last one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import TypeVar

import msgspec

from ..events import DECISIONS, ORDERS
from ..stages.link import Rules
from ..stages.reference import Pair, unerased
from .evidence import People, Sighting

WORK = 1_000_000
"""Events looked at in all, again and again: 20 s of CPU (21 µs each). So up to 1,400 events are taken one by one."""

T = TypeVar("T")
Progress = Callable[[list[T]], Iterable[T]]


class What(StrEnum):
    FIRST_SEEN = "first_seen"
    GAINED = "gained"
    """Identifiers that had not been seen before."""
    MERGED = "merged"
    SPLIT = "split"
    CONFLICT = "conflict"
    SETTLED = "settled"
    """A conflict is none any more."""
    ERASED = "erased"
    """What the events of an identifier had said."""


class Cause(msgspec.Struct, frozen=True):
    event_id: str
    type: str
    source: str
    time: int
    """When it happened, ms."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """`received_at`: Kafka's time of the cause, ms. `profile_id`: the profile's afterwards."""

    received_at: int
    what: What
    profile_id: str | None
    cause: Cause
    tokens: list[str]
    """Gained, given away, or in conflict."""
    profiles: list[str | None] = []
    """Merged: the others that came in. Split: those that the tokens are in now."""
    rule: str = ""
    late: bool = False
    """The cause had happened before what it took the place of."""


class Timeline(msgspec.Struct, frozen=True):
    """`events`: of the connected component, that may have moved something. `at_once`: so many were taken together."""

    profile_id: str | None
    tokens: list[str]
    entries: list[Entry]
    events: int
    at_once: int


def timeline(
    events: list[Sighting], rules: Rules, token: str, progress: Progress[int] = lambda steps: steps, work: int = WORK
) -> Timeline:
    """Follow the profile that `token` is in; `events` as `evidence.gather` gives them."""
    mine = component(events, rules, token)
    at_once = 1
    while len(mine) * (len(mine) // at_once + 1) // 2 > work and at_once < len(mine):
        at_once *= 2
    before = People([], rules)
    entries: list[Entry] = []
    for end in progress([*range(at_once, len(mine), at_once), len(mine)]):
        after = People(mine[:end], rules)
        if end:
            entries += _changes(before, after, token, mine[end - 1])
        before = after
    tokens = before.tokens[before.of[token]] if token in before.of else []
    return Timeline(before.profile(token), tokens, entries, len(mine), at_once)


def component(events: list[Sighting], rules: Rules, token: str) -> list[Sighting]:
    """Return the events of what hangs together with `token` by any edge, refused ones and cuts included."""
    above: dict[str, str] = {}

    def root(at: str) -> str:
        while above.setdefault(at, at) != at:
            above[at] = above[above[at]]
            at = above[at]
        return at

    for event in events:
        if rules.links(event.anchor.split(".")[0]):
            for other in event.tokens.values():
                if rules.links(other.split(".")[0]):
                    above[root(other)] = root(event.anchor)
    home = root(token)
    return [event for event in events if root(event.anchor) == home]


def founder(events: list[Sighting], rules: Rules, profile_id: str) -> str | None:
    """Return a token of the profile that has, or had, this id; None if none had."""
    from ..stages.reference import profile_id as id_of

    for some in (events, unerased(events)[0]):
        seen: set[str] = set()
        for event in some:
            if event.type not in ORDERS and event.anchor not in seen:
                seen.add(event.anchor)
                if id_of(event.event_id) == profile_id:
                    return event.anchor
    return None


def _changes(before: People, after: People, token: str, event: Sighting) -> Iterator[Entry]:
    now = set(after.tokens[after.of[token]]) if token in after.of else set()
    was = set(before.tokens[before.of[token]]) if token in before.of else set()
    ident = after.profile(token)
    cause = Cause(event.event_id, event.type, event.source, event.time)

    def entry(what: What, tokens: Iterable[str], **more: object) -> Entry:
        return Entry(event.received_at, what, ident, cause, sorted(tokens), **more)  # type: ignore[arg-type]

    erased = before.founders.keys() - after.founders.keys()
    if event.anchor in erased and event.anchor in was:
        yield entry(What.ERASED, [event.anchor])
    if not now:
        return
    new = {t for t in now if t not in before.of}
    if not was:
        yield entry(What.FIRST_SEEN, now & new)
    elif new:
        yield entry(What.GAINED, new)
    others = sorted({before.of[t] for t in now - was - new})
    came = [(before.profile_of(n), set(before.tokens[n]) & now) for n in others]
    if came:
        yield entry(What.MERGED, {t for _, tokens in came for t in tokens}, profiles=_sorted(i for i, _ in came))
    gone = {t for t in was - now if t in after.of}
    if gone:
        rule, late = _lost(before, after, was, event)
        elsewhere = _sorted({after.profile(t) for t in gone})
        yield entry(What.SPLIT, gone, profiles=elsewhere, rule=rule, late=late)
    held, holds = _conflicts(before, was), _conflicts(after, now)
    for pair in sorted(holds.keys() - _all_conflicts(before)):
        yield entry(What.CONFLICT, pair, rule=holds[pair])
    for pair in sorted(held.keys() - _all_conflicts(after)):
        yield entry(What.SETTLED, pair, rule=held[pair])


def _conflicts(people: People, tokens: set[str]) -> dict[Pair, str]:
    return {(e.a, e.b): rule for e, rule in people.ruling.refused if e.a in tokens or e.b in tokens}


def _all_conflicts(people: People) -> set[Pair]:
    return {(e.a, e.b) for e, _ in people.ruling.refused}


def _lost(before: People, after: People, was: set[str], event: Sighting) -> tuple[str, bool]:
    """Return the rule that took an edge away which held the profile together, and whether a late event led to it."""
    rules = {(e.a, e.b): rule for e, rule in after.ruling.refused}
    for edge in before.ruling.joined:
        rule = rules.get((edge.a, edge.b))
        if edge.a in was and rule is not None:
            return rule, event.type not in DECISIONS and event.time < edge.time
    return "", False


def _sorted(ids: Iterable[str | None]) -> list[str | None]:
    return sorted(ids, key=lambda i: i or "")
