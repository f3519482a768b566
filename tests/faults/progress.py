"""How far the legs are: what they have committed, against what stands on their topics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipeline.adapters.topic_specs import SOURCES, group_name
from pipeline.adapters.topics import admin_config
from pipeline.events import Topic

POLL_SECONDS = 0.1
ASK_SECONDS = 3.0
STAGES: tuple[tuple[str, ...], ...] = (("protect",), ("identify", "watch"))
"""Legs in the order in which lag passes through them."""

Offsets = dict[tuple[str, int], int]
"""By topic (with its prefix) and partition."""


class Progress:
    def __init__(self, bootstrap: str, prefix: str, partitions: int) -> None:
        self._bootstrap, self._prefix, self._partitions = bootstrap, prefix, partitions
        self.reconnect()

    def reconnect(self) -> None:
        """Topics were made anew: forget what the clients know of them."""
        self._admin = AdminClient(admin_config(self._bootstrap, None))
        self._groups = {
            leg: Consumer(
                {
                    **admin_config(self._bootstrap, None),
                    "group.id": group_name(leg, prefix=self._prefix),
                    "enable.auto.commit": False,
                }
            )
            for leg in SOURCES
        }

    def _of(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(self._prefix + t, p) for t in topics for p in range(self._partitions)]

    def ends(self, topics: Iterable[str]) -> Offsets | None:
        """The next offsets to be written; None while a leader is away."""
        try:
            asked = self._admin.list_offsets(
                {tp: OffsetSpec.latest() for tp in self._of(topics)}, request_timeout=ASK_SECONDS
            )
            return {(tp.topic, tp.partition): f.result(2 * ASK_SECONDS).offset for tp, f in asked.items()}
        except (KafkaException, TimeoutError):
            # librdkafka's admin client asks with the leader epoch that it knew first, and is fenced for ever
            self._admin = AdminClient(admin_config(self._bootstrap, None))
            return None

    def committed(self, leg: str) -> Offsets | None:
        """What a leg's group has committed (0: nothing); None while its coordinator is away.

        By a consumer that never joins, and not by the admin client: see `tests.integration.tools.committed`.
        """
        try:
            found = self._groups[leg].committed(self._of(SOURCES[leg]), timeout=ASK_SECONDS)
        except KafkaException:
            return None
        return {(tp.topic, tp.partition): max(0, tp.offset) for tp in found}

    def commit(self, leg: str, offsets: Mapping[tuple[str, int], int], seconds: float = 30.0) -> None:
        """Set a group's offsets; its members must have left."""
        wanted = [TopicPartition(t, p, o) for (t, p), o in offsets.items()]
        until = time.monotonic() + seconds
        while True:
            try:
                self._groups[leg].commit(offsets=wanted, asynchronous=False)
                return
            except KafkaException:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_SECONDS)

    def lacking(self, legs: Iterable[str], seconds: float) -> str:
        """Wait until legs have committed what stands on their topics now; what is lacking after `seconds`, or ""."""
        until = time.monotonic() + seconds
        goals: dict[str, Offsets] = {}
        while True:
            lacking = []
            for leg in legs:
                if leg not in goals and (ends := self.ends(SOURCES[leg])) is not None:
                    goals[leg] = ends
                done = self.committed(leg)
                if leg not in goals or done is None:
                    lacking.append(f"the offsets of {leg} cannot be had")
                    continue
                lacking += [
                    f"{leg} {topic}/{partition}: {end - done[topic, partition]} records"
                    for (topic, partition), end in goals[leg].items()
                    if end > done[topic, partition]
                ]
            if not lacking or time.monotonic() > until:
                return ", ".join(lacking)
            time.sleep(POLL_SECONDS)

    def await_zero(self, seconds: float) -> str:
        """Wait until what stands on `events.raw` now has gone through every leg; what is lacking at the end, or ""."""
        until = time.monotonic() + seconds
        for legs in STAGES:
            if lacking := self.lacking(legs, until - time.monotonic()):
                return lacking
        return ""

    def await_rest(self, seconds: float) -> str:
        """As `await_zero`, for messages too that legs send to themselves; only while nobody produces."""
        until = time.monotonic() + seconds
        lacking = self.await_zero(seconds)
        while not lacking:
            if not (lacking := self.lacking(SOURCES, 0.0)):
                return ""
            if time.monotonic() < until:
                lacking = ""
                time.sleep(POLL_SECONDS)
        return lacking

    def raw_ends(self) -> dict[int, int]:
        """Of `events.raw`, by partition."""
        while (found := self.ends([Topic.RAW])) is None:
            time.sleep(POLL_SECONDS)
        return {partition: end for (_, partition), end in found.items()}
