"""What the tests on a broker share: make topics, write, read all of it back, start and end workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.adapters.topic_specs import is_claim


class Got(NamedTuple):
    """A record as read back."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def make_topics(bootstrap: str, names: Iterable[str], partitions: int, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [NewTopic(name, partitions, 1, config=config) for name in names]
    for future in admin.create_topics(new).values():
        future.result(30)
    wanted = {n.topic for n in new}
    wait_for(lambda: wanted <= admin.list_topics(timeout=10).topics.keys(), 30, "topics are there")


def produce(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[bytes | None, bytes | None]],
    *,
    pause: float = 0.0,
    every: int = 500,
) -> int:
    """Write (key, value) pairs by murmur2 of the key, waiting `pause` seconds after `every` records; how many."""
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5})
    n = 0
    for n, (key, value) in enumerate(records, 1):
        producer.produce(topic, value=value, key=key, on_delivery=lambda e, _: failed.append(e) if e else None)
        if n % every == 0:
            producer.poll(0)
            if pause:
                producer.flush(30)
                time.sleep(pause)
    assert producer.flush(30) == 0
    assert not failed
    return n


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    """The end offset of each partition."""
    return {partition: end for (_, partition), end in ends_of(bootstrap, [topic]).items()}


def ends_of(bootstrap: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The end offset of each partition of these topics, by one client: most of the time goes into making one."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "ends"})
    try:
        return {
            (topic, p): _end(consumer, TopicPartition(topic, p))
            for topic in topics
            for p in consumer.list_topics(topic, timeout=10).topics[topic].partitions
        }
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    """A partition that is a moment old has a leader that does not know it yet."""
    until = time.monotonic() + 10
    while True:
        try:
            return int(consumer.get_watermark_offsets(partition, timeout=10)[1])
        except KafkaException as error:
            if error.args[0].name() != "NOT_LEADER_FOR_PARTITION" or time.monotonic() > until:
                raise
            time.sleep(0.1)


def read_all(bootstrap: str, topic: str) -> list[Got]:
    """Every record of a topic up to its present end, by partition and offset."""
    todo = {p: end for p, end in ends(bootstrap, topic).items() if end > 0}
    found: list[Got] = []
    if not todo:
        return found
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "read-all",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 32 << 20,
            "fetch.wait.max.ms": 20,  # at the end of a partition nothing more comes
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in todo])
    try:
        until = time.monotonic() + 60
        while todo and time.monotonic() < until:
            for m in consumer.consume(5000, timeout=0.05):
                if m.error():
                    if m.error().name() == "_PARTITION_EOF" and m.offset() >= todo.get(m.partition(), 0):
                        todo.pop(m.partition(), None)
                    continue
                found.append(
                    Got(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), list(m.headers() or ()))
                )
        assert not todo, f"{topic} was not read to its end"
        return sorted(found, key=lambda g: g[:2])
    finally:
        consumer.close()


def last_values(records: Iterable[Got]) -> dict[bytes | None, bytes]:
    """What compaction leaves of them, without tombstones and, of a changelog, claims."""
    last: dict[bytes | None, bytes | None] = {}
    for r in records:
        last[r.key] = r.value
    return {k: v for k, v in last.items() if v is not None and not is_claim(k or b"")}


def committed(bootstrap: str, group: str, topics: Iterable[str], partitions: int = 4) -> dict[tuple[str, int], int]:
    """A group's committed offsets, asked for by a consumer that never joins it.

    Not by the admin client: its `list_consumer_group_offsets` (librdkafka 2.x) crashes the process now and then while
    the group rebalances.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        found = consumer.committed([TopicPartition(t, p) for t in topics for p in range(partitions)], timeout=30)
        return {(tp.topic, tp.partition): tp.offset for tp in found if tp.offset >= 0}
    except KafkaException as error:
        if error.args[0].name() in ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"):  # nobody has joined the group yet
            return {}
        raise
    finally:
        consumer.close()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"after {seconds:g} s it is still not so that {what}"
        time.sleep(0.1)


class Worker:
    """A worker process with its log in a file."""

    def __init__(self, args: list[str], log: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.log_path = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *args], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}, cwd=cwd
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def terminate(self, seconds: float = 15) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds)

    @property
    def up(self) -> bool:
        """It has, or had, partitions."""
        return "partitions assigned" in self.log

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@contextmanager
def ending(*workers: Worker) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            if worker.running:
                worker.kill()
