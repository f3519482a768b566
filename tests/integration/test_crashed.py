"""A record that kills the worker each time is rejected after three deaths, and nothing else is; on a real broker.

Mutations seen red: the note is cleared before `on_batch`. The others: tests/worker/test_journal.py, test_engine.py,
test_supervise.py.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.adapters.topic_specs import group_name
from pipeline.demo import story
from pipeline.events import Topic
from tests.integration.crashing import AT_WORK, DEADLY
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import Worker, committed, ending, ends, wait_for

END_MS = 1_790_000_000_000
EVENTS = 6_000
DIED = "a worker died at work on these records"
AGAIN = "the worker failed, and is started again"


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    return Pipeline(kafka, topics, tmp_path)


def deadly(i: int = 0) -> story.DemoEvent:
    value = {"type": "track", "event": "Something Done", "messageId": f"{DEADLY.decode()}-{i}", "userId": f"u-{i}"}
    return story.DemoEvent(b"deadly-%d" % i, json.dumps(value).encode(), (("source-id", b"shop"),), END_MS)


def produce(pipeline: Pipeline, *deadly_events: story.DemoEvent) -> None:
    events = list(story.events(1, EVENTS, 100, END_MS))
    half = len(events) // 2
    pipeline.produce([*events[:half], *deadly_events, *events[half:]])


def crashing(pipeline: Pipeline, fault: str, *args: str, state: str = "state") -> Worker:
    return pipeline.launch(["-m", "tests.integration.crashing", fault, *args], state)


def protected_all(pipeline: Pipeline, worker: Worker) -> bool:
    raw = pipeline.prefix + Topic.RAW
    done = committed(pipeline.bootstrap, group_name("protect", prefix=pipeline.prefix), [raw])
    return not worker.running or all(done.get((raw, p), 0) == end for p, end in ends(pipeline.bootstrap, raw).items())


def crashed(rejected: dict[tuple[int, int], bytes]) -> list[dict[str, object]]:
    found = [json.loads(value) for value in rejected.values()]
    return [r for r in found if r["reason"] == "crashed_worker"]


def suspects(pipeline: Pipeline, state: str = "state") -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((pipeline.directory / state / "state/suspects.json").read_text())[
        "suspects"
    ]
    return found


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_record_that_kills_the_worker_three_times_is_rejected_and_the_stream_goes_on(
    fault: str, pipeline: Pipeline
) -> None:
    produce(pipeline, deadly())
    worker = crashing(pipeline, fault, "--supervise", "worker", "--legs", "protect")
    with ending(worker):
        wait_for(lambda: protected_all(pipeline, worker), 120, "all came out")
        wait_for(lambda: not suspects(pipeline), 20, "it was acknowledged and struck off")
        assert worker.terminate() == 0, worker.log
    assert worker.log.count(AGAIN) == 3, worker.log
    protected, rejected = account(pipeline)
    assert len(protected) + len(rejected) == EVENTS + 1
    (found,) = crashed(rejected)
    assert (found["stage"], found["rule"]) == ("decode", "killed a worker three times")
    assert DEADLY.decode() not in worker.log

    assert pipeline.command("replay", "--reason", "crashed_worker").returncode == 0
    assert sum(DEADLY in (r.value or b"") for r in pipeline.read(Topic.RAW)) == 2
    mended = pipeline.worker("protect")
    with ending(mended):
        wait_for(lambda: mended.up and protected_all(pipeline, mended), 60, "what was sent again came out")
        assert mended.terminate() == 0, mended.log
    protected, rejected = account(pipeline)
    assert len(crashed(rejected)) == 1
    assert sum(DEADLY in value for value in protected.values()) == 1


def test_the_count_is_kept_whoever_starts_the_worker_again_and_others_kills_count_for_nothing(
    pipeline: Pipeline,
) -> None:
    produce(pipeline, deadly())
    deaths = 0
    for life in range(5):
        worker = crashing(pipeline, "kill", "worker", "--legs", "protect")
        with ending(worker):
            wait_for(lambda w=worker: protected_all(pipeline, w), 60, "it came to an end")  # type: ignore[misc]
            if worker.running:
                break
        deaths += 1
        if life % 2:  # in between, one that is killed at work on whatever it is
            slow = crashing(pipeline, "slow", "worker", "--legs", "protect", state="another")
            with ending(slow):
                wait_for(lambda s=slow: s.up, 60, "it has partitions")  # type: ignore[misc]
                time.sleep(0.05)
                slow.kill()
    assert deaths == 3
    _, rejected = account(pipeline)
    assert len(crashed(rejected)) == 1


def test_an_operators_kills_reject_nothing(pipeline: Pipeline) -> None:
    produce(pipeline)
    for _ in range(3):
        worker = crashing(pipeline, "slow", "worker", "--legs", "protect")
        with ending(worker):
            wait_for(lambda w=worker: AT_WORK in w.log, 60, "it works")  # type: ignore[misc]
            worker.kill()
    last = crashing(pipeline, "none", "worker", "--legs", "protect")
    with ending(last):
        wait_for(lambda: protected_all(pipeline, last), 60, "all came out")
        wait_for(lambda: not suspects(pipeline), 20, "all was acknowledged")
        assert last.terminate() == 0, last.log
    assert DIED in last.log, "the kills came while a batch was in work"
    _, rejected = account(pipeline)
    assert not crashed(rejected)


def test_a_leg_that_can_leave_no_record_out_says_which_one_it_is_and_refuses(pipeline: Pipeline) -> None:
    produce(pipeline, deadly())
    first = pipeline.worker("protect")
    with ending(first):
        wait_for(lambda: protected_all(pipeline, first), 60, "all is protected")
        assert first.terminate() == 0, first.log
    codes = []
    for _ in range(5):
        worker = crashing(pipeline, "kill-identify", "worker", "--legs", "identify")
        with ending(worker):
            codes.append(worker.wait(90))
    assert codes == [-9, -9, -9, 1, 1], worker.log
    (where,) = [(r.partition, r.offset) for r in pipeline.read(Topic.PROTECTED) if DEADLY in (r.value or b"")]
    (line,) = [line for line in worker.log.splitlines() if "stopped by a failure" in line]
    assert f"{Topic.PROTECTED}, partition {where[0]}, offset {where[1]}" in json.loads(line)["message"]
    assert "docs/operations.md" in line

    (pipeline.directory / "state/state/suspects.json").unlink()  # as the page says, with a version that is mended
    mended = crashing(pipeline, "none", "worker")
    with ending(mended):
        pipeline.wait()
        assert mended.terminate() == 0, mended.log
    assert pipeline.profiles() == pipeline.recomputed()


def child_of(worker: Worker) -> int | None:
    pid = worker.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def test_a_supervised_worker_is_started_again_and_stops_with_its_supervisor(pipeline: Pipeline) -> None:
    produce(pipeline)
    command = ["-m", "pipeline", "worker", "--legs", "protect", "--supervise"]
    worker = pipeline.launch(command, "state", SEALSTREAM_SESSION_SECONDS="6")
    with ending(worker):
        wait_for(lambda: worker.up, 60, "it has partitions")
        first = child_of(worker)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: worker.log.count("partitions assigned") == 2, 60, "it is there again")
        wait_for(lambda: protected_all(pipeline, worker), 60, "all came out")
        assert worker.terminate() == 0, worker.log
    assert worker.log.count(AGAIN) == 1
    _, rejected = account(pipeline)
    assert not crashed(rejected)


def test_wrong_use_ends_the_supervisor_as_well(kafka: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, "nothing-here.", tmp_path)
    worker = pipeline.launch(["-m", "pipeline", "worker", "--supervise"], "state")
    with ending(worker):
        assert worker.wait(30) == 2
    assert "topics apply" in worker.log
    assert AGAIN not in worker.log
