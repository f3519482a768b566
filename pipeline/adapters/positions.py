"""Where topics begin and end, and what the legs' groups have committed; and committed anew. No group is joined.

By `Consumer.committed`: the admin client's call crashes now and then while a group rebalances (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ..errors import Misuse
from .reader import unreachable
from .topic_specs import SOURCES, group_name
from .topics import admin_config

_TIMEOUT = 10.0
NO_COORDINATOR = {
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
}
"""What Kafka says of a group that nobody has joined, and while it looks for its coordinator."""
_NOT_EMPTY = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
}
"""What Kafka says to a commit from outside of a group that has members."""


def undone(
    bounds: Mapping[int, tuple[int, int]], committed: Mapping[int, int], ends: Mapping[int, int] | None = None
) -> int:
    """Records that are kept and not committed, below `ends` where they are given."""
    return sum(
        max(0, (end if ends is None else ends.get(p, 0)) - max(start, committed.get(p, 0)))
        for p, (start, end) in bounds.items()
    )


class Positions:
    """Topics go by their contractual names. Raises `Transient` and `Misuse` as `Reader` does."""

    def __init__(
        self, bootstrap: str, security: Mapping[str, str], *, prefix: str = "", group: str = "sealstream"
    ) -> None:
        self._prefix = prefix
        self._parts: dict[str, list[TopicPartition]] = {}
        self._groups = {
            leg: Consumer(
                {
                    **admin_config(bootstrap, security),
                    "group.id": group_name(leg, prefix=prefix, group=group),
                    "enable.auto.commit": False,
                }
            )
            for leg in SOURCES
        }
        self._any = next(iter(self._groups.values()))

    def close(self) -> None:
        for consumer in self._groups.values():
            consumer.close()

    def __enter__(self) -> Positions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Partition → (first offset that is kept, end)."""
        try:
            return {p.partition: self._any.get_watermark_offsets(p, timeout=_TIMEOUT) for p in self._partitions(topic)}
        except KafkaException as error:
            raise unreachable(error) from None

    def committed(self, leg: str, topic: str) -> dict[int, int]:
        """Partition → committed offset, of those that have one."""
        try:
            found = self._groups[leg].committed(self._partitions(topic), timeout=_TIMEOUT)
        except KafkaException as error:
            if error.args[0].code() in NO_COORDINATOR:
                return {}
            raise unreachable(error) from None
        return {p.partition: p.offset for p in found if p.offset >= 0}

    def move(self, leg: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit partition → offset for a leg whose group nobody is in; `Misuse` if somebody is."""
        wanted = [TopicPartition(self._prefix + topic, number, offset) for number, offset in offsets.items()]
        try:
            self._groups[leg].commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in _NOT_EMPTY:
                raise Misuse(f"somebody works on {leg}: stop its workers, then try again") from None
            raise unreachable(error) from None

    def behind(self) -> dict[str, int]:
        """Leg → records of its input that it has not committed."""
        return {leg: sum(self._behind(leg, topic) for topic in topics) for leg, topics in SOURCES.items()}

    def _behind(self, leg: str, topic: str) -> int:
        committed = self.committed(leg, topic)
        return undone(self.bounds(topic), committed)

    def _partitions(self, topic: str) -> list[TopicPartition]:
        if topic not in self._parts:
            name = self._prefix + topic
            try:
                found = self._any.list_topics(name, timeout=_TIMEOUT).topics[name]
            except KafkaException as error:
                raise unreachable(error) from None
            if found.error is not None:
                raise Misuse(f"topic {name} is not there; run `sealstream topics apply`")
            self._parts[topic] = [TopicPartition(name, number) for number in sorted(found.partitions)]
        return self._parts[topic]
