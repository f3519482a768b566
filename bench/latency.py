"""From the Kafka append of a raw event to what a consumer sees of it on `events.protected` and on `profiles`.

Every device of every customer is known before: a person's first event makes a key, and a new edge goes through two
more topics. Then events come at a steady rate; `events.raw` carries the broker's append time, which a protected
record repeats as `received_at`. A consumer in this process notes when the protected record arrives, and when the first
profile arrives that holds the event's token and was last seen no earlier than the event. One machine, one clock;
Kafka's times are in whole milliseconds.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec
from confluent_kafka import Consumer, TopicPartition

from bench import workload
from bench.measure import PARTITIONS, rss_bytes, throughput
from bench.setting import Setting, setting
from pipeline.events import Topic

DEVICES = 3
TENTHS = 10
Say = Callable[[str], None]


class _Protected(msgspec.Struct):
    anchor: str
    time: int
    received_at: int


class _Profile(msgspec.Struct):
    tokens: dict[str, list[str]] = {}
    last_seen: int = 0


class Latencies(msgspec.Struct):
    """Milliseconds, by effect and percentile."""

    events: int
    seen: dict[str, int]
    p50: dict[str, float]
    p95: dict[str, float]
    p99: dict[str, float]
    rss_bytes: list[int]
    """The worker's, after each tenth of the time."""


def ours(
    bootstrap: str, rate: int, seconds: int, customers: int, seed: int, say: Callable[[str], None], warm_up: int = 20
) -> Latencies:
    """Send `rate` events/s for `seconds` after `warm_up` seconds that are not counted."""
    with setting(bootstrap) as s, s.worker("protect,identify,watch") as worker:
        say("warming up: the first event of every device")
        known = s.broker.fill(s.topic(Topic.RAW), workload.first_pass(customers, DEVICES, seed=seed))
        throughput(worker, lambda: s.broker.committed(s.group("identify"), s.topic(Topic.PROTECTED)), known)
        _settle(s, worker.check)
        stop, start_counting = threading.Event(), threading.Event()
        sent = [0]
        stream = workload.live(rate * (seconds + warm_up + 30), seed, customers, DEVICES)
        sender = threading.Thread(target=_send, args=(s, stream, rate, stop, start_counting, sent), daemon=True)
        sender.start()
        watcher = _Watcher(s, start_counting)
        rss: list[int] = []
        try:
            _watch(watcher, worker.check, warm_up)
            start_counting.set()
            say(f"{rate:,} events/s for {seconds} s")
            for _ in range(TENTHS):
                _watch(watcher, worker.check, seconds / TENTHS)
                rss.append(rss_bytes(worker.pid))
            stop.set()
            _watch(watcher, worker.check, 3)
        finally:
            stop.set()
            sender.join(10)
            watcher.close()
    return watcher.result(sent[0], rss)


def _settle(s: Setting, check: Callable[[], None], limit: float = 300.0) -> None:
    """Wait until the worker has dealt with what the first events had it write to itself, too."""
    own = s.topic(Topic.IDENTITY)
    until = time.monotonic() + limit
    while (left := s.broker.end(own) - s.broker.committed(s.group("identify"), own)) > 0:
        check()
        if time.monotonic() > until:
            raise RuntimeError(f"{left} of the worker's own messages are left after {limit:.0f} s")
        time.sleep(0.2)


def _watch(watcher: _Watcher, check: Callable[[], None], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watcher.poll()
        check()


def _send(
    s: Setting,
    stream: Iterator[tuple[bytes, bytes, list[tuple[str, bytes]]]],
    rate: int,
    stop: threading.Event,
    counting: threading.Event,
    sent: list[int],
) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": s.broker.bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
    started = time.monotonic()
    for n, (key, value, headers) in enumerate(stream):
        while (ahead := n / rate - (time.monotonic() - started)) > 0:
            producer.poll(0)
            time.sleep(min(ahead, 0.005))
        if stop.is_set():
            break
        producer.produce(s.topic(Topic.RAW), value, key, headers=headers)
        sent[0] += counting.is_set()
    producer.flush(10)


class _Watcher:
    def __init__(self, s: Setting, counting: threading.Event) -> None:
        self._counting = counting
        self._protected, self._profiles = s.topic(Topic.PROTECTED), s.topic(Topic.PROFILES)
        self._consumer = Consumer(
            {
                "bootstrap.servers": s.broker.bootstrap,
                "group.id": s.prefix + "watcher",
                "fetch.wait.max.ms": 50,
                "enable.auto.commit": False,
            }
        )
        topics = self._protected, self._profiles
        self._consumer.assign([TopicPartition(t, p, 0) for t in topics for p in range(PARTITIONS)])
        self._waiting: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._known: dict[str, int] = {}
        self._since = 0
        self._protect: list[float] = []
        self._profile: list[float] = []

    def poll(self) -> None:
        messages = self._consumer.consume(1000, timeout=0.005)
        now = time.time() * 1000
        if self._counting.is_set() and not self._since:
            self._since = int(now)
        for m in messages:
            value = m.value()
            if m.error() or value is None:
                continue
            if m.topic() == self._protected:
                event = msgspec.json.decode(value, type=_Protected)
                if self._since and event.received_at >= self._since:
                    self._protect.append(now - event.received_at)
                    if self._known.get(event.anchor, -1) >= event.time:
                        self._profile.append(now - event.received_at)  # its profile was read first
                    else:
                        self._waiting[event.anchor].append((event.time, event.received_at))
            else:
                profile = msgspec.json.decode(value, type=_Profile)
                for tokens in profile.tokens.values():
                    for token in tokens:
                        self._seen(token, profile.last_seen, now)

    def _seen(self, token: str, last_seen: int, now: float) -> None:
        self._known[token] = last_seen
        waiting = self._waiting.get(token)
        if waiting:
            self._profile += [now - at for time_, at in waiting if time_ <= last_seen]
            self._waiting[token] = [w for w in waiting if w[0] > last_seen]

    def result(self, sent: int, rss: list[int]) -> Latencies:
        by = {"protected": sorted(self._protect), "profiles": sorted(self._profile)}

        def at(share: float) -> dict[str, float]:
            return {k: round(v[min(len(v) - 1, int(len(v) * share))], 1) if v else -1.0 for k, v in by.items()}

        return Latencies(sent, {k: len(v) for k, v in by.items()}, at(0.5), at(0.95), at(0.99), rss)

    def close(self) -> None:
        self._consumer.close()
