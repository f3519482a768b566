"""What the checks read: topics between two offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import msgspec

from ..adapters.reader import Found
from ..events import Origin


class Log(msgspec.Struct, frozen=True):
    """A topic by its contractual name. `records`, each time they are iterated: all of `bounds`, per partition in order.

    `bounds`: partition → (first offset that is kept, end). `incarnation`: Kafka's topic id, "" without.
    """

    name: str
    incarnation: str
    bounds: Mapping[int, tuple[int, int]]
    records: Iterable[Found]

    @property
    def total(self) -> int:
        return sum(end - start for start, end in self.bounds.values())

    @property
    def whole(self) -> bool:
        """Nothing was taken away from its beginning."""
        return all(start == 0 for start, _ in self.bounds.values())

    def place(self, found: Found) -> Origin:
        """Where a record of it stands."""
        return Origin(self.name, self.incarnation, found.partition, found.offset)


T = TypeVar("T")


class Progress(Protocol):
    """Passes on what it is given, of which there are about `total`, and shows it to whoever waits."""

    def __call__(self, what: str, total: int, items: Iterable[T]) -> Iterable[T]: ...


def unseen(what: str, total: int, items: Iterable[T]) -> Iterable[T]:
    return items


class Snapshot(msgspec.Struct, frozen=True):
    """Topics of one moment, by contractual name, or "<leg>/<table>" for a changelog.

    Taken so that what is checked must hold: what the protect leg has committed (partition of `events.raw` → offset)
    first, then the ends of the outputs, then that of what they came from. `behind`: leg → records that it has not
    committed. `settled`: when the ends were taken the identify leg had done all that there was.
    """

    logs: Mapping[str, Log]
    committed: Mapping[int, int]
    behind: Mapping[str, int]
    settled: bool
    earlier: tuple[int, ...] = ()
    """Numbers of partitions that the topics had before they grew (`adapters.resize`)."""
