"""Carry an erasure out: send its markers, wait for the legs, and look at what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

import msgspec

from ..adapters.reader import Found
from ..adapters.settled import RAW, TOLD, Settled
from ..adapters.topic_specs import EVIDENCE, SUBJECT_KEYS, TOKENS
from ..events import Origin, Topic
from . import places
from .audit import Audited, Place
from .markers import Spot, markers, protected, spots
from .topics import Topics

_POLL_SECONDS = 0.5

BY_TIME = {
    Topic.RAW: "as it was sent; what its producer sealed, while the producers key is there",
    Topic.REJECTED: "what could not be protected, under the rejects key",
    Topic.IDENTITY: "what the owners of identifiers tell each other",
}
"""Topics of which only time, or a key, takes anything away."""


class Left(msgspec.Struct, frozen=True):
    """What is left of a person. `done`: nothing is readable as the present state any more. `missing`: markers that have
    not come out of the protect leg.
    """

    erasure: str
    done: bool
    markers: int
    missing: int
    places: tuple[Place, ...]


class Erasing:
    """An erasure that stands in the audit log as `record`."""

    def __init__(
        self,
        record: Audited,
        kafka: Topics,
        openable: Collection[str],
        database: Callable[[str], bytes | None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`openable`: as `places.subject_keys` takes it. `database`: profile id → its row, where there is one."""
        self._record = record
        self._kafka = kafka
        self._openable = openable
        self._database = database
        self._clock = clock
        self._partitions = len(record.ends)
        self._next = dict(enumerate(record.ends))
        self._marks: dict[Spot, Origin] = {}
        self.wanted = spots(record.tokens, self._partitions)

    def look(self) -> list[Spot]:
        """Read on; return the spots whose markers have not come out of the protect leg."""
        with self._kafka.read(Topic.PROTECTED, self._next) as reader:
            for spot, origin in protected(reader, self._record.id):
                known = self._marks.get(spot)
                if known is None or origin.offset < known.offset:
                    self._marks[spot] = origin
            self._next = {number: end for number, (_, end) in reader.bounds.items()}
        return [spot for spot in self.wanted if spot not in self._marks]

    def unsent(self, seconds: float) -> list[Spot]:
        """As `look`, once the protect leg has done all that there was, or after `seconds`: nothing is on its way."""
        Settled(self._kafka.positions, RAW).wait(seconds)
        return self.look()

    def send(self, wanted: Iterable[Spot], new_id: Callable[[], str], now: int) -> None:
        record = self._record
        self._kafka.send(markers(wanted, record.id, record.time, self._partitions, new_id), now)

    def wait(self, seconds: float, tell: Callable[[str], None], now: int) -> Left:
        """Wait until the legs have done their part and nothing is readable, `seconds` at most. `now`: ms."""
        until = self._clock() + seconds
        while (missing := self.look()) and self._clock() < until:
            tell(f"{len(self.wanted) - len(missing)} of {len(self.wanted)} markers are protected")
            time.sleep(_POLL_SECONDS)
        tell("waiting for the identify leg")
        Settled(self._kafka.positions, TOLD, self._next).wait(until - self._clock())
        by_time = self._by_time(now)
        while True:
            began = self._clock()
            left = self._left(len(missing), by_time)
            took = self._clock() - began
            if left.done or self._clock() + took > until:
                return left
            tell("waiting for what is readable still")
            time.sleep(max(_POLL_SECONDS, took))

    def _by_time(self, now: int) -> list[Place]:
        kept = self._kafka.retentions(BY_TIME)
        return [
            Place(topic, 0, None, None if (ms := kept[topic]) is None else now + ms, note)
            for topic, note in BY_TIME.items()
        ]

    def _left(self, missing: int, by_time: list[Place]) -> Left:
        kafka, record = self._kafka, self._record
        rows = places.Rows(record.tokens, record.id, record.time)

        def of(name: str, look: Callable[[Iterable[Found]], Place]) -> Place:
            with kafka.read(name) as reader:
                return look(kafka.show(name, reader))

        marks = dict.fromkeys(self.wanted) | self._marks
        found = [
            of(SUBJECT_KEYS, lambda records: places.subject_keys(records, marks, self._openable)),
            of(TOKENS, rows.tokens),
            of(EVIDENCE, rows.evidence),
            of(Topic.PROFILES, rows.profiles),
        ]
        if self._database is not None:
            found.append(rows.database(self._database))
        found += by_time
        done = not missing and not any(place.live for place in found)
        return Left(record.id, done, len(self.wanted), missing, tuple(found))
