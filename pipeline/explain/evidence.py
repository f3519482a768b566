"""What of many protected events decides who is who: few of them, whatever their number.

Of events with the same anchor and tokens only those matter that were the earliest so far, by event time, when they
were received; and of an anchor that was erased, such ones between any two of its erasures. Memory: by distinct sets of
tokens that occurred together, not by events; 1 kB each of three tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from ..events import ERASE, ORDERS, Origin
from ..stages.link import Rules
from ..stages.reference import Ruling, decide, profile_id, unerased


class Sighting(msgspec.Struct, frozen=True):
    """What is needed of a `ProtectedEvent`."""

    event_id: str
    origin: Origin
    source: str
    type: str
    time: int
    received_at: int
    anchor: str
    tokens: dict[str, str] = {}
    content: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="clear")

    @property
    def clear(self) -> Any:
        return msgspec.json.decode(self.content) if self.content else None

    @property
    def received(self) -> tuple[int, Origin]:
        return self.received_at, self.origin

    def everything(self) -> set[str]:
        """Its tokens, the anchor included."""
        return {self.anchor, *self.tokens.values()}


def gather(events: Iterable[Sighting]) -> list[Sighting]:
    """Return what gives the same ruling and the same profile ids as `events` do, and as each of their beginnings does.

    By the order in which they were received, each once. If there are erasures, `events` are iterated a second time.
    """
    found = _gathered(events, {})
    erased: dict[str, list[Sighting]] = defaultdict(list)
    for event in found:
        if event.type == ERASE:
            erased[event.anchor].append(event)
    return _gathered(events, {anchor: _periods(markers) for anchor, markers in erased.items()}) if erased else found


Periods = tuple[dict[tuple[str, str, int], list[int]], list[int]]
"""Of an anchor, sorted: by raw partition, the offsets of markers; and the times of erasures."""


def _periods(markers: Iterable[Sighting]) -> Periods:
    places: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for marker in markers:
        places[_way(marker)].append(marker.origin.offset)
    return {way: sorted(offsets) for way, offsets in places.items()}, sorted({marker.time for marker in markers})


def _way(event: Sighting) -> tuple[str, str, int]:
    return event.origin.topic, event.origin.incarnation, event.origin.partition


def _gathered(events: Iterable[Sighting], erased: dict[str, Periods]) -> list[Sighting]:
    fronts: dict[Any, list[Sighting]] = {}
    for event in events:
        own = event.event_id if event.type in ORDERS else ""
        if event.type != ERASE and event.content:
            event = msgspec.structs.replace(event, content=msgspec.Raw())
        key: Any = own, event.anchor, frozenset(event.everything())
        if event.anchor in erased:  # the events of one period are erased together
            places, times = erased[event.anchor]
            way = _way(event)
            key = (
                *key,
                way,
                bisect_left(places.get(way, ()), event.origin.offset),
                bisect_left(times, event.received_at),
            )
        front = fronts.get(key)
        if front is None:
            fronts[key] = [event]
        elif not any(_says_all(other, event) for other in front):
            fronts[key] = [*(other for other in front if not _says_all(event, other)), event]
    return sorted((event for front in fronts.values() for event in front), key=lambda e: e.received)


def _says_all(one: Sighting, other: Sighting) -> bool:
    """Whether nothing follows from `other` beside `one`, of the same tokens."""
    return one.received <= other.received and (one.time, one.event_id) <= (other.time, other.event_id)


class People:
    """A ruling, with the profile ids."""

    def __init__(self, events: list[Sighting], rules: Rules) -> None:
        """`events` as they were received."""
        events, erased = unerased(events)
        self.ruling: Ruling = decide(events, rules, erased)
        self.tokens = self.ruling.people
        self.of = {token: number for number, tokens in enumerate(self.tokens) for token in tokens}
        """Token → number of its person."""
        self.founders: dict[str, Sighting] = {}
        """Anchor → its oldest event."""
        self._oldest: dict[int, Sighting] = {}
        for event in events:
            if event.type not in ORDERS:
                self.founders.setdefault(event.anchor, event)
                self._oldest.setdefault(self.of[event.anchor], event)

    def profile(self, token: str) -> str | None:
        """The id of the profile that `token` is in; None if that person has no event of its own, or never was."""
        number = self.of.get(token)
        return None if number is None else self.profile_of(number)

    def profile_of(self, number: int) -> str | None:
        oldest = self._oldest.get(number)
        return None if oldest is None else profile_id(oldest.event_id)

    @property
    def profiles(self) -> list[int]:
        """The persons that have a profile."""
        return sorted(self._oldest)


def joins_nothing(token: str, rules: Rules) -> bool:
    return not rules.links(token.split(".")[0])
