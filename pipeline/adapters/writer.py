"""Write records to topics and know that they are there. For commands, not legs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException, Producer

from ..errors import Transient
from .reader import unreachable
from .topics import admin_config

_CONNECT_SECONDS = 10.0
_FLUSH_SECONDS = 30.0


class Writer:
    """An idempotent producer (acks=all); without a given partition it is murmur2 of the key."""

    def __init__(self, bootstrap: str, security: Mapping[str, str], compression: str = "none") -> None:
        self._failed = 0
        self._producer = Producer(
            {
                **admin_config(bootstrap, security),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": compression,
                "message.max.bytes": 128 << 20,
            }
        )

    def connect(self, topic: str) -> None:
        """Return when the broker answers: what is sent next does not wait for a connection. `Transient` in 10 s."""
        try:
            self._producer.list_topics(topic, timeout=_CONNECT_SECONDS)
        except KafkaException as error:
            raise unreachable(error) from None

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        timestamp: int = 0,
        headers: Sequence[tuple[str, bytes | None]] = (),
        partition: int = -1,
    ) -> None:
        """Hand over a record; `timestamp` in ms, 0 for now. It is written once `flush` has returned."""
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    headers=list(headers),
                    timestamp=timestamp,
                    on_delivery=self._told,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise unreachable(error) from None
        self._producer.poll(0)

    def _told(self, error: object, _: object) -> None:
        self._failed += error is not None

    def flush(self) -> None:
        """Return when everything sent is on all in-sync replicas.

        Raises:
            Transient: it is not, within 30 s; some of it may be.
        """
        if self._producer.flush(_FLUSH_SECONDS) or self._failed:
            raise Transient("not every record was written; check the broker, then try again")
