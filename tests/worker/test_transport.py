"""What the consumer hands over, and where it reads on, around a seek and a rebalance.

Mutations seen red: batches of an old generation are handed over; the seek is forgotten when
it fails; what was fetched before a due seek is handed over; a batch after the flow was stopped is handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from aiokafka.structs import TopicPartition as KafkaTP
from faust.types import TP

from pipeline.events import RawRecord
from pipeline.worker.transport import Active, Consumer

RAW, OTHER = TP("raw", 0), TP("raw", 1)


class Broker:
    """What aiokafka's consumer is asked for a seek."""

    def __init__(self, committed: dict[KafkaTP, int | None]) -> None:
        self._committed = committed
        self.at: dict[KafkaTP, int] = {}
        self.unassigned = False

    def assignment(self) -> set[KafkaTP]:
        return set(self._committed)

    async def committed(self, tp: KafkaTP) -> int | None:
        return self._committed[tp]

    def seek(self, tp: KafkaTP, offset: int) -> None:
        if self.unassigned:
            raise IllegalStateError("not assigned")
        self.at[tp] = offset


class Fetching(Consumer):
    """The consumer with fetches made by hand: `fetched(tp, …)` returns them, `meanwhile` happens during the fetch."""

    def __init__(self, *tps: TP, meanwhile: Callable[[Fetching], None] = lambda _: None) -> None:
        self.broker = Broker({KafkaTP(*RAW): 7, KafkaTP(*OTHER): None})
        self._thread = SimpleNamespace(_ensure_consumer=lambda: self.broker)
        engine = SimpleNamespace(leg=SimpleNamespace(pace=0.05))
        self.app = SimpleNamespace(consumer_generation_id=1, engine=engine)
        self.flow_active = True
        self._read_offset: dict[TP, int | None] = {}
        self._tps, self._meanwhile = tps, meanwhile

    @property
    def loop(self) -> Any:
        return asyncio.get_running_loop()

    @property
    def should_stop(self) -> bool:
        return False

    async def _wait_next_records(self, timeout: float) -> tuple[dict[TP, list[RawRecord]], None]:
        self._meanwhile(self)
        return {tp: [RawRecord(5, 0, None, None), RawRecord(6, 0, None, None)] for tp in self._tps}, None

    async def handed_over(self) -> list[TP]:
        return [tp async for tp, _ in self.getmany(1.0)]


def rebalance(consumer: Fetching) -> None:
    consumer.app.consumer_generation_id += 1


async def test_a_partitions_fetch_is_one_message_that_holds_the_records() -> None:
    consumer = Fetching(RAW)
    ((tp, message),) = [found async for found in consumer.getmany(1.0)]
    assert (tp, message.offset, [r.offset for r in message.value]) == (RAW, 6, [5, 6])
    assert message.generation_id == 1


async def test_what_was_fetched_across_a_rebalance_is_read_again() -> None:
    consumer = Fetching(RAW, OTHER, meanwhile=rebalance)
    assert await consumer.handed_over() == []
    consumer._meanwhile = lambda _: None
    assert await consumer.handed_over() == [RAW, OTHER]
    assert consumer.broker.at == {KafkaTP(*RAW): 7, KafkaTP(*OTHER): 0}, "sought before"
    assert consumer._read_offset == {RAW: 7, OTHER: None}


async def test_what_was_fetched_before_a_due_seek_is_read_again() -> None:
    consumer = Fetching(RAW, meanwhile=lambda c: c.perform_seek().close())  # type: ignore[attr-defined]
    assert await consumer.handed_over() == []
    assert consumer._seek_due


async def test_a_seek_that_a_rebalance_overtook_is_done_again() -> None:
    consumer = Fetching(RAW)
    consumer._seek_due = consumer.broker.unassigned = True
    assert await consumer.handed_over() == []
    consumer.broker.unassigned = False
    assert await consumer.handed_over() == [RAW]


@pytest.mark.parametrize("event", ["stopped", "rebalanced"])
async def test_nothing_is_handed_over_after_the_flow_was_stopped_or_the_group_rebalanced(event: str) -> None:
    consumer = Fetching(RAW, OTHER, TP("raw", 2))
    found = []
    async for tp, _ in consumer.getmany(1.0):
        found.append(tp)
        if event == "stopped":
            consumer.flow_active = False
        else:
            rebalance(consumer)
    assert found == [RAW]
    assert consumer._seek_due


async def test_a_stream_that_keeps_up_waits_for_its_legs_pace_before_the_next_fetch() -> None:
    fetched: list[float] = []
    consumer = Fetching(RAW, meanwhile=lambda c: fetched.append(c.loop.time()))
    for _ in range(3):
        await consumer.handed_over()
    assert all(later - before >= 0.05 for before, later in pairwise(fetched))


def test_no_active_partition_is_not_all_of_them() -> None:
    """aiokafka asks `if partitions and tp not in partitions`, and Faust's set changes while a fetch waits."""
    live = {RAW}
    active = Active(live)
    assert RAW in active
    live.clear()
    assert active
    assert RAW not in active
    live.add(OTHER)
    assert KafkaTP(*OTHER) in active
