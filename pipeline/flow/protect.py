"""The protect leg: raw bytes → protected events, or rejects.

    events.raw ─► authenticate ─► unseal ─► decode ─► tokenize ─► seal ─► events.protected
                        └────────────┴─────────┴──────────┴─► reject ───► events.rejected

Every record comes out once, on one side. Durable in the order state, output: a person's key stands in its changelog
before the first event that it sealed is published. A crash in between leaves a key that the replay uses. What an
erasure dooms is deleted when its marker was committed, since only then no event of before it comes again.

Counts of `Effects`: `protected`; `rejected` by reason; `unusable_identifier` and `blocked_identifier` by kind;
`keys_erased` and `keys_rewrapped` (under another epoch).
Cost by stage: `bench/costs.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from ..crypto import subject_rows
from ..crypto.keyring import KeyRing
from ..crypto.subjects import SubjectKeys
from ..errors import Transient
from ..events import EventIds, Record, SourceBatch, Topic
from ..outcomes import Reason, Rejected, Stage
from ..ports import STATE, Effects, Out, PartitionLeg, Table
from ..stages.authenticate import Authenticator
from ..stages.block import Blocked
from ..stages.decode import decode
from ..stages.registry import Registry
from ..stages.reject import reject
from ..stages.seal import seal
from ..stages.tokenize import Tokens, tokenize
from ..stages.unseal import as_sent, unseal

KEYS = "subject-keys"
AT_ONCE = 32
"""Records that go through the stages together: what a stage leaves for the next one is still in the CPU's cache."""

REWRAPPED = 1_000
"""Keys of people that are wrapped anew per tick and partition, after the epoch was rolled: 20 ms."""

Uses = Callable[[str, int], None]

Place = tuple[EventIds, str, str, int]
"""Event ids, topic, incarnation and partition of a batch."""


class ProtectLeg:
    """Makes the partition legs. `Leg` and `Dependent` of `pipeline.ports`.

    `blocked`: identifiers of nobody. `max_event_bytes`: a longer value is rejected. `must_seal`: sources whose
    plaintext is rejected, `*` for all. `uses` is told, by key id, how many values were made under a key of the ring,
    before they leave; what it raises keeps them from leaving. `available`: raises while the KEK may not be used, or
    what is known of sources is old. `authenticator`: None passes every source.
    `clock` (ms): when a partition is opened, for the epoch in use; afterwards ticks tell it.
    """

    name = "protect"
    pace = 0.005
    stretch = 1
    sources: tuple[str, ...] = (Topic.RAW.value,)
    tables: tuple[str, ...] = (KEYS,)

    def __init__(
        self,
        registry: Registry,
        ring: KeyRing,
        blocked: Blocked,
        *,
        max_event_bytes: int = 1 << 20,
        must_seal: Collection[str] = (),
        authenticator: Authenticator | None = None,
        uses: Uses = lambda key_id, values: None,
        available: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = lambda: 0,
    ) -> None:
        self.registry = registry
        self.available = available
        self.clock = clock
        self.epochs = ring.epochs()
        self.max_event_bytes = max_event_bytes
        self.tokens = Tokens(ring.tokenizer(), blocked)
        self.boxes = ring.reject_boxes()
        self.opener = ring.opener()
        self.must_seal = frozenset(must_seal)
        self.authenticator = authenticator
        self.uses = uses

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg:
        self.epochs.advance(self.clock())
        keys = SubjectKeys(tables[KEYS], self.epochs)
        keys.probe()
        return ProtectPartition(self, keys)

    def check(self, table: str, key: bytes, value: bytes) -> None:
        subject_rows.check(key, value)


class ProtectPartition:
    def __init__(self, leg: ProtectLeg, keys: SubjectKeys) -> None:
        self._leg = leg
        self._keys = keys
        self._protected: list[Out] = []
        self._rejected: list[Out] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._sealed: Counter[str] = Counter()

    def on_batch(self, batch: SourceBatch) -> None:
        place = _place(batch)
        for start in range(0, len(batch.records), AT_ONCE):
            self._protect(batch.records[start : start + AT_ONCE], place)

    def _protect(self, records: Sequence[Record], place: Place) -> None:
        leg = self._leg
        count, refused = len(records), list[Rejected]()
        if leg.authenticator is not None:
            authentic = leg.authenticator.authenticate(records, leg.max_event_bytes)
            records, refused = authentic.passed, authentic.rejected
        unsealed = unseal(records, leg.opener, leg.must_seal, leg.max_event_bytes)
        decoded = decode(unsealed.passed, leg.registry, leg.max_event_bytes)
        tokenized, dropped = tokenize(decoded.passed, leg.tokens)
        rejects = refused + unsealed.rejected + as_sent(decoded.rejected + tokenized.rejected)
        rejects.sort(key=lambda r: r.record.offset)
        assert len(tokenized.passed) + len(rejects) == count, "records in and out differ"

        self._protected += seal(tokenized.passed, *place, self._keys)
        self._counts["protected", ""] += len(tokenized.passed)
        self._reject(rejects, place)
        self._counts.update(dropped)

    def on_crashed(self, batch: SourceBatch) -> None:
        """`ports.Rejecting`: the value is sealed as it is, and nothing decodes it."""
        rejects = [
            Rejected(record, Stage.DECODE, Reason.CRASHED_WORKER, rule="killed a worker three times")
            for record in batch.records
        ]
        self._reject(rejects, _place(batch))

    def _reject(self, rejects: list[Rejected], place: Place) -> None:
        self._rejected += reject(rejects, *place, self._leg.boxes)
        for r in rejects:
            self._counts["rejected", r.reason.value] += 1
            self._sealed[self._leg.boxes.at(r.record.timestamp).key_id] += 1

    def on_tick(self, now: int, caught_up: bool) -> None:
        self._leg.epochs.advance(now)
        with suppress(Transient):  # the KEK is away: the epochs may not be used either
            self._leg.available()
            self._counts["keys_rewrapped", ""] += self._keys.rewrap(REWRAPPED)

    def on_committed(self, topic: str, incarnation: str, offset: int) -> None:
        """`ports.Acknowledged`: keys of the erased are deleted."""
        self._counts["keys_erased", ""] += self._keys.committed(incarnation, offset)

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        """Nothing here is the last word on a key: an event has one form."""

    def drain(self) -> Effects:
        leg = self._leg
        for key_id, values in self._sealed.items():
            leg.uses(key_id, values)
        for version, values in leg.tokens.made().items():
            leg.uses(f"token.{version}", values)
        self._sealed.clear()
        outputs = {Topic.PROTECTED.value: self._protected, Topic.REJECTED.value: self._rejected}
        counts = {key: n for key, n in self._counts.items() if n}
        self._protected, self._rejected, self._counts = [], [], Counter()
        return Effects((STATE, outputs), counts)


def _place(batch: SourceBatch) -> Place:
    return EventIds(batch.topic, batch.incarnation, batch.partition), batch.topic, batch.incarnation, batch.partition
