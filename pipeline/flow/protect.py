"""The protect leg: raw bytes → protected events, or rejects.

    events.raw ─► decode ─► tokenize ─► seal ─► events.protected
                    └──────────┴─► reject ────► events.rejected

Every record comes out once, on one side. Durable in the order state, output: a person's key stands in its changelog
before the first event that it sealed is published. A crash in between leaves a key that the replay uses.

Counts of `Effects`: `protected`; `rejected` by reason; `unusable_identifier` by kind. Cost by stage: `bench/costs.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from ..crypto.keyring import KeyRing
from ..crypto.subjects import SubjectKeys
from ..events import EventIds, Record, SourceBatch, Topic
from ..ports import STATE, Effects, Out, PartitionLeg, Table
from ..stages.decode import decode
from ..stages.registry import Registry
from ..stages.reject import reject
from ..stages.seal import seal
from ..stages.tokenize import Tokens, tokenize

KEYS = "subject-keys"
AT_ONCE = 32
"""Records that go through the stages together: what a stage leaves for the next one is still in the CPU's cache."""


class ProtectLeg:
    """Makes the partition legs. `Leg` of `pipeline.ports`. `max_event_bytes`: a longer value is rejected."""

    name = "protect"
    pace = 0.005
    sources: tuple[str, ...] = (Topic.RAW.value,)
    tables: tuple[str, ...] = (KEYS,)

    def __init__(self, registry: Registry, ring: KeyRing, *, max_event_bytes: int = 1 << 20) -> None:
        self.registry = registry
        self.ring = ring
        self.max_event_bytes = max_event_bytes
        self.tokens = Tokens(ring.tokenizer(cached=0))
        self.box = ring.reject_box()

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg:
        return ProtectPartition(self, SubjectKeys(tables[KEYS], self.ring.kek))


class ProtectPartition:
    def __init__(self, leg: ProtectLeg, keys: SubjectKeys) -> None:
        self._leg = leg
        self._keys = keys
        self._protected: list[Out] = []
        self._rejected: list[Out] = []
        self._counts: Counter[tuple[str, str]] = Counter()

    def on_batch(self, batch: SourceBatch) -> None:
        place = (
            EventIds(batch.topic, batch.incarnation, batch.partition),
            batch.topic,
            batch.incarnation,
            batch.partition,
        )
        for start in range(0, len(batch.records), AT_ONCE):
            self._protect(batch.records[start : start + AT_ONCE], place)

    def _protect(self, records: Sequence[Record], place: tuple[EventIds, str, str, int]) -> None:
        leg = self._leg
        decoded = decode(records, leg.registry, leg.max_event_bytes)
        tokenized, unusable = tokenize(decoded.passed, leg.tokens)
        rejects = decoded.rejected + tokenized.rejected
        assert len(tokenized.passed) + len(rejects) == len(records), "records in and out differ"

        self._protected += seal(tokenized.passed, *place, self._keys.get)
        self._rejected += reject(rejects, *place, leg.box)
        self._counts["protected", ""] += len(tokenized.passed)
        for r in rejects:
            self._counts["rejected", r.reason.value] += 1
        for kind, n in unusable.items():
            self._counts["unusable_identifier", kind] += n

    def on_tick(self, now: int, caught_up: bool) -> None:
        """Nothing here goes by the clock."""

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        """Nothing here is the last word on a key: an event has one form."""

    def drain(self) -> Effects:
        outputs = {Topic.PROTECTED.value: self._protected, Topic.REJECTED.value: self._rejected}
        counts = {key: n for key, n in self._counts.items() if n}
        self._protected, self._rejected, self._counts = [], [], Counter()
        return Effects((STATE, outputs), counts)
