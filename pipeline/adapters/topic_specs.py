"""Which topics there are, and how Kafka should have them: names, partitions, configuration. Pure data.

Record times. `events.raw` carries the broker's own append time: key versions, event times, windows and profile ids go
by it, so it must not be the producer's word. Everything further on carries times that derive from it, and only so is
time a safe measure for retention: with producers' times (`append_time=False`: the demo and tests, which replay a past)
a record dated 1970 would be deleted before it is read, and therefore nothing expires then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

import msgspec

from ..events import Topic

MiB = 1 << 20
RAW_BYTES = 12 * MiB
"""Kafka's limit on a batch of `events.raw`: above what we accept, so that `too_large` is our reject, on record."""
RECORD_BYTES = 17 * MiB
"""The same where a sealed 12 MiB original travels in base64 (4/3 of it), and for rows of state."""

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
COMPACTION_MS = 10 * MINUTE
"""A destroyed subject key is gone from closed segments after about this time (Kafka rolls a segment on an append)."""

CHANGELOG = "-changelog"
"""How the names of changelogs end, and of no other topic."""
CLAIM = b"\xffclaim "
"""In a changelog, how the key of a claim begins, and of no row: from there on only its writer's rows count.

It goes on with what nobody else's claim has, so that compaction keeps every claim: a reader who found a row but not the
claim before it would take it for a fenced writer's (`worker.fencing`).
"""


def is_claim(key: bytes) -> bool:
    return key.startswith(CLAIM)


def is_row(key: bytes | None) -> TypeGuard[bytes]:
    """Whether a changelog's record is a row, or deletes one."""
    return bool(key) and not is_claim(key or b"")


SOURCES: dict[str, tuple[str, ...]] = {
    "protect": (Topic.RAW.value,),
    "identify": (Topic.PROTECTED.value, Topic.IDENTITY.value),
    "watch": (Topic.PROTECTED.value, Topic.REJECTED.value, Topic.WATCH.value),
}
"""What each leg reads."""

CHANGELOGS: tuple[tuple[str, str], ...] = (
    ("protect", "subject-keys"),
    ("identify", "tokens"),
    ("identify", "evidence"),
    ("watch", "watch-open"),
    ("watch", "watch-state"),
)
"""(leg, table) of every state table; wiring asserts that the legs say the same."""

SUBJECT_KEYS, TOKENS, EVIDENCE = "protect/subject-keys", "identify/tokens", "identify/evidence"
"""Changelogs by the names that commands go by, "<leg>/<table>"."""

SECRETS = frozenset({("protect", "subject-keys")})
"""Tables whose deleted rows must leave the disk soon (erasure, DESIGN §5)."""


class Spec(msgspec.Struct, frozen=True):
    """A topic as it should be. `config` by Kafka's names."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str] = {}


def group_name(leg: str, *, prefix: str = "", group: str = "sealstream") -> str:
    """Return the consumer group of a leg."""
    return f"{prefix}{group}-{leg}"


def changelog_name(leg: str, table: str, *, prefix: str = "", group: str = "sealstream") -> str:
    return f"{group_name(leg, prefix=prefix, group=group)}-{table}{CHANGELOG}"


def specs(
    partitions: int,
    replication: int,
    *,
    prefix: str = "",
    group: str = "sealstream",
    append_time: bool = True,
    changelogs: Iterable[tuple[str, str]] = CHANGELOGS,
) -> tuple[Spec, ...]:
    """Return every topic of DESIGN §3 and the changelog of every table.

    All have `partitions` partitions, since keys must meet, but `control`, which every worker reads whole.
    """
    common = {"min.insync.replicas": "2"} if replication > 2 else {}

    def spec(name: str, config: Mapping[str, str], count: int = partitions) -> Spec:
        return Spec(prefix + name, count, replication, {**common, **config})

    def kept(days: int | None, limit: int = RECORD_BYTES) -> dict[str, str]:
        config = {"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(limit)}
        if days is None or not append_time:
            return config
        # Kafka deletes whole segments, by their newest record: by so much may the oldest one outlive its retention
        return {**config, "retention.ms": str(days * DAY), "segment.ms": str(DAY)}

    compacted = {"cleanup.policy": "compact", "max.message.bytes": str(RECORD_BYTES)}
    raw_time = "LogAppendTime" if append_time else "CreateTime"
    topics = [
        spec(Topic.RAW, {**kept(7, RAW_BYTES), "message.timestamp.type": raw_time}),
        spec(Topic.PROTECTED, kept(None)),  # `identity recompute` proves profiles from all of it
        spec(Topic.REJECTED, kept(30)),
        spec(Topic.RESOLVED, kept(30)),
        spec(Topic.IDENTITY, kept(7)),
        spec(Topic.PROFILES, {**compacted, "max.compaction.lag.ms": str(DAY)}),
        spec(Topic.ALERTS, kept(30, MiB)),
        spec(Topic.AUDIT, kept(None, MiB)),
        spec(Topic.WATCH, kept(7)),
        spec(Topic.CONTROL, {**compacted, "max.compaction.lag.ms": str(DAY)}, 1),
    ]
    for leg, table in changelogs:
        lag = COMPACTION_MS if (leg, table) in SECRETS else DAY
        name = changelog_name(leg, table, group=group)
        topics.append(spec(name, {**compacted, **_changelog(lag)}))
    return tuple(topics)


def _changelog(lag: int) -> dict[str, str]:
    """Nobody reads a changelog's times, so they are the broker's: segments roll and compact by its clock."""
    return {
        "message.timestamp.type": "LogAppendTime",
        "max.compaction.lag.ms": str(lag),
        "min.compaction.lag.ms": str(MINUTE),  # a fenced writer's last row must be found before it is all that is left
        "segment.ms": str(lag),
        "segment.bytes": str(32 * MiB),  # what recovery reads uncompacted, per partition; above `RECORD_BYTES`
        "min.cleanable.dirty.ratio": "0.1",
    }


def _at_least(found: str, wanted: str) -> bool:
    return found == "-1" or (wanted != "-1" and int(found) >= int(wanted))


def _at_most(found: str, wanted: str) -> bool:
    return float(found) <= float(wanted)


_RULES: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "cleanup.policy": ("", str.__eq__),
    "message.timestamp.type": ("", str.__eq__),
    "max.message.bytes": ("at least ", _at_least),
    "retention.ms": ("at least ", _at_least),
    "min.insync.replicas": ("at least ", _at_least),
    "max.compaction.lag.ms": ("at most ", _at_most),
    "segment.ms": ("at most ", _at_most),
}
"""What must hold of an existing topic; the rest of a spec's configuration is advice for a new one."""


def differences(spec: Spec, shape: tuple[int, int], config: Mapping[str, str] | None) -> list[str]:
    """Return how a topic of `shape` (partitions, least replicas) and `config` (None: unknown) falls short of `spec`."""
    found = []
    partitions, replicas = shape
    if partitions != spec.partitions:
        more = "; see `sealstream topics resize`" if partitions < spec.partitions else ""
        found.append(f"partitions: {partitions}, wanted {spec.partitions}{more}")
    if replicas < spec.replication:
        found.append(f"replication: {replicas}, wanted at least {spec.replication}")
    for name, (words, holds) in _RULES.items():
        wanted = spec.config.get(name)
        value = None if config is None else config.get(name)
        if wanted is not None and value is not None and not holds(value, wanted):
            found.append(f"{name}: {value}, wanted {words}{wanted}")
    return found
