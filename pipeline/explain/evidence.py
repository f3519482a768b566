"""What of many protected events decides who is who: few of them, whatever their number.

Of events with the same anchor and tokens only those matter that were the earliest so far, by event time, when they
were received. Memory: by distinct sets of tokens that occurred together, not by events; 1 kB each of three tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..events import DECISIONS, Origin
from ..stages.link import Rules
from ..stages.reference import Ruling, decide, profile_id


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

    @property
    def received(self) -> tuple[int, Origin]:
        return self.received_at, self.origin

    def everything(self) -> set[str]:
        """Its tokens, the anchor included."""
        return {self.anchor, *self.tokens.values()}


def gather(events: Iterable[Sighting]) -> list[Sighting]:
    """Return what gives the same ruling and the same profile ids as `events` do, and as each of their beginnings does.

    By the order in which they were received, each once.
    """
    fronts: dict[tuple[str, str, frozenset[str]], list[Sighting]] = {}
    for event in events:
        own = event.event_id if event.type in DECISIONS else ""
        key = own, event.anchor, frozenset(event.everything())
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
        self.ruling: Ruling = decide(events, rules)
        self.tokens = self.ruling.people
        self.of = {token: number for number, tokens in enumerate(self.tokens) for token in tokens}
        """Token → number of its person."""
        self.founders: dict[str, Sighting] = {}
        """Anchor → its oldest event."""
        self._oldest: dict[int, Sighting] = {}
        for event in events:
            if event.type not in DECISIONS:
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
