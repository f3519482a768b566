"""Sources that sign, on a real broker with a worker that runs all the time: registered, rotated, revoked, disabled.

Mutations seen red: sources on control not followed; rows written over each other, and not read again; the operator's
events not signed, or not asked to be; producers that do not sign. Of the parts: `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from confluent_kafka import Producer as Plain
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from pipeline.client import AsyncProducer, Producer
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import ending, last_values


def event(n: int, who: str = "ann") -> dict[str, Any]:
    return {"type": "identify", "messageId": f"{who}-{n}", "userId": who, "traits": {"plan": "gold"}}


def append_time(kafka: str, topic: str) -> None:
    """As `sealstream topics apply` has it: a record's time is the broker's."""
    own = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": kafka})
    changed = admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[own])])
    for future in changed.values():
        future.result(30)


class Sources:
    """The commands, and producers of this pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.topic = pipeline.prefix + Topic.RAW
        append_time(pipeline.bootstrap, self.topic)
        self.keys = pipeline.command("keys", "public", "--json").stdout

    def ask(self, *args: str) -> Any:
        done = self.pipeline.command("sources", *args, "--json")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def changed(self, *args: str) -> Any:
        """As `ask`, when the change holds."""
        told = self.ask(*args)
        time.sleep(2.1)
        return told

    def producer(self, secret: str | None, source: str = "shop") -> Producer:
        config = {"bootstrap.servers": self.pipeline.bootstrap}
        return Producer(config, source=source, keys=self.keys, secret=secret, topic=self.topic)

    def plain(self, value: bytes, *headers: tuple[str, bytes]) -> None:
        producer = Plain({"bootstrap.servers": self.pipeline.bootstrap})
        producer.produce(self.topic, value, b"k", headers=list(headers))
        assert producer.flush(30) == 0

    def fates(self) -> dict[str, int]:
        """How many records were protected, and rejected by reason; of each its origin once."""
        self.pipeline.wait(60, "protect")
        protected, rejected = account(self.pipeline)
        found = {"protected": len(protected)}
        for value in rejected.values():
            reason = json.loads(value)["reason"]
            found[reason] = found.get(reason, 0) + 1
        return found


def test_what_a_source_signs_passes_until_its_secret_is_revoked_and_what_others_send_in_its_name_does_not(
    kafka: str, topics: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    sources = Sources(pipeline)
    with ending(worker := pipeline.worker("protect")):
        sources.plain(json.dumps(event(0)).encode(), ("source-id", b"shop"))  # before it is registered
        assert sources.fates() == {"protected": 1}
        first = sources.changed("add", "shop")

        with sources.producer(first["secret"]) as producer:
            for n in range(10):
                producer.send(event(n), "ann")

        async def send() -> None:
            config = {"bootstrap_servers": kafka}
            keys, topic = sources.keys, sources.topic
            secret = first["secret"]
            async with AsyncProducer(config, source="shop", keys=keys, secret=secret, topic=topic) as producer:
                await producer.send(event(10), "ann")

        asyncio.run(send())
        assert sources.fates() == {"protected": 12}

        sources.plain(json.dumps(event(11)).encode(), ("source-id", b"shop"))
        with sources.producer(None) as producer:
            producer.send(event(12))
        other = sources.changed("add", "kiosk")
        with sources.producer(other["secret"]) as producer:  # as shop, with the secret of kiosk
            producer.send(event(13))
        with sources.producer(other["secret"], "kiosk") as producer:
            producer.send(event(14))
        assert sources.fates() == {"protected": 13, "unsigned": 2, "bad_signature": 1}

        second = sources.changed("rotate", "shop")
        for secret in (first["secret"], second["secret"]):
            with sources.producer(secret) as producer:
                producer.send(event(15))
        assert sources.fates()["protected"] == 15

        ended = revoked_while_sending(sources, first)
        with sources.producer(second["secret"]) as producer:
            producer.send(event(16))
        found = sources.fates()
        assert found["bad_signature"] > 10
        _, rejected = account(pipeline)
        late = [json.loads(v)["received_at"] for v in rejected.values() if json.loads(v)["reason"] == "bad_signature"]
        protected, _ = account(pipeline)
        early = [json.loads(v)["received_at"] for v in protected.values() if b'"live-' in v]
        assert max(early) < ended <= min(t for t in late if t > ended - 2_000)
        assert worker.terminate() == 0, worker.log
    for secret in (first, second, other):
        assert secret["secret"].encode() not in b"".join(repr(r).encode() for r in pipeline.read(Topic.CONTROL))
        assert secret["secret"] not in worker.log
    listed = sources.ask("list")["sources"]
    assert [s["source"] for s in listed] == ["kiosk", "shop"]
    assert "secret" not in listed[0]


def revoked_while_sending(sources: Sources, first: dict[str, Any]) -> int:
    """Revoke the first secret while it is in use; return the time (ms) from which it does not hold."""
    told: list[Any] = []
    kid = first["secrets"][0]["kid"]
    revoke = threading.Thread(target=lambda: told.append(sources.ask("revoke", "shop", kid)))
    with sources.producer(first["secret"]) as producer:
        revoke.start()
        n, until = 0, 0.0
        while not until or time.time() < until:
            producer.send({**event(n, "bob"), "messageId": f"live-{n}"})
            n += 1
            time.sleep(0.02)
            if told and not until:
                until = told[0]["secrets"][0]["until"] / 1000 + 1
        revoke.join()
    ended: int = told[0]["secrets"][0]["until"]
    return ended


def test_what_was_rejected_while_a_source_was_disabled_can_be_replayed_although_its_signature_is_old(
    kafka: str, topics: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path, SEALSTREAM_SIGNATURE_SECONDS="3")
    sources = Sources(pipeline)
    with ending(pipeline.worker("protect")):
        made = sources.changed("add", "shop")
        sources.changed("disable", "shop")
        with sources.producer(made["secret"]) as producer:
            for n in range(5):
                producer.send(event(n), "ann")
        assert sources.fates() == {"protected": 0, "source_disabled": 5}
        (old, *_) = [r for r in pipeline.read(Topic.RAW) if r.value]
        sources.changed("enable", "shop")
        time.sleep(1)

        sources.plain(old.value or b"", *((name, content or b"") for name, content in old.headers))  # by somebody else
        assert sources.fates()["bad_signature"] == 1  # it has a key now, and had none
        done = pipeline.command("replay", "--json")
        assert json.loads(done.stdout)["replayed"] == 6, done.stderr
        assert sources.fates() == {"protected": 5, "source_disabled": 5, "bad_signature": 2}


def test_what_several_change_at_once_all_holds(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    sources = Sources(pipeline)
    made = sources.ask("add", "shop")
    kid = made["secrets"][0]["kid"]
    with ThreadPoolExecutor() as pool:
        changes = (("revoke", "shop", kid), ("rotate", "shop"), ("disable", "shop"))
        revoked, rotated, disabled = pool.map(lambda args: sources.ask(*args), changes)
    last = json.loads(last_values(pipeline.read(Topic.CONTROL))[b"sources/shop"])
    first, second = last["secrets"]
    assert (first["kid"], first["until"]) == (kid, revoked["secrets"][0]["until"])
    assert second["kid"] == rotated["secrets"][-1]["kid"]
    assert last["off"] == disabled["off"]
    listed = sources.ask("list")["sources"][0]
    assert (listed["enabled"], listed["off"]) == (False, last["off"])


def test_nobody_but_the_holder_of_the_key_ring_decides_who_is_who(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    sources = Sources(pipeline)
    forged = {"type": "cut", "messageId": "m", "left": "x", "right": "y", "reason": "none", "operator": "eve"}
    with ending(pipeline.worker("protect")):
        sources.plain(json.dumps(forged).encode(), ("source-id", b"operator"))
        done = pipeline.command("identity", "cut", "user_id:ann", "user_id:bob", "--reason", "ticket 1")
        assert done.returncode == 0, done.stderr
        assert sources.fates() == {"protected": 1, "unsigned": 1}
