"""What the commands read and write of Kafka; topics by contractual names, "<leg>/<table>" for a changelog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ..adapters.positions import Positions
from ..adapters.reader import Found, Reader
from ..adapters.topics import as_made
from ..adapters.writer import Writer
from ..crypto.audit_mac import AuditKeys
from ..crypto.rejects import Original
from ..errors import Corrupt, Misuse
from ..events import AUDIT_MAC_HEADER, Topic
from . import audit
from .audit import Action, Audited
from .markers import Marker

SEGMENT_MS = 7 * 24 * 3_600_000
"""Kafka's own `segment.ms`. It deletes whole segments, by the time of the newest record in them."""

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
        audit_keys: AuditKeys,
    ) -> None:
        self._kafka = kafka
        self._name_of = name_of
        self.positions = positions
        self._record_of = record_of
        self.show = show
        self._audit_keys = audit_keys

    def read(self, name: str, since: Mapping[int, int] | None = None) -> Reader:
        return Reader(*self._kafka, self._name_of(name), since)

    def ends(self, topic: str) -> tuple[int, ...]:
        """Of its partitions, in their order."""
        return tuple(end for _, (_, end) in sorted(self.positions.bounds(topic).items()))

    def retentions(self, topics: Collection[str]) -> dict[str, int | None]:
        """How long topics keep their records (ms), until the last one of a segment goes; None: for ever."""
        names = {self._name_of(topic): topic for topic in topics}
        kept: dict[str, int | None] = {}
        for made in as_made(*self._kafka, names):
            retention = int(made.config.get("retention.ms", "-1"))
            segment = int(made.config.get("segment.ms", SEGMENT_MS))
            kept[names[made.name]] = None if retention < 0 else retention + segment
        return kept

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
        value = audit.encode(record)
        mac = self._audit_keys.mac(value, record.time)
        headers = () if mac is None else ((AUDIT_MAC_HEADER, mac),)
        writer = Writer(*self._kafka)
        writer.send(self._name_of(Topic.AUDIT), record.id.encode(), value, timestamp=record.time, headers=headers)
        writer.flush()

    def audited(self, erasure: str) -> Audited:
        """Return how an erasure was asked for; `Misuse` if it never was, `Corrupt` if others wrote that it was."""
        forged = False
        for record, ours in self._audited():
            if record.id == erasure and record.action is Action.ERASE:
                if ours:
                    return record
                forged = True
        if forged:
            raise Corrupt("what access.audit says of this erasure was not written with this key ring")
        raise Misuse("access.audit has no erasure of this id")

    def erasures_of(self, tokens: Collection[str]) -> list[Audited]:
        """Return what was written down of erasures of any of `tokens`, with this key ring."""
        wanted = frozenset(tokens)
        return [
            record
            for record, ours in self._audited()
            if ours and record.action in (Action.ERASE, Action.ERASED) and not wanted.isdisjoint(record.tokens)
        ]

    def _audited(self) -> Iterator[tuple[Audited, bool]]:
        """Yield the records, and whether they were written with this key ring."""
        with self.read(Topic.AUDIT) as reader:
            for found in reader:
                record = audit.decode(found.value)
                if record is not None and found.key == record.id.encode():
                    mac = next((content for name, content in found.headers if name == AUDIT_MAC_HEADER), None)
                    yield record, self._audit_keys.ours(found.value or b"", mac)
