"""How the engine hands batches over, and what it does when that fails. What needs a broker: tests/integration.

Mutations seen red: the note is cleared before `on_batch`; an exception clears it; known errors are deaths; struck when
durable, or before the commit succeeded, or never; a leg that cannot reject skips the record; a failed leg begins a
checkpoint; batches, or ticks, before all legs may go; rows of partitions that went stay, or those of partitions that
stayed are read again; an assignment that was overtaken is served, or opened, or read to its end; it is read without a
claim; who lost the lease drains, or keeps rows; a leg that cannot open is not failed; a leg is told of a commit that
was refused, or not of one that was not; not after it was opened, or for ever; not again when the broker was away;
outputs that nobody waits for, or that only a checkpoint sends; no end of them, or of a checkpoint, while there is lag.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.adapters.topic_specs import CLAIM, is_claim
from pipeline.errors import Corrupt, Fatal, Transient
from pipeline.events import RawRecord, SourceBatch
from pipeline.ports import STATE, Effects, Out, PartitionLeg, Table
from pipeline.telemetry.metrics import PrometheusMetrics
from pipeline.worker.book import TopicPartition
from pipeline.worker.engine import STRETCH_SECONDS, EngineConfig, LegEngine
from pipeline.worker.journal import Journal
from pipeline.worker.output import Placed
from pipeline.worker.records import Written

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

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        pass

    def drain(self) -> Effects:
        return Effects((STATE,))


class RejectingPart(Part):
    def __init__(self) -> None:
        super().__init__()
        self.rejected: list[int] = []

    def on_crashed(self, batch: SourceBatch) -> None:
        self.rejected += [r.offset for r in batch.records]


class ToldPart(Part):
    """Is told what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str, int]] = []

    def on_committed(self, topic: str, incarnation: str, offset: int) -> None:
        self.told.append((topic, incarnation, offset))


class Leg:
    name = "some"
    pace = 0.0
    stretch = 1
    sources = (TOPIC,)
    tables: tuple[str, ...] = ()

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


async def test_a_leg_is_told_of_what_was_committed_and_not_of_what_was_refused(life: Callable[[], Life]) -> None:
    now, part = life(), ToldPart()
    now.engine._parts = {0: part, 1: Part()}
    for number in (0, 1):
        now.engine.book.note(TopicPartition(TOPIC, number), 0, 199)
    await now.engine._write([], [], now.engine.book.mark(), 400)
    now.commits = False
    await now.engine._commit()
    assert part.told == []
    now.commits = True
    await now.engine._commit()
    assert part.told == [(TOPIC, "id-1", 200)]
    await now.engine._commit()
    assert len(part.told) == 1


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


# -- output that need not wait ----------------------------------------------------------------------------------------


class StreamedPart(Part):
    """Each record has an output that need not wait, and each key, of four, one that must."""

    def __init__(self) -> None:
        super().__init__()
        self.outs: list[Out] = []
        self.rows: set[int] = set()

    def on_batch(self, batch: SourceBatch) -> None:
        super().on_batch(batch)
        self.outs += [Out(b"%d" % r.offset, b"", 0) for r in batch.records]
        self.rows |= {r.offset % 4 for r in batch.records}

    def outputs(self) -> dict[str, list[Out]]:
        outs, self.outs = self.outs, []
        return {"out": outs}

    def held(self) -> int:
        return len(self.rows)

    def drain(self) -> Effects:
        rows, self.rows = self.rows, set()
        return Effects((self.outputs(), {"rows": [Out(b"%d" % row, b"", 0) for row in sorted(rows)]}))


class Sink:
    """`Output` to the engine: notes what was written, once `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.written: list[tuple[str, int]] = []

    async def write(self, records: Mapping[str, Sequence[Out]]) -> None:
        await self.open.wait()
        self.written += [(topic, len(outs)) for topic, outs in records.items()]


class Stretched(Leg):
    stretch = 2


class Streaming:
    """An engine that holds at most four things, and sends outputs by two records."""

    def __init__(self, directory: Path, journal: Journal) -> None:
        config = EngineConfig(
            bootstrap="127.0.0.1:1", state_dir=str(directory), checkpoint_records=2, tick_seconds=0.01
        )
        self.engine = LegEngine(Stretched(), config, PrometheusMetrics(), IDS, journal)
        self.sink, self.part, self.taken = Sink(), StreamedPart(), 0
        self.end = 0
        """Of the log; what lies between is lag."""
        self.engine._output = self.sink  # type: ignore[assignment]
        self.engine._parts[0], self.engine._accepting = self.part, True
        self.engine.app.consumer = SimpleNamespace(
            consumer_generation_id=0, assignment=lambda: [AT], high_water=lambda _: self.end, ends=self._ends
        )
        self.engine.go.set()

    async def _ends(self, _: object) -> dict[TopicPartition, int]:
        return {}

    def take(self, step: int = 4) -> asyncio.Future[None]:
        """A batch of two records, whose offsets are `step` apart."""
        offsets = range(self.taken, self.taken + 2 * step, step)
        self.taken = offsets[-1] + step
        records = [RawRecord(offset, 0, None, None) for offset in offsets]
        message = SimpleNamespace(generation_id=0, topic=TOPIC, partition=0, value=records)
        return asyncio.ensure_future(self.engine._take(message))

    async def settled(self) -> None:
        if self.engine._flush is not None:
            await asyncio.wait({self.engine._flush})

    @property
    def acknowledged(self) -> int:
        return self.engine.book.to_commit().get(AT, 0)


@pytest.fixture
async def streaming(tmp_path: Path) -> AsyncIterator[Streaming]:
    with Journal(tmp_path) as journal:
        yield Streaming(tmp_path, journal)


async def test_outputs_leave_while_the_rows_of_few_keys_take_in_more(streaming: Streaming) -> None:
    for _ in range(5):  # of one key
        await streaming.take()
        await streaming.settled()
    assert streaming.sink.written == [("out", 2)] * 5
    assert streaming.acknowledged == 0
    await streaming.take(step=1)
    await streaming.take(step=1)
    await streaming.settled()
    assert streaming.sink.written[-1] == ("rows", 4), "full"
    assert sum(n for topic, n in streaming.sink.written if topic == "out") == 14
    assert streaming.acknowledged == streaming.taken


async def test_nothing_is_acknowledged_before_the_outputs_that_left_are_durable(streaming: Streaming) -> None:
    streaming.sink.open.clear()
    await streaming.take(step=1)
    assert streaming.engine._flush is not None
    full = streaming.take(step=1)
    await asyncio.sleep(0.01)
    assert not full.done(), "what is full waits for what is being sent"
    streaming.sink.open.set()
    await full
    await streaming.settled()
    assert streaming.sink.written == [("out", 2), ("out", 2), ("rows", 4)]
    assert streaming.acknowledged == 4


async def test_the_stream_waits_while_too_much_output_is_unsent(streaming: Streaming) -> None:
    streaming.sink.open.clear()
    await streaming.take()
    await streaming.take()
    waiting = streaming.take()
    await asyncio.sleep(0.01)
    assert not waiting.done()
    streaming.sink.open.set()
    await waiting
    await streaming.settled()
    assert streaming.sink.written == [("out", 2), ("out", 4)]


async def test_output_that_fails_is_our_failure(streaming: Streaming) -> None:
    async def refused(records: object) -> None:
        raise Fatal("the broker refused output")

    streaming.sink.write = refused  # type: ignore[method-assign]
    await streaming.take()
    await streaming.settled()
    assert isinstance(streaming.engine.failed.result(), Fatal)
    assert streaming.acknowledged == 0


@pytest.mark.parametrize("began", [0.0, -STRETCH_SECONDS])
async def test_a_lagging_legs_tick_leaves_its_checkpoint_open_for_a_while(streaming: Streaming, began: float) -> None:
    streaming.end = 1000
    await streaming.take()
    await streaming.settled()
    streaming.engine._taken_at += began
    ticks = asyncio.ensure_future(streaming.engine._ticks())
    await asyncio.sleep(0.1)
    assert (streaming.acknowledged > 0) == (began < 0)
    streaming.end = 0
    await asyncio.sleep(0.1)
    ticks.cancel()
    assert streaming.acknowledged == streaming.taken - 3, "the log's last record is its fifth"


# -- what it was given ------------------------------------------------------------------------------------------------


class Changelog:
    """The one table's changelog, at the broker: by partition, and what `Output` is to the engine."""

    def __init__(self) -> None:
        self.producer_id = 7
        self.restarted = 0
        self.logs: dict[int, list[Written]] = {}
        self.reads: list[dict[int, tuple[int, int]]] = []
        self.handed_over = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Happens once, between two records that are read."""

    def append(self, partition: int, key: bytes, value: bytes | None, writer: int) -> int:
        log = self.logs.setdefault(partition, [])
        log.append(Written(len(log), 0, key, value, writer))
        return log[-1].offset

    async def write_to(self, batches: Sequence[tuple[str, int, Sequence[Out]]]) -> list[list[Placed]]:
        return [
            [Placed(self.append(partition, out.key, out.value, self.producer_id), 1) for out in outs]
            for _, partition, outs in batches
        ]

    async def read(
        self, spans: Mapping[TopicPartition, tuple[int, int]]
    ) -> AsyncGenerator[tuple[TopicPartition, list[Written]], None]:
        self.reads.append({tp.partition: span for tp, span in spans.items()})
        for tp, (start, end) in spans.items():
            for record in self.logs[tp.partition][start:end]:
                self.handed_over += 1
                yield tp, [record]
                if self.meanwhile is not None:
                    meanwhile, self.meanwhile = self.meanwhile, None
                    await meanwhile()

    async def start(self) -> None:
        self.restarted += 1
        self.producer_id += 1

    async def stop(self) -> None:
        pass

    def claimed_by(self, partition: int) -> list[int]:
        return [r.producer_id for r in self.logs.get(partition, []) if r.key is not None and is_claim(r.key)]


class Tabled(Leg):
    tables = ("rows",)


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[LegEngine]:
    with Journal(tmp_path) as journal:
        config = EngineConfig(bootstrap="127.0.0.1:1", state_dir=str(tmp_path))
        engine = LegEngine(Tabled(), config, PrometheusMetrics(), IDS, journal)
        engine.lease.renew()
        engine._output = changelog = Changelog()  # type: ignore[assignment]
        engine._read = changelog.read  # type: ignore[method-assign]
        engine.app.consumer = SimpleNamespace(commit_offsets=None, assignment=set)
        yield engine


def changelog_of(engine: LegEngine) -> Changelog:
    assert isinstance(engine._output, Changelog)
    return engine._output


def rows_of(engine: LegEngine) -> dict[int, dict[bytes, bytes]]:
    return {number: table.rows for number, table in engine._tables["rows"].items()}


async def give(engine: LegEngine, generation: int, *numbers: int) -> bool:
    """As the group does at each rebalance: takes everything away, then assigns."""
    await engine._on_revoked(engine.app, set())
    engine.assigned(generation, [TopicPartition(TOPIC, number) for number in numbers])
    return await engine.recover(generation)


async def test_what_was_assigned_is_claimed_and_then_read(owner: LegEngine) -> None:
    changelog = changelog_of(owner)
    changelog.append(0, b"a", b"1", 1)
    changelog.append(1, b"b", b"2", 1)
    assert await give(owner, 1, 0, 1)
    assert rows_of(owner) == {0: {b"a": b"1"}, 1: {b"b": b"2"}}
    assert changelog.reads == [{0: (0, 1), 1: (0, 1)}]
    assert [changelog.claimed_by(p) for p in (0, 1)] == [[7], [7]]
    assert owner.opened.is_set()
    assert sorted(owner._parts) == [0, 1]


async def test_a_partition_that_was_opened_is_told_what_is_committed_as_soon_as_the_broker_says_it(
    owner: LegEngine,
) -> None:
    parts = {number: ToldPart() for number in (0, 1)}
    owner.leg.open = lambda partition, tables: parts[partition]  # type: ignore[method-assign]
    assert await give(owner, 1, 0, 1)
    away = True

    async def committed(tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {} if away else {tp: 5 + tp.partition for tp in tps}

    owner.app.consumer.committed_offsets = committed
    await owner._tell_untold()
    assert [part.told for part in parts.values()] == [[], []]
    away = False
    for _ in range(2):
        await owner._tell_untold()
        assert [part.told for part in parts.values()] == [[(TOPIC, "id-1", 5)], [(TOPIC, "id-1", 6)]]


async def test_an_assignment_that_was_overtaken_claims_nothing(owner: LegEngine) -> None:
    owner.assigned(1, [TopicPartition(TOPIC, 0)])
    owner.assigned(2, [TopicPartition(TOPIC, 1)])
    assert not await owner.recover(1)
    assert not changelog_of(owner).logs
    assert await owner.recover(2)
    await owner._on_revoked(owner.app, set())
    assert not await owner.recover(2)
    assert changelog_of(owner).claimed_by(0) == []
    assert not owner._accepting


async def test_what_is_taken_away_while_it_is_read_is_not_opened_and_read_on_later(owner: LegEngine) -> None:
    changelog = changelog_of(owner)
    for i in range(4):
        changelog.append(0, b"%d" % i, b"1", 1)

    async def revoked() -> None:
        await owner._on_revoked(owner.app, set())

    changelog.meanwhile = revoked
    assert not await give(owner, 1, 0)
    assert changelog.handed_over == 2, "the rest is not waited for"
    assert not owner._accepting
    assert not owner._parts
    assert not owner.failed.done()
    changelog.append(0, b"3", b"9", 1)  # after our claim: counts for nothing
    assert await give(owner, 2, 0)
    assert rows_of(owner) == {0: {b"%d" % i: b"1" for i in range(4)}}


async def test_rows_stay_where_the_partition_stays_and_go_with_it(owner: LegEngine) -> None:
    changelog = changelog_of(owner)
    changelog.append(0, b"a", b"1", 1)
    changelog.append(1, b"b", b"1", 1)
    assert await give(owner, 1, 0, 1)
    changelog.append(0, b"a", b"2", 5)  # of an earlier owner, late: counts for nothing
    assert await give(owner, 2, 0)
    assert changelog.reads[1] == {0: (2, 3)}, "nothing is read that stayed"
    claim(changelog, 1, 9)
    changelog.append(1, b"b", b"2", 9)
    changelog.append(1, b"b", b"3", 7)  # of this worker, late
    assert await give(owner, 3, 0, 1)
    assert changelog.reads[2][1] == (0, 5), "what another one had meanwhile is read anew"
    assert rows_of(owner) == {0: {b"a": b"1"}, 1: {b"b": b"2"}}


async def test_who_was_out_of_the_group_reads_everything_anew_as_another_writer(owner: LegEngine) -> None:
    changelog = changelog_of(owner)
    changelog.append(0, b"a", b"1", 1)
    assert await give(owner, 1, 0)
    owner._tables["rows"][0].put(b"a", b"never acknowledged")
    owner.lease._until = 0
    await owner._on_revoked(owner.app, set())
    assert changelog.restarted == 1
    owner.lease.renew()
    assert await give(owner, 2, 0)
    assert changelog.reads[1] == {0: (0, 2)}
    assert rows_of(owner) == {0: {b"a": b"1"}}
    assert changelog.claimed_by(0) == [7, 8]


async def test_a_row_that_cannot_be_read_fails_the_leg_unless_it_was_taken_away_meanwhile(owner: LegEngine) -> None:
    def corrupt(partition: int, tables: dict[str, Table]) -> PartitionLeg:
        raise Corrupt("a row")

    owner.leg.open = corrupt  # type: ignore[method-assign]
    assert not await give(owner, 1, 0)
    assert isinstance(owner.failed.result(), Corrupt)


def claim(changelog: Changelog, partition: int, writer: int) -> None:
    changelog.append(partition, CLAIM + b"%d" % writer, b"claim", writer)
