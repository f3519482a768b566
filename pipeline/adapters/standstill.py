"""Whether an installation stands still: nobody works, and nothing is left to do. No group is joined."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from .positions import NO_COORDINATOR, Positions
from .reader import Reader, unreachable
from .topic_specs import SOURCES, group_name
from .topics import admin_config

_SOON = {*NO_COORDINATOR, KafkaError._TIMED_OUT}
"""A new cluster says so for some seconds."""
_ASK_SECONDS = 5.0


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
            if error.args[0].code() not in _SOON or time.monotonic() > until:
                raise unreachable(error) from None
        time.sleep(0.2)


def blockers(
    bootstrap: str,
    security: Mapping[str, str],
    positions: Positions,
    may_wait: Collection[str] = (),
    *,
    prefix: str = "",
    group: str = "sealstream",
) -> Iterator[str]:
    """What must be done before nothing moves any more. Topics in `may_wait` may hold records that are not consumed."""
    groups = {leg: group_name(leg, prefix=prefix, group=group) for leg in SOURCES}
    for name, number in members(bootstrap, security, groups.values()).items():
        if number:
            yield f"{name} has {number} members: stop the workers (a killed one counts until its session ends)"
    for leg, topics in SOURCES.items():
        for topic in topics:
            if topic not in may_wait and (lag := _lag(bootstrap, security, positions, leg, topic, prefix)):
                yield (
                    f"{groups[leg]} is {lag} records behind the end of {topic}: stop the producers, let the workers "
                    "run until its lag is zero, then stop them"
                )


def _lag(bootstrap: str, security: Mapping[str, str], positions: Positions, leg: str, topic: str, prefix: str) -> int:
    """Offsets that the leg has not committed, 0 if they hold no record but the ends of producers' transactions."""
    bounds, committed = positions.bounds(topic), positions.committed(leg, topic)
    starts = {p: max(low, committed.get(p, 0)) for p, (low, _) in bounds.items()}
    late = {p: at for p, at in starts.items() if at < bounds[p][1]}
    if not late:
        return 0
    with Reader(bootstrap, security, prefix + topic, late, only=late.keys()) as reader:
        return reader.total if next(iter(reader), None) is not None else 0
