"""Fold protected events into what is known of their anchor token.

In: decoded events, each with its anchor's row. Out: the row, changed in place. Rejects: none. Metrics: `duplicate`
(an origin folded before). Cost: 1.2 µs an event of a known token, 2 µs more with five traits.

Everything is a function of the *set* of events: counters count an origin once, the last writer of a trait is the one
with the greatest (event time, origin), the first and last times are extremes, and where a map is bounded the names
that sort first stay, whichever came first.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import msgspec

from .identity_rows import DIGEST, Facts, Row, Seen, digest_of
from .link import Bounds, Traits
from .partition import DAY, LINK, with_link

DECISIONS = frozenset(("link", "cut"))
"""Types of events by which an operator says that two tokens are one person, or are not."""
OTHER = "(other)"
"""Counts the events whose names are beyond `Bounds.event_names`."""
MAX_NAME = 120
"""Characters of an event name or trait name; a longer one ends in `~` and 8 hex of its SHA-256."""

NARROW = 128
"""Offsets kept one by one per token and raw partition; the lower half goes below the floor when there are more.

The protect leg writes a raw partition's events in order, and a replay repeats them in order, so that the greatest
offset would do. What is kept beyond it makes any order of up to 64 events exact.
"""
WIDE = 16_384
"""The same once an offset did come late: tests that shuffle whole topics, never a pipeline at work."""

MAX_BIRTHS = 64
"""Earliest events remembered per token, of which a raw topic in the order of its times makes one per partition."""

_SPAN = 1 << 32
_KEPT_BACK = 1 << 31


class EventOrigin(msgspec.Struct, gc=False):
    topic: str
    incarnation: str
    partition: int
    offset: int


class Event(msgspec.Struct, gc=False):
    """The part of a `ProtectedEvent` that identity needs; decoding skips the rest."""

    event_id: str
    origin: EventOrigin
    source: str
    type: str
    time: int
    received_at: int
    anchor: str
    event: str | None = None
    tokens: dict[str, str] = {}
    clear: msgspec.Raw = msgspec.Raw()


class Folded(IntEnum):
    BEFORE = 0  # its origin was folded before
    ADDED = 1
    BORN = 2  # added, and it is the earliest so far


def fold(row: Row, event: Event, stream: str, traits: Mapping[str, bytes] | None, bounds: Bounds) -> Folded:
    """Add an event of `row`'s token. `stream`: that of its origin; `traits`: what `trait_reader` makes of it."""
    facts = row.facts
    origin = event.origin
    time = event.time
    result = ADDED
    if facts is None:
        facts = row.facts = Facts(0, [stream], [], 0, 0, {}, [], {})
    streams = facts.streams
    index = 0 if streams[0] == stream else _index(streams, stream)
    if not _admit(row.seen, index << 32 | origin.partition, origin.offset):
        return BEFORE
    facts.version += 1
    if event.type in DECISIONS:
        return ADDED
    if not facts.births:
        facts.births.append((event.received_at, index, origin.partition, origin.offset))
        facts.first = facts.last = time
        result = BORN
    if time > facts.last:
        facts.last = time
    elif time < facts.first:
        facts.first = time
    if event.received_at <= facts.births[-1][0] and _is_earlier(facts, event.received_at, index, origin):
        result = BORN
    if event.source not in facts.sources:
        _bounded_insort(facts.sources, cut(event.source), bounds.sources)
    name = event.event or event.type
    events = facts.events
    if name in events:
        events[name] += 1
    else:
        count(events, cut(name), 1, bounds.event_names)
    if traits:
        _write_traits(facts, traits, (time, index, origin.partition, origin.offset), bounds.traits)
    return result


BEFORE, ADDED, BORN = Folded


def sight(row: Row, event: Event, token: str, most: int) -> bool | None:
    """An event of `row`'s token, just folded, names `token`, too: is it the first? None: one of more than `most`."""
    facts = row.facts
    assert facts is not None
    prefix, digest, time = token[: -2 * DIGEST], digest_of(token), event.time
    before = facts.links.get(prefix, b"")
    after = with_link(before, digest, time, bytes.fromhex(event.event_id), time // DAY)
    if after is before:
        return False
    new = len(after) > len(before)
    if new and sum(map(len, facts.links.values())) >= most * LINK.size:
        return None
    facts.links[prefix] = after
    facts.linked += 1
    row.latest = max(row.latest, time)
    return new


def decide(row: Row, event: Event, token: str) -> bool:
    """An operator's decision about `row`'s token and another one, just folded: does it now say that they are one?"""
    facts = row.facts
    assert facts is not None
    decision = event.time, bytes.fromhex(event.event_id), event.type == "link"
    if token in facts.decisions and facts.decisions[token] >= decision:
        return False
    facts.decisions[token] = decision
    facts.linked += 1
    return decision[2]


def _index(streams: list[str], stream: str) -> int:
    try:
        return streams.index(stream)
    except ValueError:
        streams.append(stream)
        return len(streams) - 1


def _is_earlier(facts: Facts, received_at: int, index: int, origin: EventOrigin) -> bool:
    streams, born = facts.streams, facts.births[-1]
    this = (received_at, streams[index], origin.partition, origin.offset)
    if this >= (born[0], streams[born[1]], born[2], born[3]):
        return False
    facts.births.append((received_at, index, origin.partition, origin.offset))
    del facts.births[:-MAX_BIRTHS]
    return True


# -- origins ------------------------------------------------------------------------------------------------------


def _admit(seen: dict[int, Seen], at: int, offset: int) -> bool:
    """Note an offset; False if it was noted before, or is too late to know."""
    s = seen.get(at)
    if s is None:
        floor = -1 if offset < _KEPT_BACK else offset - _KEPT_BACK
        seen[at] = Seen(floor, offset, (offset - floor).to_bytes(4, "little"))
        return True
    if offset > s.high:
        distance = offset - s.floor
        if distance >= _SPAN or len(s.above) >= 4 * (WIDE if s.late else NARROW):
            _compact(s, offset)
            distance = offset - s.floor
        s.above += distance.to_bytes(4, "little")
        s.high = offset
        return True
    return False if offset <= s.floor else _admit_late(s, offset)


def _admit_late(s: Seen, offset: int) -> bool:
    above = _offsets(s.above)
    distance = offset - s.floor
    at = bisect_left(above, distance)
    if at < len(above) and above[at] == distance:
        return False
    s.late = True
    above.insert(at, distance)
    s.above = _bytes(above)
    _compact(s, s.high)
    return True


def _compact(s: Seen, high: int) -> None:
    """Raise the floor where there are too many offsets above it, or `high` is too far from it for 32 bits."""
    above = _offsets(s.above)
    keep = 0
    if len(above) >= (WIDE if s.late else NARROW):
        keep = len(above) // 2
    elif high - s.floor < _SPAN:
        return
    floor = s.floor + above[keep - 1] if keep else s.floor
    if high - floor >= _SPAN:
        floor = high - _KEPT_BACK
    raised = floor - s.floor
    s.above = _bytes(array("I", [d - raised for d in above if d > raised]))
    s.floor = floor


def _offsets(above: bytes) -> array[int]:
    offsets = array("I")
    offsets.frombytes(above)
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def _bytes(offsets: array[int]) -> bytes:
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets.tobytes()


# -- bounded maps -------------------------------------------------------------------------------------------------


def cut(name: str) -> str:
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def count(events: dict[str, int], name: str, n: int, bound: int) -> None:
    """Add `n` to a name's counter. Beyond `bound` names the last in order are counted under `OTHER`.

    A name among the first `bound` of all names is among the first of any part of them: so it was never moved, and
    its count is exact whatever the order.
    """
    if name in events:
        events[name] += n
        return
    events[name] = n
    if len(events) - (OTHER in events) > bound:
        last = max(known for known in events if known != OTHER)
        events[OTHER] = events.get(OTHER, 0) + events.pop(last)


def _bounded_insort(names: list[str], name: str, bound: int) -> None:
    if name not in names:
        insort(names, name)
        del names[bound:]


def _write_traits(facts: Facts, traits: Mapping[str, bytes], at: tuple[int, int, int, int], bound: int) -> None:
    known, streams = facts.traits, facts.streams
    for name, value in traits.items():
        before = known.get(name)
        if before is None:
            known[name] = (*at, value)
            if len(known) > bound:
                del known[max(known)]
        elif at[0] > before[0] or (at[0] == before[0] and _later(streams, at, before)):
            known[name] = (*at, value)


def _later(streams: list[str], a: tuple[int, ...], b: tuple[Any, ...]) -> bool:
    return (streams[a[1]], a[2], a[3]) > (streams[b[1]], b[2], b[3])


# -- traits -------------------------------------------------------------------------------------------------------

_canonical = msgspec.json.Encoder(order="sorted").encode


def event_decoder(traits: Traits) -> Callable[[bytes], Event]:
    """Return the function: a record's JSON → its `Event`, of whose clear part only what `traits` reads is decoded.

    Raises `msgspec.DecodeError` if it is no protected event.
    """
    heads = _heads(traits)
    names = {f"head{i}": head for i, head in enumerate(heads)}
    clear = msgspec.defstruct("Clear", [(name, Any, None) for name in names], rename=names, gc=False)
    event: Any = msgspec.defstruct("TraitsEvent", [("clear", clear | None, None)], bases=(Event,), gc=False)
    decode: Callable[[bytes], Event] = msgspec.json.Decoder(event).decode
    return decode


def _heads(traits: Traits) -> list[str]:
    return list(dict.fromkeys(path.partition(".")[0] for path in traits.clear))


def trait_reader(traits: Traits) -> Callable[[Any], dict[str, bytes] | None]:
    """Return the function: the clear part of an event of `event_decoder` → trait name → its value as canonical JSON."""
    heads = _heads(traits)
    paths = [(f"head{heads.index(path.split('.')[0])}", tuple(path.split(".")[1:])) for path in traits.clear]
    max_bytes = traits.max_bytes

    def read(clear: Any) -> dict[str, bytes] | None:
        found: dict[str, bytes] = {}
        for head, path in paths:
            at = getattr(clear, head)
            if at is None:
                continue
            for part in path[:-1]:
                at = at.get(part) if isinstance(at, dict) else None
            if not isinstance(at, dict):
                continue
            last = path[-1]
            for name in at if last == "*" else (last,):
                if name in at and (short := cut(name)) not in found:
                    value = _canonical(at[name])
                    if len(value) <= max_bytes:
                        found[short] = value
        return found

    return read
