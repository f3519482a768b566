"""One leg at work: batches in, checkpoints out, acknowledgement last.

Batches of every assigned partition are folded into memory at once. A *checkpoint* takes everything that they caused,
writes it phase by phase (`ports.Effects`), and moves the offset book when the last phase is durable. The next batches
are worked on while a checkpoint is being written; checkpoints are written one after another, in order. So a
checkpoint is small when the stream is idle (latency) and large when it lags (throughput), without waiting for either.

An exception from a leg is our fault: the engine stops, acknowledges nothing more, and the process ends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import faust
import msgspec
import structlog
from aiokafka.errors import KafkaError

from ..adapters.topic_specs import CLAIM, changelog_name, group_name, is_claim, is_row
from ..errors import Corrupt, Fatal, Misuse, SealstreamError, Transient
from ..events import SourceBatch
from ..ports import Acknowledged, Dependent, Effects, Leg, LegState, Metrics, Out, PartitionLeg, Rejecting, Streaming
from . import fencing
from .book import OffsetBook, TopicPartition
from .fencing import Fenced, Lease
from .journal import DEATHS, Journal
from .output import Output
from .records import Written
from .recovery import Assignment, Progress, TableManager
from .tables import PartitionTable
from .transport import Consumer, Transport

log = structlog.get_logger(__name__)

LOOK_TICKS = 10
"""A changelog is looked at for other writers' records once in so many ticks."""
STRETCH_SECONDS = 5.0
"""For so long a leg that lags may go on with a checkpoint (`Leg.stretch`): what a crash then repeats."""
Change = tuple[str, int, PartitionTable, list[Out]]
"""(table, partition number, its rows, what changed in them)."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine runs; `pipeline.settings` says the same with names and reasons for operators."""

    bootstrap: str
    security: Mapping[str, str] = {}
    """By librdkafka's names."""
    topic_prefix: str = ""
    """Put before every topic and group: several pipelines, or tests, on one broker."""
    group_prefix: str = "sealstream"
    state_dir: str = ".sealstream/state"
    partitions: int | None = None
    """How many every topic must have; None: as many as they have, if it is the same number."""
    session_timeout: float = 30.0
    """Seconds without a heartbeat after which the group takes a worker's partitions away."""
    compression: str = "none"
    """Of what is written: none, gzip, snappy, lz4 or zstd."""
    checkpoint_records: int = 10_000
    """At most so many records, × `Leg.stretch`, are taken in between two checkpoints, or as many rows and messages held
    where output need not wait (`ports.Streaming`): bounds memory and what a crash repeats."""
    checkpoint_seconds: float = 0.5
    """While records keep coming, a checkpoint begins at the latest after this time, unless more are waiting than may be
    taken in."""
    commit_seconds: float = 1.0
    drain_seconds: float = 9.0
    """How long a SIGTERM or a rebalance waits for the last checkpoint; then it is given up, unacknowledged."""
    tick_seconds: float = 1.0

    def __repr__(self) -> str:
        return f"EngineConfig({self.bootstrap}, …)"

    def group_of(self, leg: str) -> str:
        """The consumer group of a leg."""
        return group_name(leg, prefix=self.topic_prefix, group=self.group_prefix)

    def changelog_of(self, leg: str, table: str) -> str:
        return changelog_name(leg, table, prefix=self.topic_prefix, group=self.group_prefix)


class App(faust.App):  # type: ignore[misc]
    """A Faust application for one leg: its consumer group is the leg's, whichever legs share the process."""

    engine: LegEngine


class LegEngine:
    """Runs one leg until `stop`, or until `failed` is set."""

    def __init__(
        self,
        leg: Leg,
        config: EngineConfig,
        metrics: Metrics,
        incarnations: Mapping[str, str],
        journal: Journal,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.leg, self.config, self.metrics = leg, config, metrics
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.opened = asyncio.Event()
        """The tables were recovered and read back, for the first time."""
        self.go = asyncio.Event()
        """Set by the owner: work may begin."""
        self.book = OffsetBook()
        self._now = now
        self._incarnations = incarnations
        self._journal = journal.leg(leg.name, incarnations)
        self.lease = Lease(config.session_timeout)
        self._output = Output(
            config.bootstrap,
            config.security,
            config.group_of(leg.name),
            config.compression,
            may_send=lambda: self.lease.held,
        )
        self.sources = {config.topic_prefix + s: str(s) for s in leg.sources}  # name at the broker → in the pipeline
        self._parts: dict[int, PartitionLeg] = {}
        self._most_held = config.checkpoint_records * leg.stretch
        self._taken = 0  # records since the last checkpoint began
        self._unsent = 0  # and since output that need not wait for it was sent
        self._taken_at = 0.0
        self._lag = 0  # records that wait at the broker, as of the last tick
        self._latest = 0  # greatest record time seen, ms: the changelog's timestamps, so that they are no clock
        self._flush: asyncio.Task[None] | None = None
        self._accepting = False
        self._assigned: Assignment | None = None
        """None: taken away, and nothing given yet."""
        self._tables: dict[str, dict[int, PartitionTable]] = {name: {} for name in leg.tables}
        self._untold: set[TopicPartition] = set()
        """Of which a leg that was opened has not been told what is committed."""
        self._dependent = leg if isinstance(leg, Dependent) else None
        self.drained = False
        """It stops, and everything that was taken in is acknowledged."""
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.app = self._new_app()

    # -- Faust ---------------------------------------------------------------------------------------------------

    def _new_app(self) -> App:
        config, leg = self.config, self.leg
        datadir = Path(config.state_dir) / leg.name
        try:
            datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise Misuse(
                f"{datadir}: no directory can be made there ({e.strerror}); remove what stands there"
            ) from None
        app = App(
            config.group_of(leg.name),
            broker="kafka://" + config.bootstrap.replace(",", ";kafka://"),
            store="memory://",
            TableManager=TableManager,
            datadir=str(datadir),
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            consumer_auto_offset_reset="earliest",
            key_serializer="raw",
            value_serializer="raw",
            stream_buffer_maxsize=2,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
            table_standby_replicas=0,
            broker_request_timeout=40.0,
            broker_session_timeout=config.session_timeout,
            processing_guarantee="at_least_once",
        )
        app.engine = self
        app.transport = Transport(app.conf.broker_consumer, app, app.loop)
        topic = app.topic(*self.sources, key_serializer="raw", value_serializer="raw")
        app.agent(topic, concurrency=1, name=leg.name)(self._agent)
        app.on_partitions_revoked.connect(self._on_revoked)
        return app

    async def _agent(self, stream: Any) -> None:
        try:
            async for event in stream.events():
                await self._take(event.message)
        except asyncio.CancelledError:
            raise
        except BaseException as e:
            self.fail(e)
            await asyncio.Event().wait()  # Faust would restart the agent and go on with the next batch

    async def _on_revoked(self, app: App, revoked: set[Any], **_: Any) -> None:
        """Faust has paused the flow and cleared its queues: make what was taken in durable, commit, let go."""
        assigned, self._assigned = self._assigned, None
        accepting, self._accepting = self._accepting, False
        if assigned is not None and not self.lease.held:
            await self._abandon()
        elif accepting:
            await self.drain()
        self.metrics.state(self.leg.name, LegState.RECOVERING)

    def assigned(self, generation: int, partitions: Iterable[TopicPartition]) -> None:
        """The group has given this worker `partitions`; its tables keep their rows of those that stayed."""
        numbers = {tp.partition for tp in partitions}
        for parts in self._tables.values():
            for number in parts.keys() - numbers:
                del parts[number]
        self._assigned = Assignment(generation, tuple(sorted(numbers)))

    async def recover(self, generation: int) -> bool:
        """Read the tables of what was assigned, and open it. False: it was taken away meanwhile, or this leg failed.

        One at a time; what is read for an assignment that no longer stands is dropped with it.
        """
        now = self._assigned
        if now is None or now.generation != generation:
            return False
        self.book.forget()
        self._parts.clear()
        self._journal.look()
        try:
            await self._claim(now)
            if self._assigned is not now:
                return False
            for number in now.numbers:
                self._open(number)
            told = [number for number in now.numbers if isinstance(self._parts[number], Acknowledged)]
            self._untold = {TopicPartition(topic, number) for topic in self.sources for number in told}
        except Exception as e:  # a leg cannot read its own rows: Faust would log it and go on
            if self._assigned is now:
                self.fail(e)
            return False
        self._accepting = True
        self.opened.set()
        self.metrics.state(self.leg.name, LegState.RUNNING)
        log.info("partitions assigned", leg=self.leg.name, partitions=list(now.numbers))
        return True

    # -- who writes (see `fencing`) ------------------------------------------------------------------------------

    async def _claim(self, now: Assignment) -> None:
        """Make this worker the writer of its changelogs, and read what stands there up to that.

        Returns early if the assignment does not stand any more.
        """
        at = int(self._now() * 1000)
        writer = self._output.producer_id
        claim = Out(CLAIM + b"%d %d" % (writer, at), b"claim", at)
        tables = {
            TopicPartition(self._changelog(name), number): parts.setdefault(
                number, PartitionTable(partial(self.leg.check, name))
            )
            for name, parts in self._tables.items()
            for number in now.numbers
        }
        placed = await self._output.write_to([(tp.topic, tp.partition, [claim]) for tp in tables])
        ends = {tp: offset for tp, ((offset, _),) in zip(tables, placed, strict=True)}
        if min(ends.values(), default=0) < 0:
            raise Transient("the broker does not say where a claim stands; it will be made again")
        spans = {tp: (table.next_offset, ends[tp]) for tp, table in tables.items()}
        progress = Progress(self.leg.name, sum(end - start for start, end in spans.values()))
        async with aclosing(self._read(spans)) as found:
            async for tp, records in found:
                if self._assigned is not now:
                    return
                before = tables[tp].next_offset
                tables[tp].recover(records)
                progress.add(tables[tp].next_offset - before)
        for tp, table in tables.items():
            table.claimed(ends[tp] + 1, writer)

    async def _look(self, name: str, number: int, rows: PartitionTable, end: int) -> None:
        """See what others wrote to a changelog between own records, before offset `end`.

        Raises:
            Fenced: one of them has claimed it.
        """
        span = {TopicPartition(self._changelog(name), number): (rows.next_offset, end)}
        records = [r async for _, found in self._read(span) for r in found]
        others = [r for r in records if r.producer_id != self._output.producer_id]
        if any(r.key is not None and is_claim(r.key) for r in others):
            raise Fenced(f"another worker has taken over partition {number} of {self._changelog(name)}")
        if keys := {r.key for r in others if is_row(r.key)}:
            log.warning("a former owner wrote rows; they are written again", leg=self.leg.name, rows=len(keys))
            rows.write_again(keys)
            if (part := self._parts.get(number)) is not None:
                part.repeat(name, keys)

    async def _look_at_all(self) -> None:
        """Also where this worker has nothing to write."""
        rows = {
            TopicPartition(self._changelog(name), n): (name, n, r)
            for name, parts in self._tables.items()
            for n, r in parts.items()
        }
        ends = await self.app.consumer.ends(rows)
        if self._flush is not None or not self._accepting:
            return  # own records may be among them
        for tp, end in ends.items():
            name, number, found = rows[tp]
            if end > found.next_offset:
                await self._look(name, number, found, end)
                found.next_offset = max(found.next_offset, end)

    def _changelog(self, table: str) -> str:
        return self.config.changelog_of(self.leg.name, table)

    def _read(
        self, spans: Mapping[TopicPartition, tuple[int, int]]
    ) -> AsyncGenerator[tuple[TopicPartition, list[Written]], None]:
        return fencing.read(self.config.bootstrap, self.config.security, spans)

    async def _abandon(self) -> None:
        """Partitions were lost some time ago: forget what was taken in since the last acknowledgement, rows included.

        A new producer, since the old one may still hold batches; and everything is recovered from the changelogs.
        """
        log.warning("out of the group for longer than its session; what was in work is dropped", leg=self.leg.name)
        self._taken = self._unsent = 0
        self._parts.clear()
        for parts in self._tables.values():
            parts.clear()
        if self._flush is not None:
            self._flush.cancel()
            await asyncio.wait({self._flush})
        try:
            await self._output.stop()
            await self._output.start()
        except KafkaError as e:
            self.fail(Transient(f"the broker does not answer ({type(e).__name__})"))

    # -- batches -------------------------------------------------------------------------------------------------

    def _open(self, number: int) -> PartitionLeg:
        for name, parts in self._tables.items():
            if unreadable := parts[number].unreadable:
                changelog, offset = self.config.changelog_of(self.leg.name, name), min(unreadable.values())
                what = f"table {name}: what stands at offset {offset} of {changelog} does not read back as a row"
                raise self._corrupt(number, Corrupt(what))
        try:
            part = self.leg.open(number, {name: parts[number] for name, parts in self._tables.items()})
        except Corrupt as e:
            raise self._corrupt(number, e) from e
        self._parts[number] = part
        return part

    async def _take(self, message: Any) -> None:
        """Fold one batch; start a checkpoint when it is time; hold the stream while too much is underway."""
        await self.go.wait()
        await self._await_dependency()  # before the look at the generation: it may end meanwhile
        if not self._accepting or message.generation_id != self.app.consumer_generation_id:
            return  # of an old generation: its partitions were drained, and are read again from what was committed
        records = message.value
        tp = TopicPartition(message.topic, message.partition)
        part = self._parts.get(tp.partition)
        assert part is not None, f"a batch of {tp.topic}/{tp.partition}, which is not assigned"
        started, source = time.perf_counter(), self.sources[tp.topic]
        self.book.note(tp, records[0].offset, records[-1].offset)
        self._hand_over(
            part, tp.topic, SourceBatch(source, self._incarnations.get(tp.topic, ""), tp.partition, records)
        )
        self.metrics.batch(self.leg.name, source, len(records), time.perf_counter() - started)
        if not self._taken:
            self._taken_at = started
        self._taken += len(records)
        self._unsent += len(records)
        self._latest = max(self._latest, records[-1].timestamp)
        self._wake.set()
        await self._make_room()

    async def _make_room(self) -> None:
        """Write what there is too much of; wait while too much is underway."""
        some = self.config.checkpoint_records
        while self._taken >= some and not self.failed.done():
            streaming = [part for part in self._parts.values() if isinstance(part, Streaming)]
            held = sum(part.held() for part in streaming) if streaming else self._taken
            unsent = self._unsent if streaming else 0
            full = self._taken >= self._most_held <= held
            if self._flush is not None:
                if not full and unsent < 2 * some:
                    break
                await asyncio.wait({self._flush})
            elif full:
                self._begin()
            elif unsent >= some:
                self._send(streaming)
            else:
                break

    async def _await_dependency(self) -> None:
        """Wait while what the leg depends on is away: nothing is taken in, and nothing of it acknowledged."""
        name, waited = self.leg.name, False
        while self._dependent is not None and not self.failed.done():
            try:
                self._dependent.available()
                break
            except Transient as e:
                if not waited:
                    log.warning("the stream waits", leg=name, reason=str(e))
                waited = True
            if self._accepting:
                self.metrics.state(name, LegState.WAITING)
            await asyncio.sleep(self.config.tick_seconds)
        if waited and not self.failed.done():
            log.info("the stream goes on", leg=name)
            if self._accepting:
                self.metrics.state(name, LegState.RUNNING)

    def _hand_over(self, part: PartitionLeg, topic: str, batch: SourceBatch) -> None:
        """Have the leg take a batch in, noted in the journal meanwhile; in pieces where a worker has died on it."""
        journal = self._journal
        for piece, killer in journal.pieces(topic, batch):
            journal.begin(topic, piece)
            try:
                if killer:
                    self._on_crashed(part, topic, piece)
                else:
                    part.on_batch(piece)
            except SealstreamError as e:  # of state, keys or a dependency: not the records' fault, and no death
                journal.end()
                if isinstance(e, Corrupt):
                    raise self._corrupt(batch.partition, e) from e
                raise
            journal.end()

    def _corrupt(self, partition: int, error: Corrupt) -> Corrupt:
        return Corrupt(
            f'the {self.leg.name} leg, partition {partition}: {error}: see "State that does not read back" in '
            "docs/operations.md"
        )

    def _on_crashed(self, part: PartitionLeg, topic: str, batch: SourceBatch) -> None:
        where = f"{topic}, partition {batch.partition}, offset {batch.records[0].offset}"
        if not isinstance(part, Rejecting):
            raise Fatal(
                f"the {self.leg.name} leg died {DEATHS} times at work on the record at {where}, and it can leave "
                'none out: see "A record kills the worker" in docs/operations.md'
            )
        log.error("a record is rejected unread: workers died at work on it", leg=self.leg.name, record=where)
        part.on_crashed(batch)

    def _idle(self) -> bool:
        """Nothing has been fetched that the agent could take at once."""
        return all(not chan.queue.qsize() for chan in self.app.topics if not chan.internal and chan.acks)

    async def _checkpoints(self) -> None:
        """Begin a checkpoint as soon as the last one is durable and the stream is idle, or it has been long enough."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._taken and not self.failed.done():
                if self._flush is not None:
                    await asyncio.wait({self._flush})
                    continue
                waited = time.perf_counter() - self._taken_at
                enough = waited >= self.config.checkpoint_seconds and self._lag < self._most_held
                if not self._stretching() and (self._idle() or enough):
                    self._begin()
                else:
                    await asyncio.sleep(0.005)

    async def _ticks(self) -> None:
        for n in itertools.count(1):
            await asyncio.sleep(self.config.tick_seconds)
            if not self._accepting or not self.go.is_set():
                continue
            if n % LOOK_TICKS == 0:
                await self._look_at_all()
                if not self._accepting:
                    continue
            now = int(self._now() * 1000)
            caught_up = self._report_lag()
            for number, part in self._parts.items():
                part.on_tick(now, caught_up.get(number, True))
            for name, parts in self._tables.items():
                self.metrics.rows(self.leg.name, name, sum(map(len, parts.values())))
            if self._flush is None and not self._stretching():
                self._begin()

    def _stretching(self) -> bool:
        """So much is waiting that what is taken in goes on to wait for more of its keys."""
        lags = self.leg.stretch > 1 and self._taken > 0 and self._lag >= self._most_held
        return lags and time.perf_counter() - self._taken_at < STRETCH_SECONDS

    def _report_lag(self) -> dict[int, bool]:
        consumer: Consumer = self.app.consumer
        caught_up: dict[int, bool] = {}
        self._lag = 0
        for tp in consumer.assignment():
            at = TopicPartition(tp.topic, tp.partition)
            end, read = consumer.high_water(at), self.book.next_offset(at)
            lag = 0 if end is None or read is None else max(0, end - read)
            self._lag += lag
            self.metrics.lag(self.leg.name, self.sources[tp.topic], tp.partition, lag)
            caught_up[tp.partition] = caught_up.get(tp.partition, True) and lag == 0
        return caught_up

    async def _commits(self) -> None:
        while True:
            await asyncio.sleep(self.config.commit_seconds)
            if self._accepting:
                await self._commit()
                await self._tell_untold()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Seal what the batches so far caused, and write it in the background."""
        assert self._flush is None
        taken, self._taken, self._unsent = self._taken, 0, 0
        mark = self.book.mark()
        effects = [part.drain() for part in self._parts.values()]
        changes = [
            (name, number, rows, outs)
            for name, parts in self._tables.items()
            for number, rows in parts.items()
            if (outs := rows.changes(self._latest))
        ]
        self._in_background(self._write(effects, changes, mark, taken))

    def _send(self, streaming: Iterable[Streaming]) -> None:
        """Write, in the background, what need not wait for a checkpoint."""
        assert self._flush is None
        self._unsent = 0
        self._in_background(self._write_out(together(part.outputs() for part in streaming)))

    def _in_background(self, writing: Coroutine[Any, Any, None]) -> None:
        self._flush = asyncio.ensure_future(writing)
        self._flush.add_done_callback(self._flushed)

    async def _write_out(self, outs: Mapping[str, list[Out]]) -> None:
        await self._output.write({self.config.topic_prefix + topic: records for topic, records in outs.items()})

    async def _write(
        self,
        effects: list[Effects],
        changes: list[Change],
        mark: dict[TopicPartition, int],
        taken: int,
    ) -> None:
        started = time.perf_counter()
        for phase in merge(effects):
            if isinstance(phase, str):
                await self._write_state(changes)
            elif phase:
                await self._write_out(phase)
        self.book.settle(mark)
        self.metrics.checkpoint(self.leg.name, taken, time.perf_counter() - started)
        for e in effects:
            if e.counts:
                self.metrics.outcomes(self.leg.name, e.counts)

    async def _write_state(self, changes: list[Change]) -> None:
        """Write what changed in the tables to their changelogs."""
        if not changes:
            return
        placed = await self._output.write_to([(self._changelog(name), n, outs) for name, n, _, outs in changes])
        for (name, number, rows, outs), pieces in zip(changes, placed, strict=True):
            for at, count in pieces:
                if at < 0:
                    continue  # the next one shows a gap, in which there are own records
                if at != rows.next_offset:
                    await self._look(name, number, rows, at)
                rows.next_offset = at + count
            size = sum(len(o.key) + len(o.value or b"") for o in outs)
            self.metrics.changelog(self.leg.name, name, len(outs), size)

    def _flushed(self, flush: asyncio.Task[None]) -> None:
        self._flush = None
        self._wake.set()
        if not flush.cancelled() and (error := flush.exception()) is not None:
            self.fail(error)

    async def _commit(self) -> None:
        offsets = self.book.to_commit()
        if offsets and await self.app.consumer.commit_offsets(offsets):
            self.book.committed_at(offsets)
            self._journal.passed(offsets)
            self.metrics.committed(self.leg.name, len(offsets))
            self._tell(offsets)

    async def _tell_untold(self) -> None:
        """Tell partitions that were opened; again until the broker has said what is committed."""
        if self._untold:
            self._tell(await self.app.consumer.committed_offsets(tuple(self._untold)))

    def _tell(self, committed: Mapping[TopicPartition, int]) -> None:
        for tp, offset in committed.items():
            part = self._parts.get(tp.partition)
            if isinstance(part, Acknowledged):
                part.on_committed(self.sources[tp.topic], self._incarnations.get(tp.topic, ""), offset)
        self._untold.difference_update(committed)

    async def drain(self) -> None:
        """Checkpoint and commit everything that was taken in, within `drain_seconds`; else fail, unacknowledged."""
        try:
            async with asyncio.timeout(self.config.drain_seconds):
                while self._flush is not None:
                    await asyncio.wait({self._flush})
                if not self.failed.done():
                    self._begin()
                    assert self._flush is not None
                    await asyncio.wait({self._flush})
                if not self.failed.done():
                    await self._commit()
        except TimeoutError as e:
            self.fail(e)

    # -- life ----------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        if not self.failed.done():
            self._accepting = False
            self.failed.set_result(error)
            self.metrics.state(self.leg.name, LegState.FAILED)

    async def start(self) -> None:
        self.metrics.state(self.leg.name, LegState.RECOVERING)
        await self._output.start()
        self.app.finalize()
        await self.app.start()
        for loop in (self._checkpoints, self._ticks, self._commits, self._watch_faust):
            task = asyncio.ensure_future(loop())
            task.add_done_callback(self._loop_ended)
            self._tasks.append(task)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def _watch_faust(self) -> None:
        await self.app._crashed.wait()
        raise self.app.crash_reason or RuntimeError("faust stopped by itself")

    async def stop(self) -> None:
        """Stop reading, make what was taken in durable, commit, leave the group."""
        self.metrics.state(self.leg.name, LegState.STOPPING)
        accepting, self._accepting = self._accepting, False
        if accepting:
            self.app.consumer.stop_flow()
            await self.drain()
        self.drained = not self.failed.done()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._flush is not None:
            self._flush.cancel()
        await self.app.stop()
        try:
            await self._output.stop()
        except KafkaError:
            log.debug("producer did not close", leg=self.leg.name)


def merge(effects: list[Effects]) -> list[dict[str, list[Out]] | str]:
    """The effects of several partitions as one list of phases; every leg's effects have the same shape."""
    merged: list[dict[str, list[Out]] | str] = []
    for i, phase in enumerate(effects[0].phases if effects else ()):
        if isinstance(phase, str):
            assert all(e.phases[i] == phase for e in effects)
            merged.append(phase)
            continue
        outputs: list[dict[str, list[Out]]] = []
        for e in effects:
            part = e.phases[i]
            assert isinstance(part, dict)
            outputs.append(part)
        merged.append(together(outputs))
    return merged


def together(outputs: Iterable[Mapping[str, list[Out]]]) -> dict[str, list[Out]]:
    """The records of several partitions by topic."""
    by_topic: dict[str, list[Out]] = {}
    for part in outputs:
        for topic, outs in part.items():
            if outs:
                by_topic.setdefault(str(topic), []).extend(outs)
    return by_topic
