"""How the engine hands batches over, and what it does when that fails. What needs a broker: tests/integration.

Mutations seen red: the note is cleared before `on_batch`; an exception clears it; known errors are deaths; struck when
durable, or before the commit succeeded, or never; a leg that cannot reject skips the record; a failed leg begins a
checkpoint; batches, or ticks, before all legs may go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import Corrupt, Fatal, Transient
from pipeline.events import RawRecord, SourceBatch
from pipeline.ports import STATE, Effects, PartitionLeg, Table
from pipeline.telemetry.metrics import PrometheusMetrics
from pipeline.worker.book import TopicPartition
from pipeline.worker.engine import EngineConfig, LegEngine
from pipeline.worker.journal import Journal

TOPIC = "events.raw"
AT = TopicPartition(TOPIC, 0)
IDS = {TOPIC: "id-1"}


class Part:
    """Takes batches in, and says when; `on_batch` may be told to fail."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int]] = []
        self.fails: Callable[[SourceBatch], None] = lambda _: None

    def on_batch(self, batch: SourceBatch) -> None:
        self.fails(batch)
        self.taken.append((batch.records[0].offset, batch.records[-1].offset))

    def on_tick(self, now: int, caught_up: bool) -> None:
        self.taken.append((-1, -1))

    def drain(self) -> Effects:
        return Effects((STATE,))


class RejectingPart(Part):
    def __init__(self) -> None:
        super().__init__()
        self.rejected: list[int] = []

    def on_crashed(self, batch: SourceBatch) -> None:
        self.rejected += [r.offset for r in batch.records]


class Leg:
    name = "some"
    pace = 0.0
    stretch = 1
    sources = (TOPIC,)
    tables = ()

    def open(self, partition: int, tables: dict[str, Table]) -> PartitionLeg:
        return Part()

    def check(self, table: str, key: bytes, value: bytes) -> None:
        pass


def batch(first: int, last: int) -> SourceBatch:
    return SourceBatch(TOPIC, "id-1", 0, [RawRecord(o, 0, None, None) for o in range(first, last + 1)])


class Life:
    """One life of a worker on a state directory."""

    def __init__(self, directory: Path) -> None:
        self.journal = Journal(directory)
        config = EngineConfig(bootstrap="127.0.0.1:1", state_dir=str(directory), tick_seconds=0.01)
        self.engine = LegEngine(Leg(), config, PrometheusMetrics(), IDS, self.journal)
        self.committed: list[dict[TopicPartition, int]] = []
        self.commits = True
        self.engine.app.consumer = SimpleNamespace(
            commit_offsets=self._commit, consumer_generation_id=0, assignment=set
        )

    async def _commit(self, offsets: dict[TopicPartition, int]) -> bool:
        self.committed.append(offsets)
        return self.commits

    def end(self) -> None:
        self.journal.close()

    def hand_over(self, part: Part, first: int, last: int) -> None:
        self.engine._hand_over(part, TOPIC, batch(first, last))


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Callable[[], Life]]:
    made: list[Life] = []

    def begin() -> Life:
        if made:
            made[-1].end()
        made.append(Life(tmp_path))
        return made[-1]

    yield begin
    made[-1].end()


def boom(at: int, error: BaseException) -> Callable[[SourceBatch], None]:
    def fails(batch: SourceBatch) -> None:
        if batch.records[0].offset <= at <= batch.records[-1].offset:
            raise error

    return fails


async def dies(life: Callable[[], Life], at: int, part: Part, error: BaseException | None = None) -> Life:
    now = life()
    part.fails = boom(at, error or RuntimeError("not expected"))
    with pytest.raises(type(error or RuntimeError())):
        now.hand_over(part, 0, 199)
    return now


async def test_an_exception_that_nobody_expects_is_a_death_and_three_reject_one_record(
    life: Callable[[], Life],
) -> None:
    for deaths in (1, 2, 3):
        await dies(life, 70, RejectingPart())
        assert [s.deaths for s in life().journal.suspects] == [deaths]
    part = RejectingPart()
    part.fails = boom(70, RuntimeError("not touched"))
    life().hand_over(part, 0, 199)
    assert part.rejected == [70]
    assert part.taken == [(0, 69), (71, 199)]


async def test_the_pieces_before_the_one_that_kills_were_taken_in_and_none_after_it(life: Callable[[], Life]) -> None:
    await dies(life, 70, Part())
    part = Part()
    await dies(life, 70, part)
    assert part.taken == [(0, 63)]


@pytest.mark.parametrize("error", [Corrupt("state"), Transient("away"), Fatal("ours")])
async def test_what_is_not_the_records_fault_is_no_death(life: Callable[[], Life], error: Exception) -> None:
    part, now = Part(), life()
    part.fails = boom(5, error)
    with pytest.raises(type(error), match=str(error)):
        now.hand_over(part, 0, 9)
    assert life().journal.suspects == ()


async def test_corrupt_state_is_said_with_leg_and_partition(life: Callable[[], Life]) -> None:
    part = Part()
    part.fails = boom(5, Corrupt("a row of the table such does not read back"))
    with pytest.raises(Corrupt, match="the some leg, partition 0: a row of the table such"):
        life().hand_over(part, 0, 9)


async def test_a_leg_that_cannot_reject_refuses_untouched_each_time_and_names_the_record(
    life: Callable[[], Life],
) -> None:
    for _ in range(3):
        await dies(life, 70, Part())
    for _ in range(2):
        part = Part()
        with pytest.raises(Fatal, match=r"3 times at work on the record at events\.raw, partition 0, offset 70"):
            life().hand_over(part, 0, 199)
        assert part.taken == [(0, 69)]
    assert [s.deaths for s in life().journal.suspects] == [3]


async def test_suspects_are_struck_when_committed_and_not_when_durable_or_refused(life: Callable[[], Life]) -> None:
    await dies(life, 70, Part())
    now = life()
    now.hand_over(Part(), 0, 199)
    now.engine.book.note(AT, 0, 199)
    assert now.journal.suspects
    await now.engine._write([], [], now.engine.book.mark(), 200)  # all of it is durable
    assert now.journal.suspects
    now.commits = False
    await now.engine._commit()
    assert now.journal.suspects
    now.commits = True
    await now.engine._commit()
    assert now.committed == [{AT: 200}] * 2
    assert now.journal.suspects == ()
    assert life().journal.suspects == ()


async def test_a_failed_leg_begins_no_checkpoint(life: Callable[[], Life]) -> None:
    """It would make half a batch durable."""
    engine = life().engine
    begun: list[int] = []

    def begin() -> None:
        begun.append(engine._taken)
        engine._taken = 0

    engine._begin = begin  # type: ignore[method-assign]
    engine._taken = 5
    engine.fail(RuntimeError("not expected"))
    engine._wake.set()
    checkpoints = asyncio.ensure_future(engine._checkpoints())
    await asyncio.sleep(0.05)
    checkpoints.cancel()
    assert not begun


async def test_nothing_is_taken_in_and_no_tick_comes_before_all_may_go(life: Callable[[], Life]) -> None:
    engine, part = life().engine, Part()
    engine._parts[0], engine._accepting = part, True
    records = [RawRecord(0, 0, None, None)]
    message = SimpleNamespace(generation_id=0, topic=TOPIC, partition=0, value=records)
    engine.app.consumer_generation_id = 0
    tasks = [asyncio.ensure_future(engine._take(message)), asyncio.ensure_future(engine._ticks())]
    await asyncio.sleep(0.05)
    assert not part.taken
    engine.go.set()
    await tasks[0]
    assert (0, 0) in part.taken
    tasks[1].cancel()
