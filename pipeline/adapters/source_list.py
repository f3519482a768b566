"""Sources on `control`, one to a key, and the worker's view of them, which is never older than it may be.

Rows of a key add up (`stages.sources.merged`), so that no command undoes what another wrote meanwhile. A change holds
from `LEAD_MS` after it is announced. A worker looks three times a second; where it has not seen the end of `control`
for `STALE_SECONDS` the stream waits (`ports.Dependent`). So a change is known to each worker before the first record
that it is about, and a replay comes out the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from ..boottime import clock
from ..certificates import Replaced
from ..errors import Fatal, Misuse, SealstreamError, Transient
from ..outcomes import UNDECODABLE
from ..stages.sources import LEAD_MS, Source, merged
from .reader import OF_NO_CONCERN, Reader, unreachable
from .topics import admin_config
from .writer import Writer

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.3
STALE_SECONDS = 1.0
_AGAIN_SECONDS = 0.2
_TIMEOUT = 5.0
_PREFIX = b"sources/"
Sources = dict[str, Source]


def of(rows: Mapping[bytes, bytes]) -> Sources:
    """Return the sources of rows that were added up, by name. `Misuse` for what does not read back."""
    found = {}
    for key, value in rows.items():
        if key.startswith(_PREFIX):
            source = _read(key, value)
            found[source.name] = source
    return found


def _read(key: bytes, value: bytes) -> Source:
    try:
        source = msgspec.json.decode(value, type=Source)
        if _key(source) == key and source.secrets:
            return source
    except UNDECODABLE:
        pass
    raise Misuse("control: a source does not read back; who else writes to that topic?")


def _key(source: Source) -> bytes:
    return _PREFIX + source.name.encode()


def add(rows: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    """Take a record of `control` in; one without a value takes the key away."""
    if value is None:
        rows.pop(key, None)
    elif key.startswith(_PREFIX):
        with suppress(KeyError, Misuse):  # the first one; or `of` says it of the last
            value = msgspec.json.encode(merged(_read(key, rows[key]), _read(key, value)))
        rows[key] = value


def read(bootstrap: str, security: Mapping[str, str], topic: str) -> Sources:
    """Return the sources on `control` now, by name. Raises as `Reader` does, and `of`."""
    return of(_rows(bootstrap, security, topic)[0])


def _rows(bootstrap: str, security: Mapping[str, str], topic: str) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return by key what stands on `control`, and the last row alone."""
    rows: dict[bytes, bytes] = {}
    last: dict[bytes, bytes] = {}
    with Reader(bootstrap, security, topic) as reader:
        for record in reader:
            add(rows, record.key or b"", record.value)
            last[record.key or b""] = record.value or b""
    return rows, last


def announce(
    bootstrap: str,
    security: Mapping[str, str],
    topic: str,
    change: Callable[[Sources, int], Source],
    now: Callable[[], int],
    tries: int = 1,
) -> Source:
    """Put `change` of what stands on `control`, and of the time (ms) from which it holds, there: durable well before.

    Return what stands there then: its last row has this change and those of all others. If Kafka is too slow, it is put
    there for a later time, too, `tries` times in all: nothing ends later by that, but a secret begins later.

    `Transient` if Kafka is too slow for that; it stands there nevertheless.
    """
    writer = Writer(bootstrap, security)
    writer.connect(topic)
    found = read(bootstrap, security, topic)
    ours: Source | None = None
    for _ in range(tries):
        begun = now()
        source = change(found, begun + LEAD_MS)
        ours = merged(ours or source, source)
        _put(writer, topic, _key(ours), msgspec.json.encode(ours))
        in_time = now() - begun < LEAD_MS - STALE_SECONDS * 1000
        if in_time:
            break
    assert ours is not None
    key = _key(ours)
    while True:
        rows, last = _rows(bootstrap, security, topic)
        add(rows, key, msgspec.json.encode(ours))
        if last.get(key) == rows[key]:
            break
        _put(writer, topic, key, rows[key])
    if not in_time:
        raise Transient("Kafka took too long: it holds, but may on some workers later than on others")
    return _read(key, rows[key])


def _put(writer: Writer, topic: str, key: bytes, row: bytes) -> None:
    writer.send(topic, key, row)
    writer.flush()


class SourceList:
    """What the worker knows of sources. `use` is given all of them, at once and at each change."""

    def __init__(
        self,
        kafka: tuple[str, Mapping[str, str]],
        topic: str,
        use: Callable[[Collection[Source]], None],
        clock: Callable[[], float] = clock,
    ) -> None:
        self._kafka, self._topic, self._use, self._clock = kafka, topic, use, clock
        self._replaced = Replaced(kafka[1])
        self._known: dict[bytes, bytes] = {}
        self._seen = float("-inf")
        self._failure: SealstreamError | None = None

    def check(self) -> None:
        """Return while what is known is fresh; else raise why not, `Transient` unless that cannot mend itself."""
        if self._clock() - self._seen < STALE_SECONDS:
            return
        failure = self._failure or Transient("sources: the topic control was not read in time")
        raise type(failure)(str(failure))

    def keep(self) -> None:
        """Follow the topic from now on, in a thread that ends with the process."""
        threading.Thread(target=self._keep, name="source-list", daemon=True).start()

    def _keep(self) -> None:
        while not isinstance(self._failure, Misuse | Fatal):
            try:
                with closing(self._consumer()) as consumer:
                    self.follow(consumer, lambda: time.sleep(LOOK_SECONDS))
            except KafkaException as error:
                self._failure = unreachable(error)
            except SealstreamError as error:
                self._failure = error
            except Exception as error:
                self._failure = Fatal(f"reading the sources on control failed ({type(error).__name__})")
            time.sleep(_AGAIN_SECONDS)
        log.error("sources cannot be known", reason=str(self._failure))

    def _consumer(self) -> Consumer:
        bootstrap, security = self._kafka
        return Consumer(
            {
                **admin_config(bootstrap, security),
                "group.id": "sealstream-sources",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
            }
        )

    def follow(self, consumer: Consumer, rest: Callable[[], None]) -> None:
        """Read along until another consumer is to begin anew; `rest` between two looks. Raises what Kafka answers."""
        at = TopicPartition(self._topic, 0, OFFSET_BEGINNING)
        consumer.assign([at])
        known: dict[bytes, bytes] = {}
        read = 0
        while True:
            began = self._clock()
            _, end = consumer.get_watermark_offsets(at, timeout=_TIMEOUT, cached=False)
            if end < read or self._replaced():
                return  # another topic of that name, or other certificates
            while read < end:
                read = self._take(consumer, known, read)
            self._seen_all(known, began)
            rest()

    def _take(self, consumer: Consumer, known: dict[bytes, bytes], read: int) -> int:
        message = consumer.poll(_TIMEOUT)
        if message is None:
            raise Transient("sources: Kafka stopped answering while control was being read")
        error = message.error()
        if error is not None:
            if error.code() in OF_NO_CONCERN:
                return read
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            return max(read, message.offset() or 0)
        add(known, message.key() or b"", message.value())
        return (message.offset() or 0) + 1

    def _seen_all(self, known: dict[bytes, bytes], began: float) -> None:
        if known != self._known or self._seen == float("-inf"):
            self._use(of(known).values())
            self._known = dict(known)
        if self._failure is not None:
            log.info("the sources on control can be read again")
            self._failure = None
        self._seen = began
