"""The narrow interfaces between the pure stages, the worker, and the outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from .events import SourceBatch


class Table(Protocol):
    """One partition of a keyed state table; every change is also written to its changelog by the worker.

    Values are bytes: compact in memory, and the changelog's value as it stands. `put` of equal bytes is free.
    """

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def touch(self, key: bytes) -> None:
        """Have the row written to the changelog as it is: who reads that sees that it was in work."""

    def delete(self, key: bytes) -> None: ...
    def items(self) -> Iterator[tuple[bytes, bytes]]: ...
    def __len__(self) -> int: ...


class Out(msgspec.Struct, frozen=True):
    """A record to be produced. Its partition is murmur2(key), as every Kafka client does.

    `value` None is a tombstone. `timestamp` is ms and derives from the input, so that a replay gives equal bytes.
    """

    key: bytes
    value: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes]] = []


STATE = "<state>"
"""In `Effects.phases`: the point at which the tables' changes are written to their changelogs."""


class Effects(msgspec.Struct, frozen=True):
    """What the batches since the last `drain` caused, in phases that are each durable before the next begins.

    A phase is a map topic → records, or `STATE`. After the last phase the worker acknowledges the input. Two orders
    make sense (docs/decisions.md): state first where output refers to it (a key before what it sealed), state last
    where a replay could otherwise find its state done and its messages unsent.
    """

    phases: tuple[dict[str, list[Out]] | str, ...]
    counts: dict[tuple[str, str], int] = {}
    """(outcome, detail) → records: ("protected", ""), ("rejected", "bad_json"), …; both bounded, metric labels."""


class PartitionLeg(Protocol):
    """The state machine of one leg on one partition number. No clock, no I/O; `now` is ms and given."""

    def on_batch(self, batch: SourceBatch) -> None:
        """Take in a batch from one of the leg's source topics. Bad data is an outcome; an exception is our fault."""

    def on_tick(self, now: int, caught_up: bool) -> None:
        """About once a second; `caught_up`: nothing of this partition is waiting at the broker."""

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        """A former owner of the partition has written these rows of `table` meanwhile; the rows themselves are mended.

        Say again what is announced because of them, where the last record of a key counts.
        """

    def drain(self) -> Effects:
        """Put changed rows into the tables and return everything caused since the last call."""


@runtime_checkable
class Rejecting(Protocol):
    """A partition leg that can account for a record without a look at it."""

    def on_crashed(self, batch: SourceBatch) -> None:
        """Workers died at work on these records: reject them (`crashed_worker`), in place of `on_batch`."""


@runtime_checkable
class Acknowledged(Protocol):
    """A partition leg that goes by what was committed."""

    def on_committed(self, topic: str, incarnation: str, offset: int) -> None:
        """Nothing of `topic` below `offset` comes again, unless somebody sets offsets back by hand.

        Told after each commit, and once after the partition was opened.
        """


@runtime_checkable
class Streaming(Protocol):
    """A partition leg with output that need not wait for its state: it leaves between checkpoints, while there is lag.

    So the state can take in more before it is written, each key once.
    """

    def outputs(self) -> dict[str, list[Out]]:
        """Topic → records since the last call; `drain` has the rest. Acknowledged with the checkpoint after them."""

    def held(self) -> int:
        """How many rows and records wait for the next `drain`, outputs left out."""


@runtime_checkable
class Dependent(Protocol):
    """A leg that takes batches in only while something outside is there."""

    def available(self) -> None:
        """`Transient` while it is away, and the batch waits, not taken in. Asked for each batch: no I/O here."""


class Leg(Protocol):
    """Makes partition legs; holds what they share (schemas, keys, rules)."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]:
        """Source topics, co-partitioned."""

    @property
    def pace(self) -> float:
        """Seconds that input may wait, so that more of it is worked on together: 0.005 where somebody waits."""

    @property
    def stretch(self) -> int:
        """How many times the usual records a checkpoint may hold while the stream lags: more than 1 where what they
        cause for one key is written once."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables; a partition leg gets one `Table` for each."""

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg: ...

    def check(self, table: str, key: bytes, value: bytes) -> None:
        """`Corrupt` if these bytes, read from a changelog, are no row of the table. No key is asked for: 2 µs."""


class Metrics(Protocol):
    """What the worker tells of itself; `pipeline.telemetry` exports it to Prometheus. Labels are bounded names."""

    def batch(self, leg: str, topic: str, records: int, seconds: float) -> None:
        """A batch went through `on_batch`; `seconds` of wall time."""

    def checkpoint(self, leg: str, records: int, seconds: float) -> None:
        """`records` became durable and acknowledged, `seconds` after their flush began."""

    def outcomes(self, leg: str, counts: Mapping[tuple[str, str], int]) -> None: ...
    def committed(self, leg: str, partitions: int) -> None: ...
    def changelog(self, leg: str, table: str, records: int, size: int) -> None:
        """`size` in bytes."""

    def rows(self, leg: str, table: str, rows: int) -> None: ...
    def lag(self, leg: str, topic: str, partition: int, records: int) -> None: ...
    def state(self, leg: str, state: LegState) -> None: ...


class LegState(StrEnum):
    """Ready means RUNNING in every leg; alive means none of them has FAILED."""

    WAITING = "waiting"  # for the broker, or the provider of the KEK
    RECOVERING = "recovering"  # tables from their changelogs
    RUNNING = "running"
    STOPPING = "stopping"
    FAILED = "failed"
