"""Read what stands on a topic now, every partition from a given offset to its present end. For commands, not legs.

No consumer group is joined and nothing is committed, so reading disturbs nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from ..errors import Misuse, Transient

_BATCH = 1_000
_SLICE_SECONDS = 0.1
"""`consume` waits this long for its batch to become full, so the end of a topic costs as much."""
_PATIENCE_SECONDS = 30.0
QUIET = logging.getLogger("librdkafka")
"""For clients of which somebody says once what is the matter, and librdkafka would again and again."""


OF_NO_CONCERN = (KafkaError.GROUP_AUTHORIZATION_FAILED,)
"""Errors of the group that librdkafka wants named, and looks for, although who reads so never joins it."""


class Found(msgspec.Struct, frozen=True):
    """A record as it stands on a topic; `timestamp` in ms, -1 for none."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def __repr__(self) -> str:
        return f"Found(partition={self.partition}, offset={self.offset}, …)"


class Reader:
    """A topic between its beginning, or `since` (partition → offset), and its end at the time of construction.

    `only`: these partitions; None: all.

    Raises `Transient` when the broker does not answer within `timeout` seconds, `Misuse` for a topic that is not there.
    """

    def __init__(
        self,
        bootstrap: str,
        security: Mapping[str, str],
        topic: str,
        since: Mapping[int, int] | None = None,
        timeout: float = 10.0,
        *,
        only: Collection[int] | None = None,
    ) -> None:
        self._consumer = Consumer(
            {
                **security,
                "bootstrap.servers": bootstrap,
                "group.id": "sealstream-reader",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "socket.connection.setup.timeout.ms": 5_000,
                "logger": QUIET,
            }
        )
        self._topic = topic
        self._since = dict(since or {})
        self._only = only
        try:
            self._ends = self._find_ends(timeout)
        except KafkaException as error:
            self._consumer.close()
            raise unreachable(error) from None
        except BaseException:
            self._consumer.close()
            raise

    def _find_ends(self, timeout: float) -> dict[int, tuple[int, int]]:
        found = self._consumer.list_topics(self._topic, timeout=timeout).topics[self._topic]
        if found.error is not None:
            raise Misuse(f"topic {self._topic} is not there; run `sealstream topics apply`")
        ends = {}
        for number in found.partitions:
            if self._only is not None and number not in self._only:
                continue
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=timeout)
            ends[number] = (max(low, self._since.get(number, low)), high)
        return ends

    @property
    def partitions(self) -> tuple[int, ...]:
        return tuple(sorted(self._ends))

    @property
    def bounds(self) -> dict[int, tuple[int, int]]:
        """Partition → (first offset to be read, end)."""
        return dict(self._ends)

    @property
    def total(self) -> int:
        """How many offsets there are to read; compaction may leave fewer records."""
        return sum(max(0, high - low) for low, high in self._ends.values())

    def __iter__(self) -> Iterator[Found]:
        """Yield the records, in offset order within a partition; each time from the beginning."""
        ends = {number: end for number, (low, end) in self._ends.items() if low < end}
        self._consumer.assign([TopicPartition(self._topic, n, self._since.get(n, OFFSET_BEGINNING)) for n in ends])
        heard = time.monotonic()
        while ends:
            messages = self._consumer.consume(_BATCH, timeout=_SLICE_SECONDS)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _PATIENCE_SECONDS:
                raise Transient(f"Kafka stopped answering while {self._topic} was being read; try again")
            for message in messages:
                number, offset, error = message.partition(), message.offset(), message.error()
                if error is not None:
                    if error.code() in OF_NO_CONCERN:
                        continue
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise unreachable(KafkaException(error))
                    ends.pop(number, None)
                    continue
                end = ends.get(number)
                if end is None or offset >= end:
                    ends.pop(number, None)
                    continue
                yield Found(
                    number,
                    offset,
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    tuple(message.headers() or ()),
                )
                if offset + 1 >= end:
                    del ends[number]
        self._consumer.unassign()  # else it would go on fetching what is new

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unreachable(error: KafkaException) -> Transient:
    """Return the error to raise when Kafka does not answer, or answers with an error."""
    name = error.args[0].name() if error.args and isinstance(error.args[0], KafkaError) else "no answer"
    return Transient(
        f"Kafka does not answer as it should ({name}); check SEALSTREAM_KAFKA and the broker, then try again"
    )
