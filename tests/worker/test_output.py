"""Output: every record of a batch on its partition, in order, and no failure unnoticed.

Mutations seen red: a failed batch's exception is dropped; the first future is awaited only; records that did not fit
into a batch are dropped.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from pipeline.errors import Fatal
from pipeline.ports import Out
from pipeline.worker import output
from pipeline.worker.output import Output


class Accumulator:
    """aiokafka's: takes batches, and answers with what the test gives, else with offsets as the batches came."""

    def __init__(self, *answers: BaseException | None) -> None:
        self.batches: list[tuple[TopicPartition, Any]] = []
        self._answers = list(answers)
        self._end = 0

    async def add_batch(self, batch: Any, tp: TopicPartition, timeout: float) -> asyncio.Future[Any]:
        self.batches.append((tp, batch))
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer = self._answers.pop(0) if self._answers else None
        at, self._end = SimpleNamespace(offset=self._end), self._end + batch.record_count()
        asyncio.get_running_loop().call_later(
            0.01, *((done.set_result, at) if answer is None else (done.set_exception, answer))
        )
        return done


class Producer:
    def __init__(self, accumulator: Accumulator, partitions: int) -> None:
        self._message_accumulator = accumulator
        self._partitions = partitions

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(self._partitions))


def writing(accumulator: Accumulator, partitions: int = 3) -> Output:
    made = Output("127.0.0.1:1", {}, "test")
    made._producer = Producer(accumulator, partitions)
    return made


async def test_each_record_goes_where_its_key_belongs_and_a_partition_keeps_the_order() -> None:
    accumulator = Accumulator()
    outs = [Out(b"k%d" % (i % 5), b"v%d" % i, 1_000 + i) for i in range(40)]
    await writing(accumulator).write({"t": outs})
    assert len(accumulator.batches) == len({tp for tp, _ in accumulator.batches})
    counts = {tp.partition: batch.record_count() for tp, batch in accumulator.batches}
    wanted: dict[int, int] = {}
    for out in outs:
        partition = (murmur2(out.key) & 0x7FFFFFFF) % 3
        wanted[partition] = wanted.get(partition, 0) + 1
    assert counts == wanted


async def test_more_than_a_batch_holds_goes_into_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "BATCH_BYTES", 2_000)
    accumulator = Accumulator()
    ten = [Out(b"k", bytes(500), 0)] * 10
    first, second = await writing(accumulator, 1).write_to([("t", 0, ten), ("t", 0, ten[:1])])
    assert len(accumulator.batches) > 2
    assert [at for at, _ in first] == [sum(n for _, n in first[:i]) for i in range(len(first))]
    assert second == [(10, 1)]
    assert sum(batch.record_count() for _, batch in accumulator.batches) == 11


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_one_failed_batch_among_others_is_our_failure(failing: int) -> None:
    answers: list[BaseException | None] = [None, None, None]
    answers[failing] = MessageSizeTooLargeError()
    with pytest.raises(Fatal, match="the broker refused output: MessageSizeTooLargeError"):
        await writing(Accumulator(*answers)).write_to([("t", p, [Out(b"k", b"v", 0)]) for p in range(3)])


async def test_a_write_ends_when_all_its_batches_have_been_answered() -> None:
    accumulator = Accumulator(KafkaTimeoutError())
    with pytest.raises(Fatal):
        await writing(accumulator).write_to([("t", p, [Out(b"k", b"v", 0)]) for p in range(3)])
    assert len(accumulator.batches) == 3
