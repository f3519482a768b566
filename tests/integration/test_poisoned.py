"""State that does not read back: said by table, partition and offset, and no leg works; on a real broker.

Mutations seen red: no key of a person is tried at the start; legs go before all of them can.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline.adapters.topic_specs import CHANGELOGS, CLAIM, SOURCES, changelog_name, group_name, is_claim
from pipeline.demo import story
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import Worker, committed, ending, ends_of, read_all

END_MS = 1_790_000_000_000
EVENTS = 600
CANARY = b"canary.5d0c@example.com"
PARTITION = 1


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    """With every table filled, and 10 events that wait."""
    made = Pipeline(kafka, topics, tmp_path, SEALSTREAM_SESSION_SECONDS="6", SEALSTREAM_WATCH_IDLE_SECONDS="0.5")
    worker = made.worker()
    with ending(worker):
        made.produce(story.events(1, EVENTS, 100, END_MS))
        made.wait()
        made.wait_filled()
        assert worker.terminate() == 0, worker.log
    made.produce(story.events(2, 10, 3, END_MS))
    return made


def changelogs(pipeline: Pipeline) -> dict[tuple[str, str], str]:
    return {(leg, table): changelog_name(leg, table, prefix=pipeline.prefix) for leg, table in CHANGELOGS}


def standing(pipeline: Pipeline) -> list[object]:
    """What any work would change: the ends of the topics that are written to, and what is acknowledged."""
    at = pipeline.bootstrap
    topics = [pipeline.prefix + t for t in Topic if t not in (Topic.RAW, Topic.AUDIT, Topic.CONTROL)]
    groups = [
        committed(at, group_name(leg, prefix=pipeline.prefix), map(pipeline.prefix.__add__, SOURCES[leg]))
        for leg in SOURCES
    ]
    return [ends_of(at, topics), *groups]


def refused(pipeline: Pipeline, code: int = 1, worker: Worker | None = None) -> str:
    """Start a worker that must not work: its message."""
    before = standing(pipeline)
    worker = worker or pipeline.worker()
    with ending(worker):
        assert worker.wait(60) == code, worker.log
    assert standing(pipeline) == before
    assert CANARY.decode() not in worker.log
    lines = [
        line for line in worker.log.splitlines() if "stopped by a failure" in line or line.startswith("sealstream:")
    ]
    (line,) = lines
    return str(json.loads(line)["message"]) if line.startswith("{") else line


def works(pipeline: Pipeline) -> None:
    worker = pipeline.worker()
    with ending(worker):
        pipeline.wait()
        assert worker.terminate() == 0, worker.log
    account(pipeline)
    assert pipeline.profiles() == pipeline.recomputed()


def write(pipeline: Pipeline, topic: str, key: bytes, value: bytes | None, partition: int) -> int:
    """Write a record as an owner of the partition would; its offset."""
    at: list[int] = []
    producer = Producer({"bootstrap.servers": pipeline.bootstrap, "enable.idempotence": True})
    producer.produce(topic, b"claim", CLAIM + uuid.uuid4().bytes, partition=partition)
    producer.produce(topic, value, key, partition=partition, on_delivery=lambda _, m: at.append(m.offset()))
    assert producer.flush(30) == 0
    return at[0]


def test_a_row_that_does_not_read_back_is_named_and_no_leg_works(pipeline: Pipeline) -> None:
    for (leg, table), topic in changelogs(pipeline).items():
        records = [r for r in read_all(pipeline.bootstrap, topic) if not is_claim(r.key or b"")]
        row = next(r for r in reversed(records) if r.value is not None)
        assert row.key is not None
        stood = next(r.value for r in reversed(records) if r.key == row.key)
        for key, value, mended in ((row.key, b"\xc1" + CANARY, stood), (b"\xff\xfe\0" + CANARY, row.value, None)):
            offset = write(pipeline, topic, key, value, row.partition)
            message = refused(pipeline)
            for word in (f"{leg} leg", f"partition {row.partition}", f"table {table}", f"offset {offset} of {topic}"):
                assert word in message
            assert "docs/operations.md" in message
            write(pipeline, topic, key, mended, row.partition)
    works(pipeline)


def test_legs_that_can_start_wait_for_the_one_that_cannot(pipeline: Pipeline) -> None:
    topic = changelogs(pipeline)["watch", "watch-state"]
    offset = write(pipeline, topic, b"\xff\xfe\0" + CANARY, b"", PARTITION)
    late = pipeline.launch(["-m", "tests.integration.crashing", "late", "worker"])
    assert f"offset {offset} of {topic}" in refused(pipeline, worker=late)
    write(pipeline, topic, b"\xff\xfe\0" + CANARY, None, PARTITION)
    works(pipeline)


def test_a_persons_key_that_does_not_open_is_found_before_anything_is_sealed(pipeline: Pipeline) -> None:
    topic = changelogs(pipeline)["protect", "subject-keys"]
    found = [r for r in read_all(pipeline.bootstrap, topic) if r.partition == PARTITION and not is_claim(r.key or b"")]
    for row in found:
        assert row.key is not None
        assert row.value is not None
        write(pipeline, topic, row.key, row.value[:-1] + bytes([row.value[-1] ^ 1]), PARTITION)
    message = refused(pipeline)
    for word in ("protect leg", f"partition {PARTITION}", "subject-keys"):
        assert word in message
    for row in found:
        assert row.key is not None
        write(pipeline, topic, row.key, row.value, PARTITION)
    works(pipeline)


def directory(_: Pipeline, file: Path) -> None:
    file.unlink()
    file.mkdir()


def other_ring(pipeline: Pipeline, file: Path) -> None:
    file.unlink()
    assert pipeline.command("keys", "init").returncode == 0


SPOILT: dict[str, tuple[Callable[[Pipeline, Path], object], int, str]] = {
    "missing": (lambda _, f: f.unlink(), 2, "not there"),
    "of others": (lambda _, f: f.chmod(0o644), 2, "chmod 600"),
    "a directory": (directory, 2, "not a plain file"),
    "cut off": (lambda _, f: os.truncate(f, 100), 1, "restore it from your backup"),
    "empty": (lambda _, f: os.truncate(f, 0), 1, "restore it from your backup"),
    "another one": (other_ring, 1, "another KEK"),
}


def test_a_key_file_that_cannot_be_used_is_named_and_no_leg_works(pipeline: Pipeline) -> None:
    file = pipeline.directory / "keys.json"
    content = file.read_bytes()
    for name, (spoil, code, rule) in SPOILT.items():
        spoil(pipeline, file)
        message = refused(pipeline, code)
        assert rule in message, name
        assert str(file) in message or name == "another one"
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(content)
        file.chmod(0o600)
    works(pipeline)


def test_a_state_directory_that_cannot_be_used_is_named_and_no_leg_works(pipeline: Pipeline) -> None:
    command = ["-m", "pipeline", "worker"]
    for i, what in enumerate(("", "state", "state/journal", "state/suspects.json", "state/protect", "state/watch")):
        at = pipeline.directory / f"spoilt-{i}" / what
        at.parent.mkdir(parents=True, exist_ok=True)
        if what in ("state/journal", "state/suspects.json"):
            at.mkdir()
        else:
            at.write_bytes(b"")
        assert str(at) in refused(pipeline, 2, pipeline.launch(command, f"spoilt-{i}")), what


def test_a_journal_that_does_not_read_back_is_said_and_stops_nobody(pipeline: Pipeline) -> None:
    state = pipeline.directory / "spoilt" / "state"
    state.mkdir(parents=True)
    (state / "journal").write_bytes(CANARY)
    (state / "suspects.json").write_bytes(CANARY)
    worker = pipeline.launch(["-m", "pipeline", "worker"], "spoilt")
    with ending(worker):
        pipeline.wait()
        assert worker.terminate() == 0, worker.log
    assert "the journal does not read back" in worker.log
    assert "suspects.json does not read back" in worker.log
    assert CANARY.decode() not in worker.log
    assert stat.S_ISREG((state / "journal").stat().st_mode)
    account(pipeline)
