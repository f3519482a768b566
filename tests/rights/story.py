"""A person's way through the protect and the identify leg in memory, with what stands in each topic and changelog.

One raw partition, in one incarnation. Changelogs are kept whole, as before compaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.adapters.reader import Found
from pipeline.events import ProtectedEvent, RawRecord, Topic
from pipeline.rights import places
from pipeline.rights.audit import Place
from pipeline.rights.markers import Spot, markers, protected, spots
from pipeline.rights.person import Person, by_tokens
from pipeline.stages.decision import SOURCE
from tests.flow.identity_world import World
from tests.stages.event_world import RECEIVED, Leg, ring

ERASURE = "e" * 32
AT = RECEIVED + 500


class Story:
    def __init__(self) -> None:
        self.protect = Leg()
        self.world = World(2)
        self.logs: dict[str, list[Found]] = {name: [] for name in ("subject-keys", "tokens", "evidence")}
        self._rows: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self.protected: list[Found] = []
        self._offset = 0

    def send(self, *events: dict[str, Any] | bytes, source: str = "shop") -> None:
        """Raw records, one after the other, and all that comes of them."""
        for event in events:
            value = event if isinstance(event, bytes) else json.dumps(event).encode()
            headers = (("source-id", source.encode()),)
            record = RawRecord(self._offset, RECEIVED + self._offset, None, value, headers)
            side, _ = self.protect.run([record])
            for made in side.values():
                event_ = msgspec.json.decode(made, type=ProtectedEvent)
                self.protected.append(_found(len(self.protected), event_.anchor.encode(), made))
                self.world.publish(event_)
            self._offset += 1
        self.world.settle()
        self.commit()

    def commit(self) -> None:
        """The protect leg hears that all of it was committed, and drains."""
        self.protect.part.on_committed(Topic.RAW, "", self._offset)  # type: ignore[attr-defined]
        self.protect.part.drain()
        self._note("subject-keys", 0, dict(self.protect.table.items()))
        for worker in self.world.workers:
            for name, table in worker.tables.items():
                self._note(name, worker.number, table.durable)

    def _note(self, name: str, partition: int, now: dict[bytes, bytes]) -> None:
        before, log = self._rows.get((name, partition), {}), self.logs[name]
        for key in before.keys() | now.keys():
            if before.get(key) != now.get(key):
                log.append(_found(len(log), key, now.get(key), partition))
        self._rows[name, partition] = dict(now)

    @property
    def profiles(self) -> list[Found]:
        logs = self.world.topics[Topic.PROFILES]
        return [_found(r.offset, r.key or b"", r.value, p, r.timestamp) for p, log in enumerate(logs) for r in log]

    def person(self, *tokens: str) -> Person:
        return by_tokens(self.profiles, tokens)

    def erase(self, person: Person) -> None:
        wanted = spots(person.tokens, 1)
        self.send(*(m.event for m in markers(wanted, ERASURE, AT, 1, lambda: "m")), source=SOURCE)

    def places(self, tokens: Sequence[str]) -> dict[str, Place]:
        found = dict(protected(self.protected, ERASURE))
        marks: dict[Spot, Any] = {spot: found.get(spot) for spot in spots(tokens, 1)}
        rows = places.Rows(tokens, ERASURE, AT)
        told = [
            places.subject_keys(self.logs["subject-keys"], marks, ring().epoch_names()),
            rows.tokens(self.logs["tokens"]),
            rows.evidence(self.logs["evidence"]),
            rows.profiles(self.profiles),
        ]
        return {place.name: place for place in told}


def _found(offset: int, key: bytes, value: bytes | None, partition: int = 0, timestamp: int = 0) -> Found:
    return Found(partition, offset, timestamp, key, value, ())
