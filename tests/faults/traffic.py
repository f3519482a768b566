"""A steady producer, in a thread: events of the benchmarks' workload at a given rate, and canaries among them.

A canary is a numbered event of a person of its own: at the end exactly one profile must have it, and count it once.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import count
from typing import Any, Self
from uuid import UUID

from confluent_kafka import Producer

from bench import workload
from pipeline.adapters.topics import admin_config
from tests.faults.launch import POISON

CANARY_EVERY = 100
ENDLESS = 1 << 40
TICK_SECONDS = 0.02
FLUSH_SECONDS = 120.0

Place = tuple[int, int]
"""Partition and offset."""


class Traffic:
    def __init__(self, bootstrap: str, topic: str, rate: float, seed: int, customers: int) -> None:
        self._bootstrap, self._topic, self._rate = bootstrap, topic, rate
        self._events = workload.events(ENDLESS, seed, customers)
        self._numbers = count(1)
        self._seed = seed
        self._going = threading.Event()
        self._ending = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._producer = self._new_producer()
        self.acknowledged = 0
        self.failed = 0
        self.canaries: dict[int, Place] = {}
        """Of this incarnation of the topic: by number, where it stands."""

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **admin_config(self._bootstrap, None),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 10,
                "message.timeout.ms": int(FLUSH_SECONDS * 1000),
                "topic.metadata.refresh.interval.ms": 2_000,
            }
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._going.set()
        self._thread.join()

    def go(self) -> None:
        self._idle.clear()
        self._going.set()

    def pause(self) -> None:
        """Return when all that was sent is acknowledged."""
        self._going.clear()
        assert self._idle.wait(FLUSH_SECONDS), "the producer does not come to rest"

    def again(self) -> None:
        """The topic was made anew: so is the producer. Only while paused."""
        assert self._idle.is_set()
        self._producer = self._new_producer()
        self.canaries = {}

    def burst(self, events: Iterable[workload.Raw]) -> int:
        """Send these as fast as they are taken; how many. Only while paused."""
        assert self._idle.is_set()
        before = self.acknowledged
        for event in events:
            self._send(*event)
        assert self._producer.flush(FLUSH_SECONDS) == 0
        return self.acknowledged - before

    def poison(self) -> None:
        """One valid event that kills whoever decodes it, with the launcher's help."""
        number = next(self._numbers)
        key, value = _canary(self._seed, number)
        self._send(key, value[:-1] + b',"properties":{"kind":' + POISON + b"}}", [])

    def _run(self) -> None:
        while not self._ending.is_set():
            if not self._going.is_set():
                if self._producer.flush(0.5) == 0 and not self._going.is_set():
                    self._idle.set()
                self._going.wait(0.5)
                continue
            self._idle.clear()
            began, sent = time.monotonic(), 0
            while self._going.is_set() and not self._ending.is_set():
                while sent < (time.monotonic() - began) * self._rate:
                    sent += 1
                    self._one(sent)
                self._producer.poll(0)
                time.sleep(TICK_SECONDS)

    def _one(self, n: int) -> None:
        if n % CANARY_EVERY == 0:
            number = next(self._numbers)
            key, value = _canary(self._seed, number)

            def settled(place: Place, number: int = number) -> None:
                self.canaries[number] = place

            self._send(key, value, [], settled)
        else:
            self._send(*next(self._events))

    def _send(self, key: bytes, value: bytes, headers: Any, settled: Callable[[Place], None] | None = None) -> None:
        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                self.failed += 1
                return
            self.acknowledged += 1
            if settled is not None:
                settled((message.partition(), message.offset()))

        while True:
            try:
                self._producer.produce(self._topic, value, key, headers=headers, on_delivery=delivered)
                return
            except BufferError:
                self._producer.poll(0.1)


def _canary(seed: int, number: int) -> tuple[bytes, bytes]:
    """Key and value."""
    anonymous = str(UUID(int=(seed << 64) + number))
    event = {
        "type": "track",
        "event": "Canary Sent",
        "messageId": f"canary-{number}",
        "anonymousId": anonymous,
        "timestamp": datetime.fromtimestamp(workload.BEGIN_MS / 1000, UTC).isoformat().replace("+00:00", "Z"),
    }
    return anonymous.encode(), json.dumps(event, separators=(",", ":")).encode()
