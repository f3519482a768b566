"""The engine's guarantees, on a real broker, with the smallest leg that shows them (`tally`).

Mutations seen red: acknowledged before the output is durable; a changelog write that is not awaited; an exception that
counts as acknowledged; commits one too many; no drain at SIGTERM or a rebalance; no lease; a lost one that drains;
a woken worker that does not forget, or does not recover anew; a claim that nobody heeds; a gap that nobody looks into;
a former owner's rows that are not written again; the last batch of a changelog is not recovered; Faust's stream notes
its batches where it likes.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pipeline.adapters.brokers import Broker, ProcessBroker
from pipeline.adapters.topic_specs import is_claim
from pipeline.errors import Fatal
from pipeline.events import Topic
from pipeline.ports import Out
from pipeline.worker.output import Output
from tests.integration.tally import Row
from tests.integration.tools import (
    Worker,
    committed,
    ending,
    ends,
    last_values,
    make_topics,
    produce,
    read_all,
    wait_for,
)

pytestmark = pytest.mark.broker

PARTITIONS = 4
KEYS = 97
SHORT = ("--session", "3")
"""For who dies or sleeps: the next one waits for the end of its session."""


def key(i: int) -> bytes:
    """Some come again and again, others are new."""
    return b"k%d" % (i % KEYS if i % 3 else i)


class Tally(Worker):
    def __init__(self, bootstrap: str, prefix: str, directory: Path, args: Sequence[str]) -> None:
        directory.mkdir()
        self._directory = directory
        command = ["-m", "tests.integration.tally", bootstrap, prefix, str(directory), *args]
        super().__init__(command, directory / "log", {})

    @property
    def opened(self) -> dict[bytes, bytes]:
        """The rows with which it began, of all partitions."""
        rows: dict[bytes, bytes] = {}
        for path in self._directory.glob("opened-*"):
            rows |= msgspec.msgpack.decode(path.read_bytes())
        return rows

    @property
    def kept(self) -> int:
        """After a clean end: the size of the largest collection that Faust's consumer held."""
        return int((self._directory / "kept").read_text())


class Stage:
    """Topics of its own on the broker, and workers on them."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.bootstrap, self.directory = bootstrap, directory
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.group = f"{self.prefix}sealstream-tally"
        self.raw, self.out = self.prefix + Topic.RAW, self.prefix + Topic.PROTECTED
        self.changelog = f"{self.group}-tally-changelog"
        self._made = itertools.count()
        self._sent = 0
        make_topics(bootstrap, [self.raw, self.out, self.changelog], PARTITIONS)

    def send(self, n: int, pause: float = 0.0, every: int = 500) -> None:
        first = self._sent
        self._sent += produce(
            self.bootstrap,
            self.raw,
            ((key(i), b"event-%d" % i) for i in range(first, first + n)),
            pause=pause,
            every=every,
        )

    def worker(self, *args: str) -> Tally:
        return Tally(self.bootstrap, self.prefix, self.directory / f"worker-{next(self._made)}", args)

    def outputs(self) -> Counter[bytes]:
        """Origins that came out, with how often; the same origin always with the same bytes."""
        seen: dict[bytes, bytes] = {}
        counts: Counter[bytes] = Counter()
        for r in read_all(self.bootstrap, self.out):
            assert r.value is not None
            origin = b":".join(r.value.split(b":", 2)[:2])
            assert seen.setdefault(origin, r.value) == r.value
            counts[origin] += 1
        return counts

    def origins(self) -> set[bytes]:
        return {b"%d:%d" % (r.partition, r.offset) for r in read_all(self.bootstrap, self.raw)}

    def table(self) -> dict[bytes | None, Row]:
        """The table as its changelog holds it."""
        return {k: msgspec.msgpack.decode(v, type=Row) for k, v in self.rows().items()}

    def rows(self) -> dict[bytes | None, bytes]:
        return last_values(read_all(self.bootstrap, self.changelog))

    def expected(self) -> dict[bytes | None, int]:
        return dict(Counter(r.key for r in read_all(self.bootstrap, self.raw)))

    def committed(self) -> int:
        return sum(committed(self.bootstrap, self.group, [self.raw]).values())

    def all_committed(self) -> bool:
        return self.committed() == self._sent

    def check(self) -> Counter[bytes]:
        """Nothing lost, and each origin counted once; and compaction takes no claim."""
        counts = self.outputs()
        assert counts.keys() == self.origins()
        claims = [(r.partition, r.key) for r in read_all(self.bootstrap, self.changelog) if is_claim(r.key or b"")]
        assert len(set(claims)) == len(claims) > 0
        assert {k: row.count for k, row in self.table().items()} == self.expected()
        return counts


@pytest.fixture
def stage(kafka: str, tmp_path: Path) -> Stage:
    return Stage(kafka, tmp_path)


def test_sigterm_drains_commits_and_ends_with_zero(stage: Stage) -> None:
    stage.send(100_000)
    worker = stage.worker()
    with ending(worker):
        wait_for(lambda: stage.committed() > 0 or not worker.running, 60, "something is committed")
        assert worker.terminate(10) == 0, worker.log
    counts = stage.outputs()
    assert stage.committed() == len(counts), "what came out was committed, and nothing else"
    assert set(counts.values()) == {1}
    again = stage.worker()
    with ending(again):
        wait_for(lambda: again.up and stage.all_committed(), 60, "all is committed")
        assert again.terminate() == 0, again.log
    assert set(stage.check().values()) == {1}, "a clean stop repeats nothing"


def test_nothing_is_kept_of_the_batches_that_went_by(stage: Stage) -> None:
    worker = stage.worker()
    with ending(worker):
        wait_for(lambda: worker.up, 60, "the worker is up")
        stage.send(400, pause=0.01, every=1)
        wait_for(stage.all_committed, 60, "all is committed")
        assert worker.terminate() == 0, worker.log
    assert 0 < worker.kept < 25, "about 100 batches came from each partition"


@pytest.mark.parametrize("point", ["output:3", "changelog:3", "rows:3", "settled:4"])
def test_kill_9_loses_nothing_and_counts_nothing_twice(stage: Stage, point: str) -> None:
    stage.send(12_000)
    dies = stage.worker("--die", point, *SHORT)
    with ending(dies):
        assert dies.wait() == -9, dies.log
    left = stage.rows()
    after = stage.worker()
    with ending(after):
        wait_for(lambda: after.up and stage.all_committed(), 60, "all is committed")
        assert after.terminate() == 0, after.log
    assert after.opened == left, "the table after recovery is what the changelog held"
    stage.check()


def test_kill_9_in_recovery_then_recovery_again(stage: Stage) -> None:
    stage.send(5_000)
    first = stage.worker(*SHORT)
    with ending(first):
        wait_for(stage.all_committed, 60, "all is committed")
        first.kill()
    dies = stage.worker("--die", "recovery:1", *SHORT)
    with ending(dies):
        assert dies.wait() == -9, dies.log
    stage.send(5_000)
    after = stage.worker()
    with ending(after):
        wait_for(lambda: after.up and stage.all_committed(), 60, "all is committed")
        assert after.terminate() == 0, after.log
    stage.check()


def test_two_workers_share_and_a_killed_one_is_replaced(stage: Stage) -> None:
    stage.send(5_000)
    first = stage.worker(*SHORT)
    with ending(first):
        wait_for(lambda: stage.committed() > 0, 60, "the first works")
        second = stage.worker()
        with ending(second):
            stage.send(20_000, pause=0.05)
            wait_for(lambda: "partitions=[" in second.log, 60, "the second has partitions")
            stage.send(10_000, pause=0.05)
            first.kill()
            stage.send(5_000)
            wait_for(stage.all_committed, 90, "all is committed")
            assert second.terminate() == 0, second.log
    stage.check()


def test_a_rebalance_between_two_healthy_workers_repeats_nothing(stage: Stage) -> None:
    """What was taken in is drained and committed before a partition is let go."""
    stage.send(20_000)
    first = stage.worker()
    with ending(first):
        wait_for(lambda: stage.committed() > 0, 60, "the first works")
        second = stage.worker()
        with ending(second):
            while not second.up:
                stage.send(3_000, pause=0.05)
            stage.send(3_000)
            wait_for(stage.all_committed, 60, "all is committed")
            assert [first.terminate(), second.terminate()] == [0, 0], first.log + second.log
    assert set(stage.check().values()) == {1}


def stopped(worker: Worker) -> bool:
    return "\nState:\tT" in Path(f"/proc/{worker.process.pid}/status").read_text()


@contextmanager
def asleep_in_work(stage: Stage, point: str, *args: str) -> Iterator[Worker]:
    """A worker that had rows to recover, and has stopped in the middle of a checkpoint."""
    stage.send(2_000)
    before = stage.worker()
    with ending(before):
        wait_for(stage.all_committed, 60, "there are rows to recover")
        assert before.terminate() == 0
    asleep = stage.worker("--stop", point, *SHORT, *args)
    with ending(asleep):
        stage.send(12_000)
        wait_for(lambda: stopped(asleep), 60, "it has stopped")
        yield asleep


def test_a_worker_that_slept_too_long_forgets_what_it_had_in_work(stage: Stage) -> None:
    """Also if nobody took its partitions over: its rows are ahead of what their changelog holds."""
    with asleep_in_work(stage, "rows:3") as worker:
        time.sleep(5)  # its session has 3 s
        worker.process.send_signal(signal.SIGCONT)
        wait_for(stage.all_committed, 60, "all is committed")
        assert "is dropped" in worker.log
        assert worker.terminate() == 0, worker.log
    stage.check()


@contextmanager
def zombie(stage: Stage, point: str, *args: str) -> Iterator[tuple[Worker, Worker]]:
    """One that is woken after another has done its work, and more."""
    with asleep_in_work(stage, point, *args) as asleep:
        heir = stage.worker()
        with ending(heir):
            stage.send(3_000)
            wait_for(stage.all_committed, 90, "the second has done all of it")
            asleep.process.send_signal(signal.SIGCONT)
            yield asleep, heir


@pytest.mark.parametrize("point", ["output:3", "rows:3"])
def test_a_zombie_drops_what_it_had_in_work_and_joins_again(stage: Stage, point: str) -> None:
    with zombie(stage, point) as (woken, heir):
        wait_for(lambda: "is dropped" in woken.log, 60, "the first says so")
        wait_for(lambda: woken.log.count("partitions assigned") > 1, 60, "the first works again")
        stage.check()
        stage.send(3_000)
        wait_for(stage.all_committed, 60, "all is committed")
        assert [woken.terminate(), heir.terminate()] == [0, 0], woken.log + heir.log
    stage.check()


def test_rows_that_a_zombie_gets_through_count_for_nothing(stage: Stage) -> None:
    """As if its clock had lied: its rows come behind its heir's."""
    with zombie(stage, "rows:3", "--no-lease") as (woken, heir):
        assert woken.wait(30) == 3, woken.log
        assert "has taken over partition" in woken.log
        last = stage.worker()
        with ending(last):  # reads both
            stage.send(3_000)
            wait_for(lambda: last.up and stage.all_committed(), 60, "all is committed")
            assert [heir.terminate(), last.terminate()] == [0, 0], heir.log + last.log
    stage.check()


async def test_nothing_is_sent_without_a_lease(stage: Stage) -> None:
    may_send = False
    out = Output(stage.bootstrap, {}, "test", may_send=lambda: may_send)
    await out.start()
    waiting = asyncio.ensure_future(out.write({stage.out: [Out(b"k", b"v", 1)]}))
    done, _ = await asyncio.wait({waiting}, timeout=1)
    assert not done
    assert sum(ends(stage.bootstrap, stage.out).values()) == 0
    may_send = True
    await asyncio.wait_for(waiting, 10)
    assert sum(ends(stage.bootstrap, stage.out).values()) == 1
    may_send = False
    given_up = asyncio.ensure_future(out.write({stage.out: [Out(b"k", b"v", 1)]}))
    await asyncio.sleep(0.2)
    await asyncio.wait_for(out.stop(), 10)
    with pytest.raises(Fatal):
        await given_up
    assert sum(ends(stage.bootstrap, stage.out).values()) == 1


def test_rows_that_somebody_else_writes_are_written_again(stage: Stage) -> None:
    stage.send(1_000)
    owner = stage.worker()
    with ending(owner):
        wait_for(lambda: owner.up and stage.all_committed(), 60, "all is committed")
        before = stage.table()
        stale = msgspec.msgpack.encode(Row(1, {}))
        produce(stage.bootstrap, stage.changelog, [(key, stale) for key in before], every=10)
        assert stage.table() != before
        wait_for(lambda: stage.table() == before, 30, "the owner's rows are the last ones again")
        assert owner.terminate() == 0, owner.log
    assert "written again" in owner.log


def test_a_failure_of_ours_ends_the_process_and_leaves_the_offset_where_it_was(stage: Stage) -> None:
    stage.send(3_000)
    raises = stage.worker("--raise-at", "400")
    with ending(raises):
        assert raises.wait() == 1, raises.log
    assert "RuntimeError" in raises.log
    for (_, _), offset in committed(stage.bootstrap, stage.group, [stage.raw]).items():
        assert offset <= 400
    after = stage.worker()
    with ending(after):
        wait_for(lambda: after.up and stage.all_committed(), 60, "all is committed")
        assert after.terminate() == 0, after.log
    stage.check()


@pytest.fixture
def own_broker(broker: Broker) -> Iterator[ProcessBroker]:
    """One that a test may end and start; needs one that is run as a process."""
    if not isinstance(broker, ProcessBroker):
        pytest.skip("the given broker is not ours to stop")
    own = type(broker).started({}, lambda _: None)
    yield own
    own.close()


def test_a_broker_that_is_away_is_waited_for_and_said_once(own_broker: ProcessBroker, tmp_path: Path) -> None:
    stage = Stage(own_broker.bootstrap, tmp_path)
    stage.send(2_000)
    own_broker.stop()
    worker = stage.worker()
    with ending(worker):
        wait_for(lambda: "the broker does not answer" in worker.log, 30, "the worker says that it waits")
        own_broker.start()
        wait_for(lambda: worker.up and stage.all_committed(), 60, "it works at last")
        stage.send(20_000)
        own_broker.kill()
        time.sleep(8)
        assert worker.running, worker.log
        own_broker.start()
        stage.send(2_000)
        wait_for(stage.all_committed, 90, "it goes on")
        assert worker.terminate() == 0, worker.log
    assert worker.log.count("waiting for it") <= 3, worker.log
    stage.check()


def test_missing_topics_are_wrong_use_and_named(kafka: str, tmp_path: Path) -> None:
    args = ["-m", "tests.integration.tally", kafka, "nothing-here.", str(tmp_path)]
    worker = Worker(args, tmp_path / "log", {})
    with ending(worker):
        assert worker.wait() == 2
    assert "nothing-here.events.raw" in worker.log
    assert "topics apply" in worker.log
