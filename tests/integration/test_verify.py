"""`sealstream verify` on a real broker, after real workers.

Mutations seen red: the second pass over a topic reads nothing; committed offsets are not looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.adapters.topic_specs import group_name
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline
from tests.integration.test_pipeline import demo
from tests.integration.tools import ending, ends, produce

EVENTS = 6_000


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    return Pipeline(kafka, topics, tmp_path)


def verified(pipeline: Pipeline, wait: float = 60) -> tuple[int, dict[str, Any]]:
    done = pipeline.command("verify", "--json", "--wait", str(wait))
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def test_a_worker_s_work_is_proved_and_what_is_spoilt_then_is_found(pipeline: Pipeline) -> None:
    worker = pipeline.worker(SEALSTREAM_WATCH_IDLE_SECONDS="2")
    with ending(worker):
        pipeline.produce(demo(EVENTS))
        pipeline.wait()
        code, report = verified(pipeline)
        assert code == 0, report["findings"]
        assert report["ok"]
        assert worker.terminate() == 0, worker.log
    events = report["events"]
    assert events["raw"] == EVENTS == events["protected"] + events["rejected"]
    assert events["resolved"] == events["protected"]
    assert report["profiles"] == len(pipeline.profiles())
    assert not report["behind"]

    new = pipeline.produce(demo(400, seed=2))
    code, report = verified(pipeline, wait=0)
    assert code == 1
    assert report["behind"] == {"protect": new}
    assert [f["check"] for f in report["findings"]] == ["behind"]

    raw = pipeline.prefix + Topic.RAW
    move_ahead(pipeline, raw)
    code, report = verified(pipeline, wait=0)
    assert code == 1
    assert [(f["check"], f["count"]) for f in report["findings"]] == [("ahead", new)]
    assert all(place.startswith(f"{Topic.RAW}/") for place in report["findings"][0]["first"])

    produce(pipeline.bootstrap, pipeline.prefix + Topic.PROTECTED, [(b"k", b"\xff not ours")])
    code, report = verified(pipeline, wait=0)
    assert code == 1
    assert {f["check"] for f in report["findings"]} == {"ahead", "unreadable", "behind"}
    shown = pipeline.command("verify", "--wait", "0")
    assert shown.returncode == 1
    assert b"NOT PROVED" in shown.stdout
    assert b"ahead" in shown.stdout


def test_events_of_a_raw_topic_that_was_made_again(pipeline: Pipeline, kafka_admin: AdminClient) -> None:
    """Kafka forgets what the group had committed there; the old events are earlier ones, and still proved."""
    worker = pipeline.worker()
    with ending(worker):
        pipeline.produce(demo(2_000))
        pipeline.wait()
        assert worker.terminate() == 0, worker.log
    name = pipeline.prefix + Topic.RAW
    for future in kafka_admin.delete_topics([name]).values():
        future.result(30)
    assert pipeline.command("topics", "apply", "--producer-times").returncode in (0, 1)
    again = pipeline.worker()
    with ending(again):
        pipeline.produce(demo(1_000, seed=2))
        pipeline.wait()
        assert again.terminate() == 0, again.log
    code, report = verified(pipeline)
    assert code == 0, report["findings"]
    assert report["events"]["raw"] == 1_000
    assert report["events"]["earlier"] == 2_000


def test_misuse_and_a_broker_that_is_away(pipeline: Pipeline, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SEALSTREAM_")}

    def code(**env: str) -> int:
        command = [sys.executable, "-m", "pipeline", "verify", "--wait", "0"]
        return subprocess.run(
            command, env={**environment, **env}, capture_output=True, timeout=60, check=False, cwd=Path.cwd()
        ).returncode

    assert code() == 2
    assert code(SEALSTREAM_KAFKA=pipeline.bootstrap, SEALSTREAM_TOPIC_PREFIX="nothing-here.") == 2
    assert code(SEALSTREAM_KAFKA="127.0.0.1:1") == 3


def move_ahead(pipeline: Pipeline, topic: str) -> None:
    """Commit the ends of a topic for the protect leg's group, which nobody is in."""
    group = group_name("protect", prefix=pipeline.prefix)
    consumer = Consumer({"bootstrap.servers": pipeline.bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        offsets = [TopicPartition(topic, p, end) for p, end in ends(pipeline.bootstrap, topic).items()]
        consumer.commit(offsets=offsets, asynchronous=False)
    finally:
        consumer.close()
