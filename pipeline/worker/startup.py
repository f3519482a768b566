"""Wait for the broker, then check the topics: what must be true before a leg may start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ..adapters.topics import admin_config, topic_ids
from ..errors import Misuse, Transient

if TYPE_CHECKING:
    from .engine import EngineConfig

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def answered(ask: Callable[[], T], bootstrap: str) -> T:
    """Return what `ask` does, in a thread.

    A broker, or the provider of the KEK, that is away is waited for without end, with backoff, said once.
    """
    wait = 0.5
    said = False
    while True:
        try:
            answer = await asyncio.to_thread(ask)
            break
        except (KafkaException, Transient) as e:
            if not said:
                reason = str(e) if isinstance(e, Transient) else "the broker does not answer"
                log.warning("waiting for what does not answer", bootstrap=bootstrap, reason=reason)
                said = True
            await asyncio.sleep(wait)
            wait = min(wait * 2, 5.0)
    if said:
        log.info("it answers")
    return answer


async def await_topics(config: EngineConfig, groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the topics' incarnations (topic ids); waits for the broker as `answered` does.

    Raises:
        Misuse: a topic is missing, or co-partitioned topics differ in their number of partitions from each other,
            or from `config.partitions`.
    """
    names = sorted({t for group in groups for t in group})
    counts, ids = await answered(
        lambda: (_partition_counts(config), topic_ids(config.bootstrap, config.security, names)), config.bootstrap
    )
    for group in groups:
        missing = [t for t in group if t not in counts]
        if missing:
            raise Misuse(f"topics are missing: {', '.join(missing)}; run `sealstream topics apply`")
        if len({counts[t] for t in group}) > 1:
            found = ", ".join(f"{t}: {counts[t]}" for t in group)
            raise Misuse(
                f"these topics must have the same number of partitions, but have {found}; "
                "if `sealstream topics resize` was interrupted, repeat it"
            )
        if config.partitions is not None and counts[group[0]] != config.partitions:
            raise Misuse(
                f"{group[0]} has {counts[group[0]]} partitions, the settings say {config.partitions}: "
                f"set SEALSTREAM_PARTITIONS={counts[group[0]]}"
            )
    return ids


def _partition_counts(config: EngineConfig) -> dict[str, int]:
    metadata = AdminClient(admin_config(config.bootstrap, config.security)).list_topics(timeout=5)
    return {name: len(t.partitions) for name, t in metadata.topics.items()}
