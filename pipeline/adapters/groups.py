"""Consumer groups seen from outside: who is in one, and how far behind it is. Nothing is joined or committed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from .reader import Reader, unreachable
from .topics import admin_config

_SOON = ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "_TIMED_OUT")
"""What Kafka says while it looks for a group's coordinator; a new cluster for some seconds."""
_ASK_SECONDS = 5.0
_QUIET = logging.getLogger("librdkafka")


def members(
    bootstrap: str, security: Mapping[str, str], groups: Iterable[str], timeout: float = 15.0
) -> dict[str, int]:
    """Return how many members each group has. One that was killed counts until its session has timed out.

    Raises `Transient` when the broker does not answer within `timeout` seconds.
    """
    admin = AdminClient(admin_config(bootstrap, security))
    until = time.monotonic() + timeout
    while True:
        asked = admin.describe_consumer_groups(list(groups), request_timeout=_ASK_SECONDS)
        try:
            return {group: len(future.result(2 * _ASK_SECONDS).members) for group, future in asked.items()}
        except KafkaException as error:
            if error.args[0].name() not in _SOON or time.monotonic() > until:
                raise unreachable(error) from None
        time.sleep(0.2)


def behind(
    bootstrap: str, security: Mapping[str, str], group: str, topics: Iterable[str], timeout: float = 15.0
) -> dict[str, int]:
    """Return how many offsets of each topic, where there are any with a record, the group has not committed yet."""
    lags = {}
    for topic in topics:
        starts, ends = _positions(bootstrap, security, group, topic, timeout)
        late = {number: ends[number] - at for number, at in starts.items() if at < ends[number]}
        if late and _has_records(bootstrap, security, topic, {number: starts[number] for number in late}):
            lags[topic] = sum(late.values())
    return lags


def _has_records(bootstrap: str, security: Mapping[str, str], topic: str, since: Mapping[int, int]) -> bool:
    """Offsets at the end may hold the markers of a producer's transactions alone, which nobody consumes or commits."""
    with Reader(bootstrap, security, topic, since, only=since.keys()) as reader:
        return next(iter(reader), None) is not None


def _positions(
    bootstrap: str, security: Mapping[str, str], group: str, topic: str, timeout: float
) -> tuple[dict[int, int], dict[int, int]]:
    """Return by partition the offset at which the group would go on, and the end.

    By a consumer that never joins: the admin client's `list_consumer_group_offsets` crashes now and then.
    """
    consumer = Consumer(
        {
            **security,
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "socket.connection.setup.timeout.ms": 5_000,
            "logger": _QUIET,
        }
    )
    try:
        parts = [
            TopicPartition(topic, n) for n in consumer.list_topics(topic, timeout=timeout).topics[topic].partitions
        ]
        marks = {tp.partition: consumer.get_watermark_offsets(tp, timeout=timeout) for tp in parts}
        committed = {tp.partition: tp.offset for tp in consumer.committed(parts, timeout=timeout)}
        starts = {number: max(low, committed[number]) for number, (low, _) in marks.items()}  # negative: none
        return starts, {number: high for number, (_, high) in marks.items()}
    except KafkaException as error:
        raise unreachable(error) from None
    finally:
        consumer.close()
