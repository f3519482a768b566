"""The oracle: every profile from a dump of `events.protected`, in memory, all at once (`stages.reference`).

In: JSON lines, one protected event each, in any order and however often; also those of `sealstream protect`
(`{"origin":…, "protected":{…}}`; rejected ones are passed over). Out: one JSON line per profile, by profile id: the
bytes of the record on `profiles`. Shares no code with the streaming stages but the rules, the record types and the
hash of an origin, so that a fault of theirs shows as a difference.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ..events import Conflict, Origin, Profile, ProtectedEvent, event_id, frame
from .dump import read
from .link import Rules
from .reference import decide

DAY = 24 * 3_600_000
_SORTED = msgspec.json.Encoder(order="sorted")
_LINE = msgspec.json.Encoder(order="deterministic")


def recompute(lines: Iterable[bytes], rules: Rules) -> Iterator[bytes]:
    """Yield the profiles' JSON, without newlines; `Misuse` names the number of a line that is no protected event."""
    events: dict[Origin, ProtectedEvent] = {}
    for event in read(lines, ProtectedEvent):
        events[event.origin] = event
    for profile in sorted(_profiles(list(events.values()), rules), key=lambda p: p.profile_id):
        yield _LINE.encode(profile)


def _profiles(events: list[ProtectedEvent], rules: Rules) -> Iterator[Profile]:
    """Of each person with events of their own; operators' decisions are none."""
    ruling = decide(events, rules)
    person = {token: i for i, tokens in enumerate(ruling.people) for token in tokens}
    theirs: dict[int, list[ProtectedEvent]] = defaultdict(list)
    for event in events:
        if event.type not in ("link", "cut"):
            theirs[person[event.anchor]].append(event)
    conflicts: dict[int, list[Conflict]] = defaultdict(list)
    for edge, rule in ruling.refused:
        for token, other in ((edge.a, edge.b), (edge.b, edge.a)):
            if rule != "shared" or (token not in ruling.shared and not _weaker(token, other, rules)):
                conflicts[person[token]].append(Conflict([edge.a, edge.b], rule, edge.time))
    for token in ruling.shared:
        conflicts[person[token]].append(Conflict([token], "shared"))
    for i, mine in theirs.items():
        yield _profile(set(ruling.people[i]), mine, conflicts[i], rules)


def _weaker(token: str, other: str, rules: Rules) -> bool:
    """What occurred with a shared identifier that is stronger is not told of it."""
    return rules.kinds[token.split(".")[0]].priority > rules.kinds[other.split(".")[0]].priority


def _profile(tokens: set[str], events: list[ProtectedEvent], conflicts: list[Conflict], rules: Rules) -> Profile:
    kinds = sorted({token.split(".")[0] for token in tokens})
    oldest = min(events, key=lambda e: (e.received_at, e.origin))
    most = rules.bounds.conflicts
    return Profile(
        profile_id=hashlib.sha256(frame(b"sealstream/profile-id/1", event_id(oldest.origin))).hexdigest()[:32],
        tokens={kind: sorted(t for t in tokens if t.split(".")[0] == kind) for kind in kinds},
        first_seen=min(e.time for e in events),
        last_seen=max(e.time for e in events),
        events=_counted(events, rules.bounds.event_names),
        traits=_traits(events, rules),
        sources=sorted({_short(e.source) for e in events})[: rules.bounds.sources],
        seen=_seen(tokens, events),
        conflicts=sorted(conflicts, key=lambda c: c.tokens)[:most],
        more_conflicts=max(0, len(conflicts) - most),
    )


def _seen(tokens: set[str], events: Iterable[ProtectedEvent]) -> dict[str, tuple[int, int]]:
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        for token in tokens & {event.anchor, *event.tokens.values()}:
            times[token].append(event.time)
    return {token: (min(times[token]), max(times[token]) // DAY * DAY) for token in sorted(times)}


def _counted(events: Iterable[ProtectedEvent], bound: int) -> dict[str, int]:
    counts = Counter(_short(e.event or e.type) for e in events)
    other = "(other)" in counts
    names = sorted(name for name in counts if name != "(other)")
    kept = {name: counts[name] for name in names[:bound]}
    rest = sum(counts[name] for name in names[bound:]) + counts["(other)"]
    return kept | ({"(other)": rest} if other or len(names) > bound else {})


def _traits(events: Iterable[ProtectedEvent], rules: Rules) -> dict[str, Any]:
    traits: dict[str, Any] = {}
    for event in sorted(events, key=lambda e: (e.time, e.origin)):
        traits |= _traits_of(event, rules)
    return {name: traits[name] for name in sorted(traits)[: rules.bounds.traits]}


def _traits_of(event: ProtectedEvent, rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in reversed(rules.traits.clear):
        *way, last = path.split(".")
        at = event.clear
        for part in way:
            at = at.get(part) if isinstance(at, dict) else None
        if isinstance(at, dict):
            names = reversed(list(at)) if last == "*" else [last]
            found |= {
                _short(n): at[n] for n in names if n in at and len(_SORTED.encode(at[n])) <= rules.traits.max_bytes
            }
    return {name: msgspec.Raw(_SORTED.encode(value)) for name, value in found.items()}


def _short(name: str) -> str:
    if len(name) > 120:
        return name[:111] + "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name
