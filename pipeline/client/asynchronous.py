"""A producer that seals and signs, for asyncio: batches, retries and order within a partition are aiokafka's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from ..errors import Misuse, Transient
from ..events import Topic
from .sealing import FLUSH_SECONDS, Event, Failures, Key, OnFailed, Sealing, check_encrypted, partition_of


class AsyncProducer:
    """Sends the events of one source, sealed and signed; idempotent (acks=all). To be used with `async with`.

    `config` are aiokafka's arguments: `bootstrap_servers`, `security_protocol`, … `keys`, `secret`, `on_failed` and
    `insecure` are those of `Producer`; `Misuse` as there. What is not written when `async with` is left is given up.
    With a `pipeline.certificates.ClientContext` as `ssl_context` certificates may be replaced at any time.
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
            check_encrypted(config.get("bootstrap_servers") or (), config.get("security_protocol"), "security_protocol")
        self._sealing = Sealing(source, keys, secret, topic)
        self._config = {**config, "enable_idempotence": True}
        self._topic = topic
        self._failures = Failures(on_failed)
        self._waiting: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        """`Transient` if no broker answers."""
        self._producer = AIOKafkaProducer(**self._config)
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise Transient(f"Kafka does not answer as it should ({type(error).__name__})") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            await self.flush(FLUSH_SECONDS)
        except Transient:
            # aiokafka never gives up an idempotent batch, and its `stop` would wait for it
            await self._producer._sender.close()
            await self._producer.client.close()
            self._producer._closed = True
            for written in self._waiting:
                written.cancel()
            await asyncio.sleep(0)  # they have their callback
            raise
        finally:
            await self._producer.stop()

    async def send(self, event: Event, key: Key | None = None) -> None:
        """Seal an event and hand it over, as `Producer.send` does. Waits while its partition's batch is full."""
        self._failures.check()
        value, headers = self._sealing.seal(event)
        try:
            count = 0 if key is None else len(await self._producer.partitions_for(self._topic))
            partition = None if key is None else partition_of(key, count)
            written = await self._producer.send(self._topic, value, partition=partition, headers=headers)
        except MessageSizeTooLargeError:
            raise Misuse("an event is larger than max_request_size") from None
        except KafkaError as error:
            raise Transient(f"Kafka does not answer as it should ({type(error).__name__})") from None
        self._waiting.add(written)
        written.add_done_callback(partial(self._delivered, self._failures.of(event, key)))

    async def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Return when everything sent is on all in-sync replicas, as `Producer.flush` does."""
        sent = set(self._waiting)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._producer.flush()
                await asyncio.sleep(0)  # what is done by now has its callback
        self._failures.check(len(sent & self._waiting))

    def _delivered(self, failed: Callable[[str], None], written: asyncio.Future[Any]) -> None:
        self._waiting.discard(written)
        if written.cancelled():
            failed("not written in time")
        elif (error := written.exception()) is not None:
            failed(type(error).__name__)
