"""Both producers on librdkafka's mock cluster: what they write is sealed, complete, and placed by a key that is not
written; what is not written is said.

Mutations seen red: the key written; plaintext sent; the key ignored, or always partition 0; failures not counted, said
twice, or by `flush` alone; not given back, without their key, or not when `async with` ends; given up after five
minutes; NaN as null; plaintext to another machine, of one among others, of any spelling; what waits not said; a full
queue raises; the caller's idempotence; `async with` left without a flush, or without a bound; any source.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from aiokafka.errors import KafkaTimeoutError

from pipeline.adapters.brokers.embedded import PARTITIONS, EmbeddedBroker
from pipeline.adapters.partitioner import partitions
from pipeline.client import AsyncProducer, Producer, asynchronous, synchronous
from pipeline.crypto.sessions import write_public
from pipeline.crypto.signatures import SourceSecret
from pipeline.errors import Misuse, Transient
from tests.faults.proxy import GOOD, Proxy, Wire
from tests.integration.tools import Got, read_all
from tests.stages.event_world import ring

KEYS = write_public(ring().public_keys(0))
OPENER = ring().opener()
CANARY = "canary.4f1b@example.com"
EVENTS = [(f"{i}.{CANARY}", {"type": "page", "messageId": f"m-{i}", "userId": f"{i}.{CANARY}"}) for i in range(60)]
Send = Callable[[str, str, list[tuple[Any, Any]]], None]
"""(bootstrap, topic, [(key, event)]): written."""


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    broker = EmbeddedBroker()
    yield broker.bootstrap
    broker.close()


def by_threads(bootstrap: str, topic: str, events: list[tuple[Any, Any]]) -> None:
    with Producer({"bootstrap.servers": bootstrap}, source="shop", keys=KEYS, topic=topic) as producer:
        for key, event in events:
            producer.send(event, key)


def by_asyncio(bootstrap: str, topic: str, events: list[tuple[Any, Any]]) -> None:
    async def send() -> None:
        config = {"bootstrap_servers": bootstrap}
        async with AsyncProducer(config, source="shop", keys=KEYS, topic=topic) as producer:
            for key, event in events:
                await producer.send(event, key)

    asyncio.run(send())


BOTH = pytest.mark.parametrize("send", [by_threads, by_asyncio], ids=["sync", "async"])


def opened(record: Got) -> bytes:
    headers = dict(record.headers)
    assert list(headers) == ["source-id", "seal-key"]
    return OPENER.open((headers["source-id"] or b"").decode(), headers["seal-key"] or b"", record.value or b"")


@BOTH
def test_events_arrive_once_sealed_and_without_their_key(mock: str, send: Send) -> None:
    topic = f"arrive.{send.__name__}"
    send(mock, topic, EVENTS)
    found = read_all(mock, topic)
    assert sorted(opened(r) for r in found) == sorted(json.dumps(e, separators=(",", ":")).encode() for _, e in EVENTS)
    assert {r.key for r in found} == {None}
    assert CANARY.encode() not in b"".join(repr(r).encode() + (r.value or b"") for r in found)
    assert len({dict(r.headers)["seal-key"] for r in found}) == 1


@BOTH
def test_a_key_chooses_the_partition_as_every_kafka_client_does(mock: str, send: Send) -> None:
    topic = f"placed.{send.__name__}"
    send(mock, topic, [*EVENTS, (b"\xff\x00", b"bytes"), ("", b"empty")])
    placed = {opened(r): r.partition for r in read_all(mock, topic)}
    keys = [key.encode() for key, _ in EVENTS]
    expected = dict(zip(keys, partitions(keys, PARTITIONS), strict=True))
    assert {json.loads(event)["userId"].encode(): at for event, at in placed.items() if event[:1] == b"{"} == expected
    assert [placed[b"bytes"], placed[b"empty"]] == partitions([b"\xff\x00", b""], PARTITIONS)
    assert len(set(placed.values())) == PARTITIONS


@BOTH
def test_bytes_go_as_they_are_and_without_a_key_anywhere(mock: str, send: Send) -> None:
    topic = f"bytes.{send.__name__}"
    contents = [b"\xc3\x01 avro", b"{", b""]
    send(mock, topic, [(None, content) for content in contents])
    assert sorted(opened(r) for r in read_all(mock, topic)) == sorted(contents)


@BOTH
def test_an_event_that_cannot_be_sent_is_refused_and_the_others_arrive(mock: str, send: Send) -> None:
    topic = f"refused.{send.__name__}"
    with pytest.raises(Misuse, match="larger"):
        send(mock, topic, [(None, b"one"), (None, bytes(2 << 20))])
    with pytest.raises(TypeError):
        send(mock, topic, [("k", b"two"), ("k", {"x": object()})])
    assert sorted(opened(r) for r in read_all(mock, topic)) == [b"one", b"two"]


@pytest.mark.parametrize("source", ["", "x" * 129, "a\nb"])
def test_what_is_no_source_and_no_document_of_keys_is_misuse(source: str) -> None:
    for made in (Producer, AsyncProducer):
        with pytest.raises(Misuse, match="printable"):
            made({}, source=source, keys=KEYS)
        with pytest.raises(Misuse, match="keys public --json"):
            made({}, source="shop", keys=b"{}")


HERE = ["localhost:9092", "127.0.0.1:9092,[::1]:9092", "localhost", ""]
ELSEWHERE = ["kafka:9092", "127.0.0.1:9092, 10.0.0.7:9092", "kafka", "PLAINTEXT://kafka:9092", "localhost.example:9092"]


@pytest.mark.parametrize("protocol", [None, "", "PLAINTEXT", "plaintext", "SASL_PLAINTEXT", "SSL", "ssl", "SASL_SSL"])
@pytest.mark.parametrize("servers", [*HERE, *ELSEWHERE])
def test_nothing_goes_to_another_machine_in_clear_unless_it_is_said_to_be_insecure(
    servers: str, protocol: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confluent_kafka, "Producer", lambda _: None)
    refused = servers in ELSEWHERE and (protocol or "").lower() not in ("ssl", "sasl_ssl")
    rule = {} if protocol is None else {"security.protocol": protocol}
    makers: list[Callable[..., object]] = [
        lambda **more: Producer({"bootstrap.servers": servers, **rule}, source="shop", keys=KEYS, **more),
        lambda **more: Producer({"metadata.broker.list": servers, **rule}, source="shop", keys=KEYS, **more),
    ]
    asked = {} if protocol is None else {"security_protocol": protocol}
    for given in (servers, servers.split(",") if servers else []):
        config = {"bootstrap_servers": given, **asked}
        makers.append(partial(AsyncProducer, config, source="shop", keys=KEYS))
    for make in makers:
        make(insecure=True)
        if refused:
            with pytest.raises(Misuse, match=r"^security.protocol: not encrypted on the way to another machine"):
                make()
        else:
            make()


def test_what_is_waiting_or_given_up_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synchronous, "ASK_SECONDS", 0.1)
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, source="shop", keys=KEYS)
    producer.send(b"one")
    producer.send(b"two")
    for _ in range(2):
        with pytest.raises(Transient, match=r"^2 events are not on the broker yet; check it, then flush again$"):
            producer.flush(0.1)
    producer._producer.purge()
    with pytest.raises(Transient, match=r"^2 events were given up"):
        producer.flush(0.1)
    producer.flush(0.1)
    with pytest.raises(Transient, match="Kafka does not answer"):
        producer.send(b"where to?", "k")


async def test_asyncio_says_what_is_not_written_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "FLUSH_SECONDS", 0.2)
    broker = EmbeddedBroker()
    producer = AsyncProducer({"bootstrap_servers": broker.bootstrap}, source="shop", keys=KEYS)
    await producer.__aenter__()
    await producer.send(b"written")
    await producer.flush(20)
    broker.close()
    await producer.send(b"lost")
    async with asyncio.timeout(20):
        with pytest.raises(Transient, match="on the broker"):
            await producer.__aexit__(None, None, None)
    with pytest.raises(Transient, match="Kafka does not answer"):
        await producer.__aenter__()


async def test_flushing_again_goes_on_where_it_was_once_the_broker_is_there(mock: str) -> None:
    proxy = Proxy(int(mock.rpartition(":")[2]))
    await proxy.start()
    await proxy.set(Wire(cut=True))
    config = {"bootstrap.servers": f"127.0.0.1:{proxy.port}", "log_level": 0}
    producer = Producer(config, source="shop", keys=KEYS, topic="at.last")
    producer.send(b"one")
    producer.send(b"two")
    with pytest.raises(Transient, match=r"^2 events are not on the broker yet"):
        await asyncio.to_thread(producer.flush, 1.5)
    await proxy.set(GOOD)
    await asyncio.to_thread(producer.flush, 20)
    await proxy.stop()
    assert sorted(opened(r) for r in read_all(mock, "at.last")) == [b"one", b"two"]


def test_what_is_given_up_is_given_back_and_the_next_call_raises() -> None:
    lost: list[tuple[Any, Any, str]] = []
    config = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0, "message.timeout.ms": 100, "linger.ms": 0}
    producer = Producer(config, source="shop", keys=KEYS, on_failed=lambda *event: lost.append(event))
    event = {"type": "page"}
    producer.send(event)
    producer.send(b"two")
    assert producer._producer.flush(20) == 0
    assert [given for given, *_ in lost] == [event, b"two"]
    assert {(key, reason) for _, key, reason in lost} == {(None, "_MSG_TIMED_OUT")}
    with pytest.raises(Transient, match=r"^2 events were given up"):
        producer.send(b"three")
    producer.flush(0.1)
    producer.send(b"four")
    with pytest.raises(Transient, match=r"^1 events were given up"):
        producer.flush(20)
    assert lost[2:] == [(b"four", None, "_MSG_TIMED_OUT")]


async def test_asyncio_gives_back_what_was_given_up_and_the_next_call_raises(
    mock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given_up(*_: object, **__: object) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(KafkaTimeoutError())
        return future

    lost: list[tuple[Any, Any, str]] = []
    async with AsyncProducer(
        {"bootstrap_servers": mock}, source="shop", keys=KEYS, on_failed=lambda *event: lost.append(event)
    ) as producer:
        with monkeypatch.context() as patch:
            patch.setattr(producer._producer, "send", given_up)
            await asyncio.gather(producer.send(b"one", "k"), producer.send(b"two"))
            with pytest.raises(Transient, match=r"^2 events were given up"):
                await producer.flush()
            assert sorted(lost, key=str) == [(b"one", "k", "KafkaTimeoutError"), (b"two", None, "KafkaTimeoutError")]
            await producer.send(b"three")
            await asyncio.sleep(0)
            with pytest.raises(Transient, match=r"^1 events were given up"):
                await producer.send(b"four")
        await producer.flush()


async def test_asyncio_gives_back_what_is_not_written_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "FLUSH_SECONDS", 0.2)
    lost: list[tuple[Any, Any, str]] = []
    broker = EmbeddedBroker()
    config = {"bootstrap_servers": broker.bootstrap}
    producer = AsyncProducer(config, source="shop", keys=KEYS, on_failed=lambda *event: lost.append(event))
    await producer.__aenter__()
    await producer.send(b"written")
    await producer.flush(20)
    broker.close()
    await producer.send(b"lost")
    with pytest.raises(Transient, match=r"^1 events are not on the broker yet"):
        await producer.__aexit__(None, None, None)
    assert lost == [(b"lost", None, "not written in time")]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_does_not_have_is_refused_wherever_it_stands(mock: str, number: float) -> None:
    for value in (number, [1.5, [number]], {"a": {"b": number}}, (None, number), {number}):
        for send in (by_threads, by_asyncio):
            with pytest.raises(TypeError, match=r"^traits: numbers must be finite"):
                send(mock, "finite", [(None, {"type": "identify", "traits": value})])


def test_nothing_and_text_that_looks_like_it_are_no_numbers(mock: str) -> None:
    event = {"traits": {"a": None, "b": "null", "c": [1.5, {"d": 10**30}], "null": "NaN"}}
    by_threads(mock, "nothing", [(None, event)])
    assert [json.loads(opened(r)) for r in read_all(mock, "nothing")] == [event]


def test_a_full_queue_is_waited_for(mock: str) -> None:
    config = {"bootstrap.servers": mock, "queue.buffering.max.messages": 5, "linger.ms": 20}
    with Producer(config, source="shop", keys=KEYS, topic="queue") as producer:
        for _ in range(50):
            producer.send(b"x")
    assert len(read_all(mock, "queue")) == 50


def test_producers_are_idempotent_whatever_their_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(confluent_kafka, "Producer", given.append)
    Producer({"enable.idempotence": False}, source="shop", keys=KEYS)
    assert given[0]["enable.idempotence"] is True
    assert given[0]["message.timeout.ms"] == 0  # it never gives up
    for name in ("message.timeout.ms", "delivery.timeout.ms"):
        Producer({name: 7}, source="shop", keys=KEYS)
        assert [n for n in given[-1] if n.endswith("timeout.ms")][-1] == name  # the last one of two names counts
        assert given[-1][name] == 7
    asynchronous = AsyncProducer({"enable_idempotence": False}, source="shop", keys=KEYS)
    assert asynchronous._config["enable_idempotence"] is True


def test_the_snippet_of_the_operations_page_runs(mock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (snippet,) = re.findall(
        r"```python\n(.*?)```", page.partition("## Sealed producers")[2].partition("\n## ")[0], re.S
    )
    (tmp_path / "producer-keys.json").write_bytes(KEYS)
    secret = SourceSecret("0a1b2c3d", bytes(range(32)))
    (tmp_path / "shop.secret").write_text(secret.export() + "\n")
    monkeypatch.chdir(tmp_path)
    exec(snippet.replace("localhost:9092", mock), {})
    (record,) = read_all(mock, "events.raw")
    source, seal_key, (name, at), (_, signature) = record.headers
    assert json.loads(opened(record._replace(headers=[source, seal_key])))["type"] == "identify"
    assert (name, at is not None and at.isdigit()) == ("source-timestamp", True)
    assert signature == secret.signer("shop", "events.raw").sign(at or b"", seal_key[1], record.key, record.value)
