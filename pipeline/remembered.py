"""What was made once is kept, as much of it as is allowed."""

from __future__ import annotations

from itertools import islice
from typing import TypeVar

V = TypeVar("V")


class Remembered(dict[str, V]):
    """At most `most` (≥ 1) values by name. Those kept longest go first, a 64th at a time.

    `functools.lru_cache` has its entries in the order of their use, too: seven places of memory to touch instead of
    four, 0.3 µs a look-up where they are so many that the processor's cache does not hold them.
    """

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {self._most})"

    def keep(self, name: str, value: V) -> V:
        """Remember `value` and return it."""
        if len(self) >= self._most and name not in self:
            for old in list(islice(self, 1 + self._most // 64)):  # one at a time, each would pass by all gone before
                del self[old]
        self[name] = value
        return value
