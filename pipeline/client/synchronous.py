"""A producer that seals and signs: batches, retries and order within a partition are librdkafka's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from ..adapters.reader import unreachable
from ..errors import Misuse
from ..events import Topic
from .sealing import FLUSH_SECONDS, Event, Failures, Key, OnFailed, Sealing, check_encrypted, partition_of

ASK_SECONDS = 10.0
_NEVER_GIVEN_UP = {"message.timeout.ms": 0}
"""Or by the caller's own configuration, where it is `delivery.timeout.ms`, too."""
_KNOWN_SECONDS = 300.0
"""How long the number of partitions counts as known: librdkafka's own `topic.metadata.refresh.interval.ms`."""


class Producer:
    """Sends the events of one source, sealed and signed. For any number of threads; idempotent (acks=all).

    `config` is librdkafka's: `bootstrap.servers`, `security.protocol`, … `keys` is what `sealstream keys public --json`
    prints, `secret` what `sealstream sources add` gave; without it events are not signed. `Misuse` if they are not, or
    if `config` has another machine's Kafka without TLS and `insecure` is not set. librdkafka reads certificates once:
    when they are replaced, make another producer, and flush this one.

    An event is sent until it is there, unless `config` has a `message.timeout.ms`. What Kafka refuses for good is given
    to `on_failed` (with its key, and why), from within `send` or `flush`; the next of these calls raises. But a
    signature is valid for a quarter of an hour (SEALSTREAM_SIGNATURE_SECONDS): what waits for longer is rejected as
    `expired`, and let in by `sealstream replay --reason expired`.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        source: str,
        keys: bytes,
        secret: str | None = None,
        topic: str = Topic.RAW.value,
        on_failed: OnFailed | None = None,
        insecure: bool = False,
    ) -> None:
        if not insecure:
            servers = (config[name] for name in ("bootstrap.servers", "metadata.broker.list") if config.get(name))
            check_encrypted(servers, config.get("security.protocol"), "security.protocol")
        self._sealing = Sealing(source, keys, secret, topic)
        self._topic = topic
        self._producer = confluent_kafka.Producer({**_NEVER_GIVEN_UP, **config, "enable.idempotence": True})
        self._partitions = 0
        self._asked = 0.0
        self._failures = Failures(on_failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.flush()

    def send(self, event: Event, key: Key | None = None) -> None:
        """Seal an event (a mapping, which becomes JSON; or its bytes, JSON or Avro) and hand it over.

        `key` chooses the partition and is not written: it would stand in clear. Waits while librdkafka's queue is full,
        for as long as the broker is away.

        Raises:
            TypeError: a mapping that has no JSON, for instance with a NaN.
            Misuse: larger than a record may be, or no such topic.
            Transient: others were given up since the last call, or the number of partitions is not known, and no broker
                answers. This event was not taken.
        """
        self._producer.poll(0)
        self._failures.check()
        value, headers = self._sealing.seal(event)
        failed = self._failures.of(event, key)
        partition = -1 if key is None else partition_of(key, self._count())
        while True:
            try:
                self._producer.produce(
                    self._topic, value, partition=partition, headers=headers, on_delivery=partial(_delivered, failed)
                )
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise Misuse("an event is larger than message.max.bytes") from None
                raise unreachable(error) from None

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Return when everything sent is on all in-sync replicas.

        Raises:
            Transient: how many are not, within `timeout` seconds: they are sent on, flush again. Or how many were given
                up since the last call.
        """
        self._failures.check(self._producer.flush(timeout))

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


def _delivered(failed: Callable[[str], None], error: KafkaError | None, _: object) -> None:
    if error is not None:
        failed(error.name())
