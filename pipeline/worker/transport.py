"""Faust's Kafka transport, fed in micro-batches and run on the worker's own loop.

Faust gives group membership, assignment and the agent. Overridden (docs/decisions.md says why):

- one message per partition fetch instead of one per record: `value` is the list of fetched records, `offset` the
  last one's;
- the consumer runs on this loop, not in a thread of its own: two threads cost 8 µs per event in hand-overs;
- acknowledging and committing by Faust do nothing: `book.OffsetBook` decides, `Consumer.commit_offsets` commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaTP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.utils.futures import maybe_async

from .book import TopicPartition
from .security import client_arguments

log = structlog.get_logger(__name__)

FETCH_BYTES = 1 << 20
"""Per partition and fetch: the memory that lag can take is this × partitions × (fetched + queued)."""
BATCH_RECORDS = 2000
"""Most records in one batch: about 30 ms of work, so that heartbeats on the same loop are never late."""

DAY_MS = 24 * 60 * 60 * 1000
"""A worker that does not fetch for so long would leave the group: while its tables are read, or the broker takes no
output. One that hangs is found otherwise: heartbeats come from the same loop."""


class Active:
    """The partitions that may be read, asked for anew each time; also when there are none.

    aiokafka takes an empty set for "all". Faust's set is empty for a moment in each rebalance.
    """

    __slots__ = ("_live",)

    def __init__(self, live: Container[Any]) -> None:
        self._live = live

    def __bool__(self) -> bool:
        return True

    def __contains__(self, tp: object) -> bool:
        return tp in self._live


class LoopThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """What Faust calls its consumer thread, on the loop of its caller."""

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        kwargs.pop("loop", None)
        super().__init__(consumer, loop=consumer.loop, thread_loop=consumer.loop, **kwargs)

    async def start(self) -> None:
        self._thread_started.set()
        await self._default_start()

    async def on_start(self) -> None:
        await super().on_start()
        self.app.engine.lease.note(self._ensure_consumer()._coordinator)

    async def stop(self) -> None:
        if self._started.is_set() and not self._stopped.is_set():
            self._stopped.set()
            await self.on_thread_stop()
            await self._default_stop_children()
            self._shutdown.set()
            await self._default_stop_futures()
            await self._default_stop_exit_stacks()

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    async def cast_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> None:
        await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        engine = self.app.engine
        engine.lease.renew()  # the group has answered just now; its heartbeats begin later
        engine.assigned(generation_id, partitions(assigned))
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    async def crash(self, exc: BaseException) -> None:
        await self.app.crash(exc)

    def close(self) -> None:
        """Called by Faust when partitions arrive while stopping; `stop` closes the consumer."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's detector compares acknowledgements that it no longer sees."""

    def _create_consumer(self, loop: Any) -> AIOKafkaConsumer:
        engine = self.app.engine
        self._assignor = self.app.assignor
        return AIOKafkaConsumer(
            bootstrap_servers=engine.config.bootstrap,
            group_id=self.app.conf.id,
            client_id=f"{self.app.conf.id}-worker",
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=500,
            request_timeout_ms=40_000,
            session_timeout_ms=int(engine.config.session_timeout * 1000),
            heartbeat_interval_ms=int(engine.config.session_timeout * 1000 / 10),
            rebalance_timeout_ms=60_000,
            max_poll_interval_ms=DAY_MS,
            metadata_max_age_ms=30_000,
            **client_arguments(engine.config.security),
        )

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        found: Mapping[TP, list[Any]] = await super()._fetch_records(
            consumer, Active(active_partitions), timeout=timeout, max_records=BATCH_RECORDS
        )
        return found


class Unkept(dict[TP, Any]):
    """Where Faust's compiled stream notes what it acknowledges, past `Consumer.ack`: only its own commit, which is not
    used here, would ever take it out again, 0.1 kB a batch."""

    def __init__(self, empty: Callable[[], Any]) -> None:
        self._empty = empty

    def __missing__(self, tp: TP) -> Any:
        return self._empty()


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Reads from the committed offsets on, exactly.

    Faust seeks there when recovery has ended, while its fetcher is at work already. What that fetches before the seek
    would come twice; and what it fetched for the last generation and hands over in this one would skip what lies
    between, for good. So only the fetching task seeks, and what was fetched across a seek or a rebalance is dropped
    and read again.
    """

    _seek_due = False
    _fetch_at = 0.0
    """By the loop's clock: not to be fetched before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked, self._acked_index = Unkept(list), Unkept(set)

    def _new_consumer_thread(self) -> LoopThread:
        return LoopThread(self, loop=self.loop, beacon=self.beacon)

    def perform_seek(self) -> Awaitable[None]:
        """Have the fetching task seek. Takes effect with the call, not with its first await."""
        self._seek_due = True
        return asyncio.sleep(0)

    async def _seek(self) -> None:
        """Go to where the group has committed, or to the beginning."""
        consumer = self._thread._ensure_consumer()
        self._seek_due = False
        try:
            for tp in consumer.assignment():
                offset = await consumer.committed(tp)
                consumer.seek(tp, offset or 0)
                self._read_offset[TP(*tp)] = offset  # Faust drops what lies before
        except IllegalStateError:  # rebalanced meanwhile
            self._seek_due = True

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield one message per partition that has records.

        A stream that keeps up is fetched from once per `Leg.pace` at most: each fetch costs 1 ms of CPU, however little
        it brings.
        """
        if (pause := self._fetch_at - self.loop.time()) > 0:
            await asyncio.sleep(pause)
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        if self._seek_due and not self.should_stop:
            await self._seek()
        began = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        if sum(map(len, records.values())) < BATCH_RECORDS:
            self._fetch_at = self.loop.time() + self.app.engine.leg.pace
        generation = self.app.consumer_generation_id
        for tp, batch in records.items():
            if not self.flow_active or generation != self.app.consumer_generation_id:
                self._seek_due = True
                break
            if self._seek_due or began != generation:
                self._seek_due = True
                continue
            if active is None or tp in active:
                last = batch[-1]
                yield (
                    tp,
                    ConsumerMessage(
                        tp.topic,
                        tp.partition,
                        last.offset,
                        last.timestamp / 1000,
                        0,
                        [],
                        None,
                        batch,
                        None,
                        tp=TP(tp.topic, tp.partition),
                        generation_id=generation,
                    ),
                )

    def ack(self, message: ConsumerMessage) -> bool:
        """Faust's acknowledgement, which also comes on exceptions and cancellation: means nothing here."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust would remember each batch as a gap between offsets."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        return False

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit next offsets to the group. False: the group is rebalancing or the broker away; try again later."""
        consumer = self._thread._ensure_consumer()
        mine = consumer.assignment()
        wanted = {KafkaTP(*tp): OffsetAndMetadata(o, "") for tp, o in offsets.items() if KafkaTP(*tp) in mine}
        if not wanted:
            return False
        try:
            await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as e:
            if not e.retriable:
                raise
            return False
        return True

    async def committed_offsets(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offsets that the group has committed, 0 without; nothing while the broker does not answer."""
        consumer = self._thread._ensure_consumer()
        try:
            found = {tp: await consumer.committed(KafkaTP(*tp)) for tp in tps}
        except (IllegalStateError, KafkaError):
            return {}
        return {tp: offset or 0 for tp, offset in found.items()}

    async def ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offsets to be written, as the broker says now; none while it does not answer."""
        consumer = self._thread._ensure_consumer()
        try:
            found = await consumer.end_offsets([KafkaTP(*tp) for tp in tps])
        except KafkaError:
            return {}
        return {TopicPartition(*tp): offset for tp, offset in found.items()}

    def high_water(self, tp: TopicPartition) -> int | None:
        """The next offset to be written at the broker, as of the last fetch."""
        consumer = self._thread._ensure_consumer()
        try:
            found: int | None = consumer.highwater(KafkaTP(*tp))
        except (IllegalStateError, AssertionError):
            return None
        return found


class Producer(driver.Producer):  # type: ignore[misc]
    """Faust's producer, by which nothing is ever sent (`output.Output` writes): it opens no connection."""

    async def on_start(self) -> None:
        pass

    async def on_stop(self) -> None:
        pass


class Transport(driver.Transport):  # type: ignore[misc]
    Consumer = Consumer
    Producer = Producer


def partitions(tps: Iterable[TP]) -> set[TopicPartition]:
    return {TopicPartition(tp.topic, tp.partition) for tp in tps}
