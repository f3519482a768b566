"""Sealed and plaintext producers on a real broker and a worker: what comes out, what is rejected, and what
`events.raw` shows.

Mutations seen red: the setting not handed to the leg; the producer sends plaintext.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from pipeline.client import AsyncProducer, Producer
from pipeline.demo.story import DemoEvent
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import ending

NOW = 1_790_000_000_000
SEALED, CLEAR = "canary.sealed", "canary.clear"


def event(i: int, who: str) -> dict[str, object]:
    mail = f"{i}.{who}@example.com"
    return {"type": "identify", "messageId": f"m-{i}", "userId": f"{i}.{who}", "traits": {"email": mail, "x": mail}}


def test_sealed_events_are_protected_and_plaintext_of_the_same_source_is_rejected(
    kafka: str, topics: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path, SEALSTREAM_REQUIRE_SEALED="shop, app")
    published = pipeline.command("keys", "public", "--json")
    assert published.returncode == 0, published.stderr
    topic = topics + Topic.RAW
    with Producer({"bootstrap.servers": kafka}, source="shop", keys=published.stdout, topic=topic) as producer:
        for i in range(10):
            producer.send(event(i, SEALED), f"{i}.{SEALED}")

    async def send() -> None:
        config = {"bootstrap_servers": kafka}
        async with AsyncProducer(config, source="app", keys=published.stdout, topic=topic) as producer:
            for i in range(10, 20):
                await producer.send(event(i, SEALED), f"{i}.{SEALED}")

    asyncio.run(send())
    sealed = pipeline.read(Topic.RAW)
    assert len(sealed) == 20
    assert SEALED.encode() not in b"".join((r.value or b"") + repr(r).encode() for r in sealed)

    plain = [
        DemoEvent(b"k", json.dumps(event(i, CLEAR)).encode(), (("source-id", source),), NOW)
        for i, source in enumerate([b"shop", b"app", b"partner"], 20)
    ]
    assert pipeline.produce(plain) == 3
    with ending(worker := pipeline.worker("protect")):
        pipeline.wait(60, "protect")
        assert worker.terminate() == 0, worker.log
    protected, rejected = account(pipeline)
    sources = sorted(json.loads(value)["source"] for value in protected.values())
    assert sources == ["app"] * 10 + ["partner"] + ["shop"] * 10
    assert len({json.loads(value)["anchor"] for value in protected.values()}) == 21
    refused = sorted((r["reason"], r["source"]) for r in map(json.loads, rejected.values()))
    assert refused == [("not_sealed", "app"), ("not_sealed", "shop")]
    for value in (*protected.values(), *rejected.values()):
        assert b"canary" not in value
    assert "canary" not in worker.log
