"""What the commands read and write of Kafka; topics by contractual names, "<leg>/<table>" for a changelog."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

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
        value = audit.encode(record)
        mac = self._audit_keys.mac(value, record.time)
        headers = () if mac is None else ((AUDIT_MAC_HEADER, mac),)
        writer = Writer(*self._kafka)
        writer.send(self._name_of(Topic.AUDIT), record.id.encode(), value, timestamp=record.time, headers=headers)
        writer.flush()

    def audited(self, erasure: str) -> Audited:
        """Return how an erasure was asked for; `Misuse` if it never was, `Corrupt` if others wrote that it was."""
        forged = False
        with self.read(Topic.AUDIT) as reader:
            for found in reader:
                record = audit.decode(found.value) if found.key == erasure.encode() else None
                if record is None or record.action is not Action.ERASE:
                    continue
                mac = next((content for name, content in found.headers if name == AUDIT_MAC_HEADER), None)
                if self._audit_keys.ours(found.value or b"", mac):
                    return record
                forged = True
        if forged:
            raise Corrupt("what access.audit says of this erasure was not written with this key ring")
        raise Misuse("access.audit has no erasure of this id")
