"""Have the legs done all that had come when they were first asked about, and what follows from it?

Not "are they behind nothing": where events always come, there is never such a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ..events import Topic
from .positions import undone

POLL_SECONDS = 0.5
HOPS = 8
"""What an event tells the owners of other identifiers they pass on, on the topic `identity`: so often is waited for.
There is no bound: profiles may merge into one another in a row."""
TOLD = (("identify", Topic.PROTECTED), *[("identify", Topic.IDENTITY)] * HOPS)
"""(leg, topic): what follows from events that the protect leg has protected, one after the other."""
RAW = (("protect", Topic.RAW),)
ALL = (*RAW, *TOLD)


class Asked(Protocol):
    """What of `Positions` is needed."""

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]: ...
    def committed(self, leg: str, topic: str) -> dict[int, int]: ...


class Settled:
    """`ends`: where the first topic ended; not given: as it stands at the first question."""

    def __init__(
        self,
        positions: Asked,
        steps: tuple[tuple[str, Topic], ...] = ALL,
        ends: Mapping[int, int] | None = None,
    ) -> None:
        self._positions = positions
        self._left = list(steps)
        self._ends = ends
        self.behind = 0
        """Records that the leg asked about last has not done."""

    def wait(self, seconds: float, tell: Callable[[int], None] = lambda behind: None) -> int:
        """Return 0 when it is so, or after `seconds` how many records are still to be done of the topic asked about."""
        until = time.monotonic() + seconds
        while not self.now():
            if time.monotonic() >= until:
                break
            tell(self.behind)
            time.sleep(POLL_SECONDS)
        return self.behind

    def now(self) -> bool:
        while self._left:
            leg, topic = self._left[0]
            bounds = self._positions.bounds(topic)
            if self._ends is None:
                self._ends = {number: end for number, (_, end) in bounds.items()}
            self.behind = undone(bounds, self._positions.committed(leg, topic), self._ends)
            if self.behind:
                return False
            self._left.pop(0)
            self._ends = None
        return True
