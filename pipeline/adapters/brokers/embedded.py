"""librdkafka's mock cluster, in this process: from pip alone, there at once.

One broker on a loopback port; topics appear when asked for, with 4 partitions. No admin API, topic ids, persistence,
compaction or SASL: for the demo and fast tests, never for the guarantees.
"""

from __future__ import annotations

from confluent_kafka import Producer

from .process import Kind

PARTITIONS = 4
"""Of every topic; the mock cluster's own number."""


class EmbeddedBroker:
    kind = Kind.EMBEDDED

    def __init__(self) -> None:
        self._cluster: Producer | None = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._cluster.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{b.host}:{b.port}" for b in brokers)

    def close(self) -> None:
        """End the cluster; what was on it is gone."""
        self._cluster = None
