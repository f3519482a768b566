"""Who may write: a worker that was taken for dead must not undo what its successor wrote.

Kafka refuses the commits of an old generation, but not its records. So three things guard a leg's records:

- The *lease*: nothing is sent unless a heartbeat was answered within the session's time-out, by this worker's own
  clock. One that was stopped or cut off for longer drops what it had in work; it no longer knows who owns what.
- The *claim*: who takes a changelog's partition over writes a claim first, then reads all that stands before it. After
  it only its writer's records count; whatever an earlier one still sends is passed over by everybody who reads the
  changelog. A writer is known by the producer id that Kafka puts on each of its batches.
- The *gap*: own records are next to each other in a changelog. A gap shows the records of another, in which an owner
  finds a newer claim, and stops; or keys that somebody else wrote after it had claimed them, and writes them again,
  since compaction would keep the last value whoever wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition as KafkaTP

from ..boottime import clock
from ..errors import Transient
from .book import TopicPartition
from .records import Written
from .security import client_arguments

READ_BYTES = 4 << 20
"""Per partition and fetch of a changelog."""
READ_RECORDS = 2000
"""Most records that one reading of a changelog hands over: some ms of work, so that heartbeats are never late."""


class Fenced(Transient):
    """Another worker has taken a partition over while this one believed to own it."""


class Lease:
    """Held for `seconds` after the sending of the last heartbeat that was answered."""

    __slots__ = ("_now", "_seconds", "_until")

    def __init__(self, seconds: float, now: Callable[[], float] = clock) -> None:
        self._seconds, self._now = seconds, now
        self._until = float("-inf")

    @property
    def held(self) -> bool:
        return self._now() < self._until

    def renew(self, sent: float | None = None) -> None:
        """`sent`: when the heartbeat was sent, by `clock`; now, if None."""
        self._until = max(self._until, (self._now() if sent is None else sent) + self._seconds)

    def note(self, coordinator: Any) -> None:
        """Have the heartbeats of aiokafka's `coordinator` renew this lease."""
        beat = coordinator._do_heartbeat

        async def noted() -> bool:
            sent = self._now()
            answered: bool = await beat()
            if answered:
                self.renew(sent)
            return answered

        coordinator._do_heartbeat = noted


async def read(
    bootstrap: str, security: Mapping[str, str], spans: Mapping[TopicPartition, tuple[int, int]]
) -> AsyncGenerator[tuple[TopicPartition, list[Written]], None]:
    """Yield the records of changelogs by partition, in order: those with start ≤ offset < end.

    `spans`: partition → start and end, which is at most the partition's. Yields an empty list of any of them each half
    second in which nothing comes.

    Raises `Transient` if the broker does not answer at first; afterwards it is waited for.
    """
    left = {KafkaTP(*tp): end for tp, (start, end) in spans.items() if start < end}
    if not left:
        return
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=READ_BYTES,
        **client_arguments(security),
    )
    try:
        await consumer.start()
        consumer.assign(list(left))
        for tp in left:
            consumer.seek(tp, spans[TopicPartition(*tp)][0])
        while left:
            found = await consumer.getmany(*left, timeout_ms=500, max_records=READ_RECORDS)
            for tp, records in found.items() or [(next(iter(left)), [])]:
                yield TopicPartition(*tp), [r for r in records if r.offset < left[tp]]
            for tp in [tp for tp, end in left.items() if await consumer.position(tp) >= end]:
                del left[tp]
    except KafkaError as e:
        raise Transient(f"a changelog cannot be read ({type(e).__name__}); check the broker") from e
    finally:
        await consumer.stop()
