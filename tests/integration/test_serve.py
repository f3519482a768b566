"""What a real identify leg has written is served, over TLS and with the token, and still after a kill -9.

Mutations seen red: an access log; it begins at the beginning; no TLS; growth, or another incarnation, not looked for.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from sqlalchemy import select

from pipeline.adapters import keyfile
from pipeline.adapters.profile_store import POSITIONS, ProfileStore
from pipeline.demo import story
from pipeline.events import Topic
from pipeline.serve import follow
from pipeline.serve.follow import Follower
from pipeline.stages.normalize import normal
from pipeline.telemetry.metrics import PrometheusMetrics
from tests.certificates import Pair, self_signed
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import Worker, ending, ends, make_topics, wait_for

END_MS = 1_790_000_000_000
TOKEN = "t0ken-of-the-tests-with-32-chars-or-more"


class Served:
    """A `sealstream serve` process, and how to ask it."""

    def __init__(self, pipeline: Pipeline, pair: Pair) -> None:
        (pipeline.directory / "token").touch(0o600)
        (pipeline.directory / "token").write_text(TOKEN + "\n")
        context = ssl.create_default_context(cafile=pair.cert)
        context.check_hostname = False  # asked by address
        self.process: Worker = pipeline.launch(
            ["-m", "pipeline", "serve", "--port", "0"],
            state="serve",
            SEALSTREAM_SERVE_TOKEN_FILE=str(pipeline.directory / "token"),
            SEALSTREAM_SERVE_CERT_FILE=str(pair.cert),
            SEALSTREAM_SERVE_CERT_KEY_FILE=str(pair.key),
        )
        wait_for(lambda: '"event": "serving"' in self.process.log, 60, "it serves")
        found = re.search(r'"port": (\d+)', self.process.log)
        assert found is not None
        self._connection = http.client.HTTPSConnection("127.0.0.1", int(found[1]), timeout=10, context=context)

    def ask(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def complete(self) -> bool:
        status, body = self.ask("/readyz")
        return status == 200 and json.loads(body)["lag_records"] == 0

    def close(self) -> None:
        self._connection.close()

    @property
    def read(self) -> int:
        """Records that this process has read."""
        page = self.ask("/metrics")[1].decode()
        found = re.search(r'^sealstream_events_total\{leg="serve",outcome="read"\} (\d+)', page, re.MULTILINE)
        return 0 if found is None else int(found[1])


def holders(pipeline: Pipeline) -> dict[str, Any]:
    """Token → its profile, by the topic; the legs stand still and it is unique."""
    found: dict[str, list[Any]] = defaultdict(list)
    for profile in pipeline.profiles().values():
        for tokens in profile["tokens"].values():
            for token in tokens:
                found[token].append(profile)
    assert all(len(profiles) == 1 for profiles in found.values())
    return {token: profiles[0] for token, profiles in found.items()}


def check(pipeline: Pipeline, served: Served, users: set[str]) -> None:
    """Each user's profile is the one that the topic has for the token, by identifier and by every id it ever had."""
    maker = keyfile.load(pipeline.directory / "keys.json").tokenizer().at(END_MS).maker("user_id")
    expected = holders(pipeline)
    found = 0
    for user in sorted(users):
        form = normal("user_id", user)
        assert form is not None
        profile = expected.get(maker(form))
        status, body = served.ask(f"/v1/profiles/user_id/{quote(user, safe='')}")
        assert (status, json.loads(body) if profile else None) == (200 if profile else 404, profile)
        found += profile is not None
    assert found > len(users) // 2
    live = pipeline.profiles()
    for ident in {(r.key or b"").decode() for r in pipeline.read(Topic.PROFILES)}:
        status, body = served.ask(f"/v1/profiles/{ident}")
        assert status == 200
        assert json.loads(body) == live[json.loads(body)["profile_id"]]


def test_profiles_are_served_and_go_on_being_right_after_a_kill(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    pair = self_signed(tmp_path)
    events = list(story.events(1, 1_200, 40, END_MS))
    users = {u for e in events if (u := _user(e.value))}
    worker = pipeline.worker("protect,identify")
    with ending(worker):
        pipeline.produce(events[:600])
        served = Served(pipeline, pair)
        with ending(served.process), closing(served):
            pipeline.wait(60, "protect", "identify")
            wait_for(served.complete, 30, "it has read everything")
            check(pipeline, served, users)
            served.process.kill()
        pipeline.produce(events[600:])
        pipeline.wait(60, "protect", "identify")
        assert worker.terminate() == 0, worker.log
    topic = pipeline.prefix + Topic.PROFILES
    total = ends(kafka, topic)
    store = ProfileStore(f"sqlite:///{tmp_path / 'serve' / 'profiles.db'}", topic)
    stood = {partition: offset for _, partition, offset in _rows(store)}
    store.close()
    assert 0 < sum(stood.values()) < sum(total.values())
    served = Served(pipeline, pair)
    with ending(served.process), closing(served):
        wait_for(served.complete, 30, "it has read everything")
        assert served.read == sum(total.values()) - sum(stood.values())
        check(pipeline, served, users)
        assert served.process.terminate() == 0, served.process.log
    assert not [user for user in users if user in served.process.log]


@pytest.fixture
def topic(kafka: str, kafka_admin: AdminClient) -> Iterator[str]:
    """Of one partition, for this test alone."""
    name = f"t{uuid.uuid4().hex[:10]}.profiles"
    make_topics(kafka, [name], 1)
    yield name
    kafka_admin.delete_topics([name])


def test_a_topic_that_grows_or_is_made_again_is_followed_also_by_two_into_one_database(
    kafka: str, kafka_admin: AdminClient, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOK_SECONDS", "_LOOK_AT_TOPIC_SECONDS", "_AGAIN_SECONDS"):
        monkeypatch.setattr(follow, name, 0.1)
    first, second, third = (f"{n:032x}" for n in (1, 2, 3))

    def write(ident: str, partition: int) -> bytes:
        value = json.dumps({"profile_id": ident, "tokens": {"user_id": [f"user_id.1.{ident}"]}}).encode()
        producer = Producer({"bootstrap.servers": kafka})
        producer.produce(topic, value, ident.encode(), partition)
        assert producer.flush(30) == 0
        return value

    url = f"sqlite:///{tmp_path / 'profiles.db'}"
    stores = [ProfileStore(url, topic), ProfileStore(url, topic)]
    store = stores[0]
    followers = [
        Follower((kafka, {}), topic, each, PrometheusMetrics(), lambda: int(time.time() * 1000)) for each in stores
    ]

    def complete() -> bool:
        return all(each.ready and each.lag_records == 0 for each in followers)

    with ThreadPoolExecutor(2) as pool:
        following = [pool.submit(each.run) for each in followers]
        try:
            value = write(first, 0)
            wait_for(lambda: store.by_id(first) == value and complete(), 20, "they follow")
            kafka_admin.create_partitions([NewPartitions(topic, 2)])[topic].result(30)
            wait_for(lambda: len(kafka_admin.list_topics(topic, timeout=10).topics[topic].partitions) == 2, 20, "grown")
            value = write(second, 1)
            wait_for(lambda: store.by_token(f"user_id.1.{second}") == value, 20, "it follows the new partition")
            assert store.by_id(first) is not None
            wait_for(complete, 20, "they are complete")
            followers.pop().stop()
            following.pop().result(30)
            write(first, 0)
            wait_for(lambda: {row[1:] for row in _rows(store)} == {(0, 2), (1, 1)}, 20, "one goes on")
            with monkeypatch.context() as unnoticed:  # so quickly made again that no fetch has failed
                unnoticed.setattr(follow, "topic_ids", lambda *_: {topic: "another"})
                wait_for(lambda: _rows(store) == {("another", 0, 2), ("another", 1, 1)}, 20, "it is read anew")
            kafka_admin.delete_topics([topic])[topic].result(30)
            wait_for(lambda: topic not in kafka_admin.list_topics(timeout=10).topics, 20, "it is gone")
            make_topics(kafka, [topic], 2)
            value = write(third, 0)
            wait_for(lambda: store.by_id(third) == value, 20, "it follows the new one")
            assert [store.by_id(first), store.by_token(f"user_id.1.{second}")] == [None, None]
            wait_for(complete, 20, "it is complete")
        finally:
            for each in followers:
                each.stop()
            for done in following:
                done.result(30)
            for made in stores:
                made.close()


def _user(value: bytes | None) -> str | None:
    try:
        found = json.loads(value or b"")
    except ValueError:
        return None
    user = found.get("userId") if isinstance(found, dict) else None
    return user if isinstance(user, str) and user else None


def _rows(store: ProfileStore) -> set[tuple[str, int, int]]:
    """Incarnation, partition and position, of each partition."""
    with store._engine.connect() as db:
        return {(row.incarnation, row.partition, row.next_offset) for row in db.execute(select(POSITIONS))}
