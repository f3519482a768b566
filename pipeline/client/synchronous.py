"""A producer that seals and signs: batches, retries and order within a partition are librdkafka's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from ..adapters.reader import unreachable
from ..errors import Misuse
from ..events import Topic
from .sealing import FLUSH_SECONDS, Event, Key, Sealing, partition_of, unwritten

ASK_SECONDS = 10.0
_KNOWN_SECONDS = 300.0
"""How long the number of partitions counts as known: librdkafka's own `topic.metadata.refresh.interval.ms`."""


class Producer:
    """Sends the events of one source, sealed and signed. For any number of threads; idempotent (acks=all).

    `config` is librdkafka's: `bootstrap.servers`, `security.protocol`, … `keys` is what `sealstream keys public --json`
    prints, `secret` what `sealstream sources add` gave; without it events are not signed. `Misuse` if they are not.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        source: str,
        keys: bytes,
        secret: str | None = None,
        topic: str = Topic.RAW.value,
    ) -> None:
        self._sealing = Sealing(source, keys, secret, topic)
        self._topic = topic
        self._producer = confluent_kafka.Producer({**config, "enable.idempotence": True})
        self._partitions = 0
        self._asked = 0.0
        self._failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.flush()

    def send(self, event: Event, key: Key | None = None) -> None:
        """Seal an event (a mapping, which becomes JSON; or its bytes, JSON or Avro) and hand it over.

        `key` chooses the partition and is not written: it would stand in clear. Waits while librdkafka's queue is full.

        Raises:
            Misuse: larger than a record may be, or no such topic.
            Transient: the number of partitions is not known, and no broker answers.
        """
        value, headers = self._sealing.seal(event)
        partition = -1 if key is None else partition_of(key, self._count())
        while True:
            try:
                self._producer.produce(
                    self._topic, value, partition=partition, headers=headers, on_delivery=self._delivered
                )
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise Misuse("an event is larger than message.max.bytes") from None
                raise unreachable(error) from None
        self._producer.poll(0)

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Return when everything sent is on all in-sync replicas.

        Raises:
            Transient: it is not, within `timeout` seconds, or was given up since the last call.
        """
        waiting, failed = self._producer.flush(timeout), self._failed
        self._failed -= failed
        if waiting or failed:
            raise unwritten(waiting + failed)

    def _delivered(self, error: object, _: object) -> None:
        self._failed += error is not None

    def _count(self) -> int:
        now = time.monotonic()
        if not self._partitions or now - self._asked > _KNOWN_SECONDS:
            try:
                found = self._producer.list_topics(self._topic, timeout=ASK_SECONDS).topics[self._topic]
            except KafkaException as error:
                raise unreachable(error) from None
            if found.error is not None:
                raise Misuse(f"topic {self._topic} is not there")
            self._partitions, self._asked = len(found.partitions), now
        return self._partitions
