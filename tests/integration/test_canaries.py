"""No personal value in what a worker tells of itself: its log, its metrics, its health pages, its arguments.

Mutations seen red: a log line with the rejected value.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from pipeline.adapters.brokers.process import free_ports
from pipeline.demo.story import DemoEvent
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import ending, wait_for

NOW = 1_790_000_000_000
CANARIES = [f"canary{i:03d}" for i in range(40)]

TOLD = (
    'sealstream_events_total{leg="protect",outcome="protected"} 10.0',
    'sealstream_rejects_total{leg="protect",reason="bad_json"} 10.0',
    'sealstream_rejects_total{leg="protect",reason="bad_type"} 10.0',
    'sealstream_rejects_total{leg="protect",reason="unknown_schema"} 10.0',
    'sealstream_table_rows{leg="protect",table="subject-keys"} 10.0',
    'sealstream_lag_records{leg="protect",partition="0",topic="events.raw"} 0.0',
    'sealstream_batch_records_count{leg="protect",topic="events.raw"}',
    'sealstream_checkpoint_seconds_count{leg="protect"}',
    'sealstream_commits_total{leg="protect"}',
    'sealstream_changelog_bytes_total{leg="protect",table="subject-keys"}',
)
"""What dashboards are made of: events by outcome, rejects, rows, lag, batches, checkpoints, commits, changelog."""


def sent() -> list[DemoEvent]:
    """A canary in every place that a producer can write to, in events that pass and in events that do not."""
    found = []
    for i, canary in enumerate(CANARIES):
        event = {
            "type": "identify",
            "messageId": f"m-{i}",
            "userId": canary,
            "anonymousId": canary,
            "context": {
                "ip": canary,
                "userAgent": canary,
                "traits": {"email": f"{canary}@example.com"},
                canary: canary,
            },
            "traits": {"email": f"{canary}@example.com", "phone": canary, "name": canary, canary: canary},
        }
        if i % 4 == 1:
            event["traits"] = canary
        if i % 4 == 2:
            event["type"] = canary
        value = json.dumps(event).encode()
        if i % 4 == 3:
            value = value[:-9]
        headers = (("source-id", b"shop"), (canary, canary.encode()))
        found.append(DemoEvent(canary.encode(), value, headers, NOW + i))
    return found


def shows(text: str | bytes) -> list[str]:
    """Return the canaries that stand in `text`."""
    plain = text if isinstance(text, bytes) else text.encode()
    return [c for c in CANARIES if c.encode() in plain]


def test_the_search_finds_what_is_planted() -> None:
    assert shows(f"x {CANARIES[3]} y") == [CANARIES[3]]
    assert shows(sent()[0].value) == [CANARIES[0]]


def test_log_metrics_health_and_arguments_hold_no_canary(kafka: str, topics: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    pipeline = Pipeline(kafka, topics, tmp_path)
    worker = pipeline.worker(SEALSTREAM_HTTP=f"127.0.0.1:{port}", SEALSTREAM_LOG_LEVEL="debug")
    pages = []
    with ending(worker):
        assert pipeline.produce(sent()) == len(CANARIES)
        pipeline.wait()
        wait_for(lambda: all(line in page(port, "metrics").decode() for line in TOLD), 10, "the metrics tell it all")
        pages = [page(port, name) for name in ("metrics", "healthz", "readyz")]
        process = Path(f"/proc/{worker.process.pid}")
        pages += [(process / name).read_bytes() for name in ("cmdline", "environ")]
        assert worker.terminate() == 0, worker.log
    protected, rejected = account(pipeline)
    assert (len(protected), len(rejected)) == (10, 30)
    assert not shows(worker.log)
    assert not [found for text in pages if (found := shows(text))]
    for topic in (Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED, Topic.PROFILES, Topic.IDENTITY, Topic.WATCH):
        for record in pipeline.read(topic):
            assert not shows((record.value or b"") + (record.key or b"") + repr(record.headers).encode()), topic


def page(port: int, name: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
        return bytes(answer.read())
