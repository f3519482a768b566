"""The oracle: every profile from a dump of `events.protected`, in memory, all at once (`stages.reference`).

In: JSON lines, one protected event each, in any order and however often; also those of `sealstream protect`
(`{"origin":…, "protected":{…}}`; rejected ones are passed over). Out: one JSON line per profile, by profile id: the
bytes of the record on `profiles`. Shares no code with the streaming stages but the rules, the record types and the
hash of an origin, so that a fault of theirs shows as a difference.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import reduce
from typing import Any

import msgspec

from ..events import (
    DAY,
    DECISIONS,
    Conflict,
    Consent,
    Membership,
    Origin,
    Profile,
    ProtectedEvent,
    Provenance,
    event_id,
    frame,
)
from .computed import Computed
from .dump import read
from .link import Rules
from .normalize import KINDS
from .reference import decide, profile_id, unerased
from .registry import plain_name
from .schema import PLAIN_KEY

_SORTED = msgspec.json.Encoder(order="sorted")
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_LINE = msgspec.json.Encoder(order="deterministic")


def recompute(lines: Iterable[bytes], rules: Rules) -> Iterator[bytes]:
    """Yield the profiles' JSON, without newlines; `Misuse` names the number of a line that is no protected event."""
    events: dict[Origin, ProtectedEvent] = {}
    for event in read(lines, ProtectedEvent):
        events[event.origin] = event
    profiles, groups = recompute_part(events.values(), rules)
    for profile in sorted(with_members(profiles, groups, rules), key=lambda p: p.profile_id):
        yield encode(profile)


encode = _LINE.encode
Groups = dict[str, dict[str, Membership | None]]
"""Token of a group → anchor of the events that name it → when; None: all of them were erased."""


def recompute_part(events: Iterable[ProtectedEvent], rules: Rules) -> tuple[list[Profile], Groups]:
    """Return the profiles of some of all events, if no profile has others; and what they say of groups."""
    part, erased = unerased(events)
    return list(_profiles(part, erased, rules)), _members(part, erased, rules)


def with_members(profiles: Iterable[Profile], groups: Groups, rules: Rules) -> Iterator[Profile]:
    """Yield the profiles, those of groups with their members; and then groups without events of their own."""
    alone = dict(groups)
    for profile in profiles:
        (kind, *_), (tokens, *_) = profile.tokens, profile.tokens.values()
        yield _with_members(profile, alone.pop(tokens[0], {}), rules) if kind == "group_id" else profile
    for token, members in alone.items():
        ident = hashlib.sha256(frame(b"sealstream/group-id/1", token.encode())).hexdigest()[:32]
        shown = list(_shown(members, rules).values())
        if shown:
            profile = Profile(ident, {"group_id": [token]}, shown[0].first, shown[0].last_day)
            yield _with_members(profile, members, rules)


def _profiles(events: list[ProtectedEvent], erased: list[ProtectedEvent], rules: Rules) -> Iterator[Profile]:
    """Of each person with events of their own; operators' decisions are none."""
    ruling = decide(events, rules, erased)
    person = {token: i for i, tokens in enumerate(ruling.people) for token in tokens}
    theirs: dict[int, list[ProtectedEvent]] = defaultdict(list)
    for event in events:
        if event.type not in DECISIONS:
            theirs[person[event.anchor]].append(event)
    conflicts: dict[int, list[Conflict]] = defaultdict(list)
    for edge, rule in ruling.refused:
        for token, other in ((edge.a, edge.b), (edge.b, edge.a)):
            if rule != "shared" or (token not in ruling.shared and not _later(token, other)):
                conflicts[person[token]].append(Conflict([edge.a, edge.b], rule, edge.time))
    for token in ruling.shared:
        conflicts[person[token]].append(Conflict([token], "shared"))
    for i, mine in theirs.items():
        yield _profile(set(ruling.people[i]), mine, conflicts[i], rules)


def _members(events: Iterable[ProtectedEvent], erased: Iterable[ProtectedEvent], rules: Rules) -> Groups:
    """Of each group that an event of another anchor names."""
    groups: Groups = defaultdict(dict)
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for some, counted in ((erased, False), (events, True)):
        for event in some:
            if event.type not in DECISIONS:
                for token in set(event.tokens.values()) - {event.anchor}:
                    if re.fullmatch(r"group_id\.[0-9]+\.[0-9a-f]{32}", token) and not rules.links("group_id"):
                        groups[token][event.anchor] = None
                        times[token, event.anchor] += [event.time] * counted
    for (token, anchor), seen in times.items():
        if seen:
            groups[token][anchor] = Membership(min(seen), max(seen) // DAY * DAY)
    return groups


def _shown(members: dict[str, Membership | None], rules: Rules) -> dict[str, Membership]:
    """Of those that sort first, whoever is still there: who was erased keeps his place."""
    first = sorted(members)[: rules.bounds.members]
    return {token: when for token in first if (when := members[token]) is not None}


def _with_members(profile: Profile, members: dict[str, Membership | None], rules: Rules) -> Profile:
    shown = _shown(members, rules)
    if not shown:
        return profile
    return msgspec.structs.replace(
        profile,
        members=shown,
        more_members=len(members) > rules.bounds.members,
        first_seen=min([profile.first_seen, *(when.first for when in shown.values())]),
        last_seen=max([profile.last_seen, *(when.last_day for when in shown.values())]),
    )


def _later(token: str, other: str) -> bool:
    """What occurred with a shared identifier of a kind that comes first is not told of it."""
    kinds = list(KINDS)
    return kinds.index(token.split(".")[0]) > kinds.index(other.split(".")[0])


def _profile(tokens: set[str], events: list[ProtectedEvent], conflicts: list[Conflict], rules: Rules) -> Profile:
    kinds = sorted({token.split(".")[0] for token in tokens})
    oldest = min(events, key=lambda e: (e.received_at, e.origin))
    most = rules.bounds.conflicts
    once = _once(events, rules.duplicates.window)
    writes = _written(events, rules)
    consents = _consents(events, rules)
    left_out = {
        section
        for purpose, sections in rules.consent.withhold.items()
        for section in sections
        if purpose in consents and consents[purpose].state == "denied"
    }
    if "sources" in left_out:
        consents = {purpose: Consent(said.state, said.time) for purpose, said in consents.items()}
    shown: dict[str, Any] = {
        "events": _counted(once, rules.bounds.event_names),
        "traits": {name: value for name, (value, _) in writes.items()},
        "sources": sorted({_short(e.source) for e in events})[: rules.bounds.sources],
        "computed": _computed(events, once, rules),
        "groups": _groups(events, rules.bounds.groups),
    }
    if not left_out & {"traits", "sources"}:
        shown["provenance"] = {
            name: Provenance(_short(event.source), event.schema, event.time) for name, (_, event) in writes.items()
        }
    return Profile(
        profile_id=profile_id(event_id(oldest.origin).hex()),
        tokens={kind: sorted(t for t in tokens if t.split(".")[0] == kind) for kind in kinds},
        first_seen=min(e.time for e in events),
        last_seen=max(e.time for e in events),
        consents=consents,
        seen=_seen(tokens, events),
        conflicts=sorted(conflicts, key=lambda c: c.tokens)[:most],
        more_conflicts=max(0, len(conflicts) - most),
        **{section: value for section, value in shown.items() if section not in left_out},
    )


def _seen(tokens: set[str], events: Iterable[ProtectedEvent]) -> dict[str, tuple[int, int]]:
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        for token in tokens & {event.anchor, *event.tokens.values()}:
            times[token].append(event.time)
    return {token: (min(times[token]), max(times[token]) // DAY * DAY) for token in sorted(times)}


def _once(events: Iterable[ProtectedEvent], window: int) -> list[ProtectedEvent]:
    """Without those that repeat one of their anchor."""
    kept: list[ProtectedEvent] = []
    by_anchor: dict[str, list[ProtectedEvent]] = {}
    for event in sorted(events, key=lambda e: (e.received_at, e.origin)):
        by_anchor.setdefault(event.anchor, []).append(event)
    for of_anchor in by_anchor.values():
        messages = [(e.source, e.message_id, e.event or e.type) for e in of_anchor]
        kept += [e for e, again in zip(of_anchor, repeated(messages, window), strict=True) if not again]
    return kept


def repeated(messages: Iterable[tuple[str, str, str]], window: int) -> Iterator[bool]:
    """Yield for each (source, message id, name) of an anchor's events, in the order of (received_at, origin), whether
    it is one of the last `window` different ones again."""
    recent: deque[tuple[str, str, str]] = deque(maxlen=window)
    for message in messages:
        again = message in recent
        yield again
        if not again and message[1]:
            recent.append(message)


def _counted(events: Iterable[ProtectedEvent], bound: int) -> dict[str, int]:
    counts = Counter(_short(e.event or e.type) for e in events)
    other = "(other)" in counts
    names = sorted(name for name in counts if name != "(other)")
    kept = {name: counts[name] for name in names[:bound]}
    rest = sum(counts[name] for name in names[bound:]) + counts["(other)"]
    return kept | ({"(other)": rest} if other or len(names) > bound else {})


def _written(events: Iterable[ProtectedEvent], rules: Rules) -> dict[str, tuple[Any, ProtectedEvent]]:
    """Trait → its value and the event that wrote it."""
    traits: dict[str, tuple[Any, ProtectedEvent]] = {}
    for event in sorted(events, key=lambda e: (e.time, e.origin)):
        traits |= {name: (value, event) for name, value in _traits_of(event, rules).items()}
    return {name: traits[name] for name in sorted(traits)[: rules.bounds.traits]}


def _traits_of(event: ProtectedEvent, rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in reversed(rules.traits.clear):
        *way, last = path.split(".")
        at = _at(event.clear, way)
        if isinstance(at, dict):
            names = reversed(list(at)) if last == "*" else [last]
            found |= {
                _short(n): at[n] for n in names if n in at and len(_SORTED.encode(at[n])) <= rules.traits.max_bytes
            }
    return {name: msgspec.Raw(_SORTED.encode(value)) for name, value in found.items()}


def _consents(events: Iterable[ProtectedEvent], rules: Rules) -> dict[str, Consent]:
    said: dict[str, Consent] = {}
    for event in sorted(events, key=lambda e: (e.time, e.origin)):
        preferences = _at(event.clear, ["context", "consent", "categoryPreferences"])
        for purpose, granted in preferences.items() if isinstance(preferences, dict) else ():
            if isinstance(granted, bool) and PLAIN_KEY.fullmatch(purpose):
                said[purpose] = Consent("granted" if granted else "denied", event.time, _short(event.source))
    return {purpose: said[purpose] for purpose in sorted(said)[: rules.bounds.consents]}


def _groups(events: Iterable[ProtectedEvent], bound: int) -> dict[str, Membership]:
    times: dict[str, list[int]] = {}
    for event in events:
        for token in set(event.tokens.values()) - {event.anchor}:
            if re.fullmatch(r"group_id\.[0-9]+\.[0-9a-f]{32}", token):
                times.setdefault(token, []).append(event.time)
    return {g: Membership(min(times[g]), max(times[g]) // DAY * DAY) for g in sorted(times)[:bound]}


def _computed(events: list[ProtectedEvent], once: list[ProtectedEvent], rules: Rules) -> dict[str, Any]:
    """`once`: those of the events that count."""
    last_day = max(e.time for e in events) // DAY
    found: dict[str, Any] = {}
    for name, trait in rules.computed.items():

        def wanted(
            given: Iterable[ProtectedEvent], trait: Computed = trait, *, ever: bool = False
        ) -> list[ProtectedEvent]:
            named = [e for e in given if plain_name(e.event or e.type) == trait.event]
            return [e for e in named if ever or not trait.days or last_day - e.time // DAY < trait.days]

        match trait.op:
            case "count":
                value: Any = len(wanted(once)) or None
            case "sum":
                numbers = [n for e in wanted(once) if (n := _number(_at(e.clear, trait.path))) is not None]
                value = msgspec.Raw(_plain(reduce(_EXACT.add, numbers))) if numbers else None
            case "first" | "last":
                ordered = sorted(wanted(events), key=lambda e: (e.time, e.origin))
                values = [v for e in ordered if (v := _brief(_at(e.clear, trait.path)))]
                value = msgspec.Raw(values[0 if trait.op == "first" else -1]) if values else None
            case "most_frequent":
                known = {_brief(_at(e.clear, trait.path)) for e in wanted(events, ever=True)} - {b""}
                allowed = sorted(known)[: rules.bounds.computed_values]
                counts = Counter(v for e in wanted(once) if (v := _brief(_at(e.clear, trait.path))) in allowed)
                value = msgspec.Raw(sorted(counts, key=lambda v: (-counts[v], v))[0]) if counts else None
        if value is not None:
            found[name] = value
    return found


def _number(value: Any) -> Decimal | None:
    """The number to six places; None for what is none, or too large for a sum."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 10**15:
        return None
    return _EXACT.quantize(Decimal(str(value)), Decimal("0.000001"))


def _plain(number: Decimal) -> bytes:
    return (f"{number:f}".rstrip("0").rstrip(".") if number else "0").encode()


def _brief(value: Any) -> bytes:
    """The value's JSON; empty for none, or one that is too long."""
    found = b"" if value is None else _SORTED.encode(value)
    return found if len(found) <= 256 else b""


def _at(value: Any, path: Iterable[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _short(name: str) -> str:
    if len(name) > 120:
        return name[:111] + "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name
