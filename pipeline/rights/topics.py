"""What the commands read and write of Kafka; topics by contractual names, "<leg>/<table>" for a changelog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ..adapters.positions import Positions
from ..adapters.reader import Found, Reader
from ..adapters.topics import as_made
from ..adapters.writer import Writer
from ..crypto.rejects import Original
from ..errors import Misuse
from ..events import Topic
from . import audit
from .audit import Action, Audited
from .markers import Marker

Show = Callable[[str, Reader], Iterable[Found]]
"""Passes a topic's records on, and shows its progress to whoever waits."""


class Topics:
    """`record_of`: an event of the operator's, the time in ms and a key → the record of `events.raw`."""

    def __init__(
        self,
        kafka: tuple[str, Mapping[str, str]],
        name_of: Callable[[str], str],
        positions: Positions,
        record_of: Callable[[bytes, int, bytes], Original],
        show: Show,
    ) -> None:
        self._kafka = kafka
        self._name_of = name_of
        self.positions = positions
        self._record_of = record_of
        self.show = show

    def read(self, name: str, since: Mapping[int, int] | None = None) -> Reader:
        return Reader(*self._kafka, self._name_of(name), since)

    def ends(self, topic: str) -> tuple[int, ...]:
        """Of its partitions, in their order."""
        return tuple(end for _, (_, end) in sorted(self.positions.bounds(topic).items()))

    def retentions(self, topics: Collection[str]) -> dict[str, int | None]:
        """How long topics keep their records (ms); None: for ever."""
        names = {self._name_of(topic): topic for topic in topics}
        kept = {names[made.name]: int(made.config.get("retention.ms", "-1")) for made in as_made(*self._kafka, names)}
        return {topic: None if ms < 0 else ms for topic, ms in kept.items()}

    def send(self, markers: Iterable[Marker], now: int) -> None:
        """Write markers to their partitions; they are on the broker then. `Transient` if they are not: some may be."""
        writer = Writer(*self._kafka)
        for marker in markers:
            record = self._record_of(marker.event, now, marker.token.encode())
            writer.send(
                self._name_of(Topic.RAW),
                record.key,
                record.value,
                timestamp=now,
                headers=record.headers,
                partition=marker.partition,
            )
        writer.flush()

    def audit(self, record: Audited) -> None:
        writer = Writer(*self._kafka)
        writer.send(self._name_of(Topic.AUDIT), record.id.encode(), audit.encode(record), timestamp=record.time)
        writer.flush()

    def audited(self, erasure: str) -> Audited:
        """Return how an erasure was asked for; `Misuse` if it never was."""
        with self.read(Topic.AUDIT) as reader:
            for found in reader:
                record = audit.decode(found.value) if found.key == erasure.encode() else None
                if record is not None and record.action is Action.ERASE:
                    return record
        raise Misuse("access.audit has no erasure of this id")
