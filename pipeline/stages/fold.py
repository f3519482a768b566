"""Fold protected events into what is known of their anchor token.

In: decoded events, each with its content and its anchor's row. Out: the row, changed in place. Rejects: none. Metrics:
`duplicate` (an origin folded before), `repeated` (another origin, the same message). Cost: 1.9 µs an event of a known
token, of which 1.1 to see whether it is repeated; 1.2 µs more with five traits, and 3 µs a computed trait.

Everything is a function of the *set* of events: counters count an origin once, the last writer of a trait or a consent
is the one with the greatest (event time, origin), the first and last times are extremes, and where a map is bounded the
names that sort first stay, whichever came first.

A *repeated* event is not counted again. Of its copies the one with the least (received_at, origin) counts, whichever
came first; as long as they lie within the window, no order of them matters. The window itself goes by the token's log,
which every replay reads in the same order.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping
from enum import IntEnum
from hashlib import blake2b

from ..events import DAY, DECISIONS
from .calculate import add, forget_others, keep_extremes, notice, take_back
from .computed import Op
from .content import Content, Event, EventOrigin, cut
from .identity_rows import (
    DIGEST,
    Calculated,
    Erased,
    Facts,
    Row,
    Seen,
    Visits,
    digest_of,
    entry_at,
    later,
    tokens_of,
    well_formed,
)
from .link import Rules
from .partition import LINK, with_link

OTHER = "(other)"
"""Counts the events whose names are beyond `Bounds.event_names`."""

NARROW = 32
"""Offsets kept one by one per token and raw partition; the lower half goes below the floor when there are more.

The protect leg writes a raw partition's events in order, and a replay repeats them in order, so that the greatest
offset would do. What is kept beyond it makes any order of up to 16 events exact.
"""
WIDE = 16_384
"""The same once an offset did come late: tests that shuffle whole topics, never a pipeline at work."""

MAX_BIRTHS = 64
"""Earliest events remembered per token, of which a raw topic in the order of its times makes one per partition."""

GROUP = "group_id."
"""What the tokens of groups begin with."""
_GROUP_END = "group_id/"  # the next character

_DIGEST = 8
_hashing = blake2b(digest_size=_DIGEST)
_SPAN = 1 << 32
_KEPT_BACK = 1 << 31


class Folded(IntEnum):
    BEFORE = 0  # its origin was folded before
    ADDED = 1
    BORN = 2  # added, and it is the earliest so far
    REPEATED = 3  # added, and not counted again
    REPEATED_BORN = 4


def fold(row: Row, event: Event, stream: str, content: Content | None, rules: Rules) -> Folded:
    """Add an event of `row`'s token. `stream`: that of its origin; `content`: what `content_reader` makes of it."""
    facts = row.facts
    origin = event.origin
    time = event.time
    born = False
    if facts is None:
        facts = row.facts = Facts(0, [stream], [], 0, 0, {}, [], {})
    streams = facts.streams
    index = 0 if streams[0] == stream else _index(streams, stream)
    if not _admit(row.seen, index << 32 | origin.partition, origin.offset):
        return BEFORE
    facts.version += 1  # by a repeated event as well: its log position has a state of its own
    if event.type in DECISIONS:
        return ADDED
    if not facts.births:
        facts.births.append((event.received_at, index, origin.partition, origin.offset))
        facts.first = facts.last = time
        born = True
    if time > facts.last:
        facts.last = time
    elif time < facts.first:
        facts.first = time
    if event.received_at <= facts.births[-1][0] and _is_earlier(facts, event.received_at, index, origin):
        born = True
    bounds = rules.bounds
    if event.source not in facts.sources:
        _bounded_insort(facts.sources, cut(event.source), bounds.sources)
    name = event.event or event.type
    window = 8 * rules.duplicates.window
    repeated = False
    digest = b""
    message_id = event.message_id
    if window and message_id:
        recent = row.recent
        framed = f"{event.source}\n{len(message_id)} {message_id}{name}"  # no source has a line break
        hashing = _hashing.copy()  # 0.1 µs less than a new one
        hashing.update(framed.encode())
        digest = hashing.digest()
        at_byte = recent.find(digest)
        if at_byte >= 0 and (not at_byte % _DIGEST or entry_at(digest, recent, _DIGEST) >= 0):
            repeated = True
        elif len(recent) < window:
            row.recent = recent + digest
        else:
            _remember(row, recent + digest, window)
    if not repeated:
        events = facts.events
        if name in events:
            events[name] += 1
        else:
            count(events, cut(name), 1, bounds.event_names)
    anchor = event.anchor
    for token in event.tokens.values():
        if GROUP < token < _GROUP_END and token != anchor:
            _visit_group(facts.groups, token, time, bounds.groups)
    if content is not None:
        at = (time, index, origin.partition, origin.offset)
        if content.traits:
            facts.traits = facts.traits.copy()  # see `compose.written`
            _write_traits(facts, content.traits, at, event, bounds.traits)
        if content.consents:
            _write_consents(facts, content.consents, at, cut(event.source), bounds.consents)
        if content.amounts is not None or content.extremes:
            _compute(row, facts, content, (event.received_at, *at[1:]), digest, time, repeated, rules)
    if repeated:
        return REPEATED_BORN if born else REPEATED
    return BORN if born else ADDED


BEFORE, ADDED, BORN, REPEATED, REPEATED_BORN = Folded


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
    if not new and time > row.latest:
        facts.sighted += 1  # only the day is another
        return False
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


# -- erasure ------------------------------------------------------------------------------------------------------


class Taken(IntEnum):
    BEFORE = 0  # the marker's origin was noted before
    NOTED = 1
    ERASED = 2  # the first marker of a later erasure


def counts(erased: Erased, event: Event, stream: str) -> bool:
    """Does an event of the token stand after its latest erasure? The same as `reference.unerased`."""
    origin = event.origin
    if stream == erased.stream:
        mark = erased.marks.get(origin.partition)
        if mark is not None:
            return origin.offset > mark
        if origin.partition < erased.partitions:
            return False  # it stands before the marker that is on its way
    return event.received_at > erased.time


def erase(row: Row, event: Event, stream: str, erasure: str, partitions: int) -> Taken:
    """Take in a marker. The first one of an erasure erases all that is known, though some of it may be of partitions
    whose markers are on their way: what these partitions still have before them does not count, and is passed over.
    """
    facts = _noted(row, event, stream)
    if facts is None:
        return Taken.BEFORE
    origin, known = event.origin, row.erased
    this, latest = (event.time, erasure, partitions, stream), None
    if known is not None:
        latest = known.time, known.erasure, known.partitions, known.stream
        if this == latest:
            known.marks[origin.partition] = min(origin.offset, known.marks.get(origin.partition, origin.offset))
    if latest is not None and this <= latest:
        return Taken.NOTED
    row.erased = Erased(*this, {origin.partition: origin.offset})
    row.facts = Facts(
        facts.version,
        facts.streams,
        [],
        0,
        0,
        {},
        [],
        {},
        linked=facts.linked + 1,
        sighted=facts.sighted,
        erasures=facts.erasures + 1,
        gone=(facts.gone + facts.births)[-MAX_BIRTHS:],
        met=facts.met,
    )
    for prefix, links in facts.links.items():
        for digest, *_ in LINK.iter_unpack(links):
            row.facts.met[prefix] = _with_digest(row.facts.met.get(prefix, b""), digest)
    empty = Row()
    row.profile, row.edges, row.recent, row.counted = empty.profile, empty.edges, empty.recent, empty.counted
    row.day, row.latest, row.visited = empty.day, empty.latest, empty.visited
    return Taken.ERASED


def pass_over(row: Row, event: Event, stream: str) -> bool:
    """Note an event that does not count; False if its origin was noted before."""
    return _noted(row, event, stream) is not None


def meet(row: Row, token: str, most: int) -> bool | None:
    """An event of `row`'s token that does not count, just passed over, names `token`, too; returns as `sight` does."""
    facts = row.facts
    assert facts is not None
    prefix, digest = token[: -2 * DIGEST], digest_of(token)
    before = facts.met.get(prefix, b"")
    after = _with_digest(before, digest)
    if after is before:
        return False
    if sum(map(len, facts.met.values())) >= most * DIGEST:
        return None
    facts.met[prefix] = after
    facts.linked += 1
    return True


def _with_digest(packed: bytes, digest: bytes) -> bytes:
    """`packed`, digests of one prefix, with one more; the same object if it is there."""
    return packed if entry_at(digest, packed, DIGEST) >= 0 else packed + digest


def visit(row: Row, token: str, most: int) -> bool:
    """Note that an event of `row`'s token names a group; False if it is one of more than `most`."""
    prefix = token[: -2 * DIGEST]
    before = row.visited.get(prefix, b"")
    after = _with_digest(before, digest_of(token))
    if after is not before:
        if sum(map(len, row.visited.values())) >= most * DIGEST:
            return False
        row.visited[prefix] = after
    return True


def visited(row: Row) -> list[str]:
    """The groups that events of `row`'s token have named since it was erased last, sorted."""
    named = {token for prefix, digests in row.visited.items() for token in tokens_of(prefix, digests)}
    return sorted(named if row.facts is None else named | row.facts.groups.keys())  # rows before had these alone


def _noted(row: Row, event: Event, stream: str) -> Facts | None:
    """The facts after one more origin; None if it was noted before."""
    facts = row.facts
    if facts is None:
        facts = row.facts = Facts(0, [stream], [], 0, 0, {}, [], {})
    if not _admit(row.seen, _index(facts.streams, stream) << 32 | event.origin.partition, event.origin.offset):
        return None
    facts.version += 1
    return facts


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


# -- messages that were sent twice --------------------------------------------------------------------------------


def _remember(row: Row, recent: bytes, window: int) -> None:
    """Keep the last `window` bytes of `recent`, which has more."""
    beyond = len(recent) - window
    if row.counted:
        for at in range(0, beyond, _DIGEST):
            row.counted.pop(recent[at : at + _DIGEST], None)
    row.recent = recent[beyond:]


def _compute(
    row: Row,
    facts: Facts,
    content: Content,
    at: tuple[int, int, int, int],
    digest: bytes,
    time: int,
    repeated: bool,
    rules: Rules,
) -> None:
    """Take in what computed traits look at. `at`: (received_at, stream, partition, offset) of the event."""
    state = facts.computed
    if state is None:
        state = facts.computed = Calculated()
    else:
        forget_others(state, rules.computed)
    if content.extremes:
        keep_extremes(state, content.extremes, (time, *at[1:]), facts.streams, facts.last)
    amounts, bound = content.amounts, rules.bounds.computed_values
    if amounts is None:
        return
    if repeated:
        for trait, value in amounts:
            if trait.op is Op.MOST_FREQUENT:
                notice(state, trait, value, bound)
        before = row.counted.get(digest)
        if before is None or not later(facts.streams, before, at):
            return
        take_back(state, before[4])
    added = add(state, amounts, time, facts.last, bound)
    if digest:
        row.counted[digest] = (*at, added)


# -- bounded maps -------------------------------------------------------------------------------------------------


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


def _write_traits(
    facts: Facts, traits: Mapping[str, bytes], at: tuple[int, int, int, int], event: Event, bound: int
) -> None:
    known, streams, time = facts.traits, facts.streams, at[0]
    writer = _writer(facts, cut(event.source), event.schema)
    wrote = facts.wrote
    for name, value in traits.items():
        before = known.get(name)
        if before is None:
            known[name] = (*at, value)
            wrote[name] = writer
            if len(known) > bound:
                last = max(known)
                del known[last]
                wrote.pop(last, None)
        elif time > before[0] or (time == before[0] and later(streams, at, before)):
            known[name] = (*at, value)
            wrote[name] = writer


def _writer(facts: Facts, source: str, schema: str) -> int:
    """The place of a writer in `facts.writers`, from which those whose traits were all written anew go at times."""
    writers = facts.writers
    for i, known in enumerate(writers):
        if known[0] == source and known[1] == schema:
            return i
    if len(writers) >= 8 + 2 * len(facts.wrote):
        used = sorted(set(facts.wrote.values()))
        facts.writers = writers = [writers[i] for i in used]
        facts.wrote = {name: used.index(i) for name, i in facts.wrote.items()}
    writers.append((source, schema))
    return len(writers) - 1


def _write_consents(
    facts: Facts, consents: Mapping[str, bool], at: tuple[int, int, int, int], source: str, bound: int
) -> None:
    known = facts.consents
    for purpose, granted in consents.items():
        before = known.get(purpose)
        if before is None or at[0] > before[0] or (at[0] == before[0] and later(facts.streams, at, before)):
            known[purpose] = (*at, granted, source)
            if before is None and len(known) > bound:
                del known[max(known)]


def _visit_group(groups: dict[str, Visits], token: str, time: int, bound: int) -> None:
    if well_formed(token):
        groups[token] = joined(groups.get(token), (time, time - time % DAY))
        if len(groups) > bound:
            del groups[max(groups)]


def joined(a: Visits | None, b: Visits) -> Visits:
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))
