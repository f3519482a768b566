"""The pipeline end to end on a real broker, by what stands on the topics.

Mutations seen red: batches of an old generation are taken.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from pipeline.demo import story
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import Worker, ending, ends, wait_for

END_MS = 1_790_000_000_000
EVENTS = 20_000
SHORT_SESSIONS = ("-m", "tests.integration.crashing", "none")
EVENTS_OUT = (Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED)


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    return Pipeline(kafka, topics, tmp_path)


def demo(count: int, seed: int = 1) -> Iterator[story.DemoEvent]:
    return story.events(seed, count, max(10, count // 40), END_MS)


def resolved_origins(pipeline: Pipeline) -> set[tuple[int, int]]:
    found = set()
    for r in pipeline.read(Topic.RESOLVED):
        record = json.loads(r.value or b"")
        assert (r.key or b"").decode() == record["profile_id"]
        found.add((record["origin"]["partition"], record["origin"]["offset"]))
    return found


def test_twenty_thousand_events_are_accounted_for_and_identified(pipeline: Pipeline) -> None:
    worker = pipeline.worker(SEALSTREAM_WATCH_IDLE_SECONDS="2")
    with ending(worker):
        assert pipeline.produce(demo(EVENTS)) == EVENTS
        pipeline.wait()
        time.sleep(5)  # idle partitions hold up no window
        pipeline.wait()
        assert worker.terminate() == 0, worker.log
    protected, rejected = account(pipeline)
    assert len(protected) + len(rejected) == EVENTS
    assert rejected, "the demo has invalid events"
    assert resolved_origins(pipeline) == protected.keys()
    assert pipeline.profiles() == pipeline.recomputed()
    alerts = [json.loads(r.value or b"{}") for r in pipeline.read(Topic.ALERTS)]
    kinds = Counter((a["kind"], a["status"]) for a in alerts)
    assert kinds["rate", "trigger"]
    assert kinds["silence", "trigger"]


@contextmanager
def steady(pipeline: Pipeline, events: Iterator[story.DemoEvent]) -> Iterator[None]:
    """About 1,000 events/s as long as the context lasts."""
    stopping = threading.Event()

    def produce() -> None:
        while not stopping.wait(0.1):
            pipeline.produce(islice(events, 100))

    with ThreadPoolExecutor(1) as pool:
        producing = pool.submit(produce)
        try:
            yield
        finally:
            stopping.set()
            producing.result(60)


def test_workers_come_and_go_under_a_steady_producer(pipeline: Pipeline) -> None:
    """Nothing is lost, and since each lets go in order, nothing is even repeated."""
    first = pipeline.worker()
    with ending(first), ExitStack() as later:
        with steady(pipeline, demo(100_000)):
            await_protected(pipeline, 2_000)
            second = pipeline.worker()
            later.enter_context(ending(second))
            wait_for(lambda: second.log.count("partitions assigned") >= 3, 60, "the second has its share of each leg")
            await_protected(pipeline, 3_000)
            assert first.terminate() == 0, first.log
            await_protected(pipeline, 3_000)
        pipeline.wait()
        assert second.terminate() == 0, second.log
    protected, rejected = account(pipeline)
    assert resolved_origins(pipeline) == protected.keys()
    assert pipeline.profiles() == pipeline.recomputed()
    written = {topic: sum(ends(pipeline.bootstrap, pipeline.prefix + topic).values()) for topic in EVENTS_OUT}
    assert written == dict(zip(EVENTS_OUT, (len(protected), len(rejected), len(protected)), strict=True))


def await_protected(pipeline: Pipeline, more: int) -> None:
    topic = pipeline.prefix + Topic.PROTECTED
    wanted = sum(ends(pipeline.bootstrap, topic).values()) + more
    wait_for(lambda: sum(ends(pipeline.bootstrap, topic).values()) >= wanted, 60, f"{more} more events are protected")


def test_kill_9_in_the_middle_of_the_work(pipeline: Pipeline) -> None:
    pipeline.produce(demo(10_000))
    workers: list[Worker] = []
    for legs, share in (("protect", 0.3), ("protect,identify", 0.5), ("protect,identify,watch", 0.7)):
        worker = pipeline.launch([*SHORT_SESSIONS, "worker", "--legs", legs])
        workers.append(worker)
        with ending(worker):
            wait_for(partial(_reached, pipeline, worker, share * 10_000), 60, "it works")
            worker.kill()
    last = pipeline.launch([*SHORT_SESSIONS, "worker"])
    with ending(last):
        pipeline.wait()
        assert last.terminate() == 0, last.log
    protected, _ = account(pipeline)
    assert resolved_origins(pipeline) == protected.keys()
    assert pipeline.profiles() == pipeline.recomputed()


def _reached(pipeline: Pipeline, worker: Worker, records: float) -> bool:
    return not worker.running or sum(ends(pipeline.bootstrap, pipeline.prefix + Topic.PROTECTED).values()) >= records


def test_tables_after_a_restart_are_the_tables_before(pipeline: Pipeline) -> None:
    """A worker that starts on the changelogs and is given one more event of everybody changes nothing else."""
    first = pipeline.worker(SEALSTREAM_WATCH_IDLE_SECONDS="2")
    with ending(first):
        pipeline.produce(demo(4_000))
        pipeline.wait()
        pipeline.wait_filled()
        assert first.terminate() == 0, first.log
    tables, profiles = pipeline.tables(), pipeline.profiles()
    again = pipeline.worker()
    with ending(again):
        wait_for(lambda: again.log.count("partitions assigned") >= 3, 60, "it has recovered")
        time.sleep(2)
        assert again.terminate() == 0, again.log
    watch = {"watch/watch-open", "watch/watch-state"}  # time goes on there
    assert {k: v for k, v in pipeline.tables().items() if k not in watch} == {
        k: v for k, v in tables.items() if k not in watch
    }
    assert pipeline.profiles() == profiles
    more = pipeline.worker()
    with ending(more):
        pipeline.produce(demo(4_000, seed=2))
        pipeline.wait()
        assert more.terminate() == 0, more.log
    account(pipeline)
    assert pipeline.profiles() == pipeline.recomputed()
