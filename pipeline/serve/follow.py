"""Follow the topic `profiles` into the store: in a thread of its own, from where the store stands, until told to end.

Once a second it asks the broker where the topic ends: so it knows how far behind it is, and that the broker answers.
What cannot go on (another topic of the same name, one that has grown, offsets that are not there any more, another
process on the same database) begins again with `ProfileStore.begin`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from ..adapters.profile_store import ProfileStore, Slice
from ..adapters.reader import OF_NO_CONCERN, Found, unreachable
from ..adapters.topics import admin_config, topic_ids
from ..certificates import Replaced
from ..errors import Misuse, Transient
from ..events import Topic
from ..ports import LegState
from ..telemetry.metrics import PrometheusMetrics

log = structlog.get_logger(__name__)

NAME = "serve"
"""Beside the legs in metrics."""
TRUSTED_MS = 20 * 3_600_000
"""Kafka keeps tombstones for 24 h (delete.retention.ms): what was complete longer ago than this is read anew."""
_BATCH = 1_000
_SLICE_SECONDS = 0.05
"""`consume` waits this long for its batch to become full: what is new is found after about as long."""
_LOOK_SECONDS = 1.0
_LOOK_AT_TOPIC_SECONDS = 10.0
_NOTE_SECONDS = 60.0
_AGAIN_SECONDS = 1.0
_TIMEOUT = 5.0


class Follower:
    """`run` in one thread; the properties are read from any."""

    def __init__(
        self,
        kafka: tuple[str, Mapping[str, str]],
        topic: str,
        store: ProfileStore,
        metrics: PrometheusMetrics,
        now: Callable[[], int],
    ) -> None:
        """`kafka`: bootstrap servers and security properties; `now`: the time in ms."""
        self._kafka = kafka
        self._topic = topic
        self._store = store
        self._metrics = metrics
        self._now = now
        self._replaced = Replaced(kafka[1])
        self._stopping = threading.Event()
        self._away = False
        self._known = False
        self._telling = False
        self._complete_at = 0
        self._lag = 0
        metrics.state(NAME, LegState.WAITING)

    @property
    def ready(self) -> bool:
        """All that had been written when this process began was read."""
        return self._complete_at > 0

    @property
    def lag_records(self) -> int:
        """Offsets from what was read to the topic's end, as last seen."""
        return self._lag

    @property
    def lag_ms(self) -> int:
        """How long ago all that had been written was read; 0 while not ready."""
        return max(0, self._now() - self._complete_at) if self.ready else 0

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Return after `stop`. A broker or database that is away is waited for.

        Raises:
            Misuse: the topic is not there at the start, or Kafka refuses.
        """
        while not self._stopping.is_set():
            try:
                self._follow()
            except Transient as error:
                self._wait(error)
            except Misuse as error:
                if not self._known:
                    raise
                self._wait(error)  # a topic that is made again is not there for a moment

    def _wait(self, why: Exception) -> None:
        if not self._away:
            self._away = True
            log.warning("waiting", reason=str(why))
        self._stopping.wait(_AGAIN_SECONDS)

    def _follow(self) -> None:
        """Read along until stopped, or until the topic is another or has grown, or certificates were replaced."""
        try:
            with closing(_consumer(*self._kafka)) as consumer:
                admin = AdminClient(admin_config(*self._kafka))
                count = _partitions(consumer, self._topic)
                self._read(consumer, admin, self._incarnation(), count)
        except KafkaException as error:
            raise unreachable(error) from None

    def _incarnation(self) -> str:
        return topic_ids(*self._kafka, [self._topic])[self._topic]

    def _begin(self, incarnation: str, ends: Mapping[int, int]) -> dict[int, int]:
        now = self._now()
        found = self._store.begin(incarnation, ends, now, now - TRUSTED_MS)
        if any(found[number].next_offset > end for number, end in ends.items()):
            log.warning("the topic is shorter than what was read of it, and is read anew")
            self._store.forget()
            found = self._store.begin(incarnation, ends, now, now - TRUSTED_MS)
        self._known = True
        return {number: position.next_offset for number, position in found.items()}

    def _read(self, consumer: Consumer, admin: AdminClient, incarnation: str, count: int) -> None:
        parts = [TopicPartition(self._topic, number) for number in range(count)]
        at = self._begin(incarnation, _offsets(admin, parts, OffsetSpec.latest()))
        if not any(at.values()):
            self._complete_at = 0  # nothing is known of this topic yet
        lows = _offsets(admin, parts, OffsetSpec.earliest())
        consumer.assign([TopicPartition(self._topic, n, max(offset, lows[n])) for n, offset in at.items()])
        look = look_at_topic = note = 0.0
        while not self._stopping.is_set():
            clock = time.monotonic()
            if clock >= look:
                look = clock + _LOOK_SECONDS
                asked = self._now()
                if self._look(at, _offsets(admin, parts, OffsetSpec.latest()), asked) and clock >= note:
                    note = clock + _NOTE_SECONDS
                    self._store.complete(asked)
            if clock >= look_at_topic:
                look_at_topic = clock + _LOOK_AT_TOPIC_SECONDS
                if self._replaced():
                    return
                if _partitions(consumer, self._topic) != count or self._incarnation() != incarnation:
                    log.warning("the topic is another one, or has grown")
                    return
            self._take(incarnation, consumer, at)

    def _take(self, incarnation: str, consumer: Consumer, at: dict[int, int]) -> None:
        """Take in what has come; `at`: partition → position, which is moved."""
        found: dict[int, list[Found]] = {}
        after = dict(at)
        for message in consumer.consume(_BATCH, timeout=_SLICE_SECONDS):
            number, offset, error = message.partition(), message.offset(), message.error()
            if error is None:
                record = Found(number, offset, message.timestamp()[1], message.key(), message.value(), ())
                found.setdefault(number, []).append(record)
                after[number] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                after[number] = max(after[number], offset)  # what compaction has left out at the end
            elif error.code() not in OF_NO_CONCERN:
                raise KafkaException(error)
        moved = [n for n, offset in after.items() if offset != at[n]]
        if moved:
            started = time.perf_counter()
            unreadable = self._store.take(incarnation, [Slice(n, at[n], after[n], found.get(n, ())) for n in moved])
            records = sum(map(len, found.values()))
            self._metrics.batch(NAME, Topic.PROFILES, records, time.perf_counter() - started)
            self._metrics.outcomes(NAME, {("read", ""): records - unreadable, ("unreadable", ""): unreadable})
            at.update(after)

    def _look(self, at: Mapping[int, int], ends: Mapping[int, int], asked: int) -> bool:
        """Note how far behind the ends of the time `asked` (ms) the reading is; True if it is not."""
        for number, end in ends.items():
            self._metrics.lag(NAME, Topic.PROFILES, number, max(0, end - at[number]))
        self._lag = sum(max(0, end - at[number]) for number, end in ends.items())
        if self._away:
            self._away = False
            log.info("going on")
        if self._lag == 0:
            if not self.ready:
                self._telling = False
                log.info("caught up")
                self._metrics.state(NAME, LegState.RUNNING)
            self._complete_at = asked
            return True
        if not self.ready and not self._telling:
            self._telling = True
            log.info("reading profiles", records=self._lag)
            self._metrics.state(NAME, LegState.RECOVERING)
        return False


def _consumer(bootstrap: str, security: Mapping[str, str]) -> Consumer:
    return Consumer(
        {
            **admin_config(bootstrap, security),
            "group.id": "sealstream-serve",  # librdkafka wants one; it is never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",  # an offset that is not there any more belongs to another log
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 16_384,
        }
    )


def _partitions(consumer: Consumer, topic: str) -> int:
    found = consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic]
    if found.error is not None:
        raise Misuse(f"topic {topic} is not there; run `sealstream topics apply`")
    return len(found.partitions)


def _offsets(admin: AdminClient, parts: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
    asked = admin.list_offsets(dict.fromkeys(parts, which), request_timeout=_TIMEOUT)
    return {part.partition: future.result(2 * _TIMEOUT).offset for part, future in asked.items()}
