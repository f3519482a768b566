"""Three Kafka brokers in one KRaft cluster on loopback, each behind a proxy for the workers.

A broker has two listeners for clients: PLAINTEXT, direct, for the harness and among the brokers; WORKERS, advertised at
its proxy's port, for the workers. Every partition has three replicas, of which two must be in sync.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest
from confluent_kafka import ElectionType, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.adapters.brokers.local import LocalBroker, new_cluster_id
from pipeline.adapters.topics import admin_config
from pipeline.errors import Transient
from tests.faults.proxy import Network
from tests.integration.tools import wait_for

NODES = (1, 2, 3)
REPLICATION = 3
REBUILD_SECONDS = 60.0
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Node(LocalBroker):
    """One of the cluster: broker and controller."""

    java_options = ("-Xms128m", "-Xmx256m", "-XX:TieredStopAtLevel=1")  # quick to start rather than quick

    def __init__(self, number: int, cluster_id: str, ports: Sequence[int]) -> None:
        super().__init__()
        self.number, self.cluster_id = number, cluster_id
        self.port, self.controller_port, self.workers_port = ports
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.advertised_port = 0
        self.voters = ""

    def config(self) -> dict[str, str]:
        base = super().config()
        return base | {
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters,
            "listeners": f"{base['listeners']},WORKERS://127.0.0.1:{self.workers_port}",
            "advertised.listeners": f"{base['advertised.listeners']},WORKERS://127.0.0.1:{self.advertised_port}",
            "listener.security.protocol.map": base["listener.security.protocol.map"] + ",WORKERS:PLAINTEXT",
            "offsets.topic.replication.factor": str(REPLICATION),
            "default.replication.factor": str(REPLICATION),
            "auto.leader.rebalance.enable": "false",  # a leader changes when the plan says so
            "log.cleaner.dedupe.buffer.size": str(4 << 20),
            "num.network.threads": "1",
            "num.io.threads": "2",
        }


def steady_ports(count: int) -> list[int]:
    """Free ports below those that the system gives to outgoing connections, which could take a stopped broker's."""
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    rng = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = rng.randrange(first - 12_000, first)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class Cluster:
    def __init__(self, nodes: Sequence[Node], network: Network) -> None:
        self.nodes = {node.number: node for node in nodes}
        self.network = network
        self.bootstrap = ",".join(node.bootstrap for node in nodes)
        self.workers_bootstrap = ",".join(f"127.0.0.1:{node.advertised_port}" for node in nodes)

    def start(self) -> None:
        """All at once: a broker answers when a majority of the controllers does."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            for started in [pool.submit(node.start) for node in self.nodes.values()]:
                started.result()
        self.admin = AdminClient(admin_config(self.bootstrap, None))
        wait_for(
            lambda: len(self.admin.list_topics(timeout=10).brokers) == len(self.nodes), 30, "all brokers are there"
        )

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

    def whole(self) -> bool:
        """Every partition has all of its replicas in sync, and a leader."""
        try:
            topics = self.admin.list_topics(timeout=5).topics.values()
        except KafkaException:
            return False
        return all(
            p.leader >= 0 and len(p.isrs) == len(p.replicas) == REPLICATION
            for t in topics
            for p in t.partitions.values()
        )

    def await_whole(self) -> None:
        """A second broker that fails before this would leave less replicas than must be in sync."""
        wait_for(self.whole, REBUILD_SECONDS, "every replica is in sync")

    def leader(self, topic: str, partition: int) -> int:
        return int(self._partition(topic, partition).leader)

    def _partition(self, topic: str, partition: int) -> Any:
        return self.admin.list_topics(topic, timeout=10).topics[topic].partitions[partition]

    def move_leader(self, topic: str, partition: int) -> tuple[int, int]:
        """Give a partition another leader, with nobody stopped; the old one and the new one."""
        found = self._partition(topic, partition)
        before, others = found.leader, [r for r in found.replicas if r != found.leader]
        asyncio.run(_reorder(self.bootstrap, topic, partition, [*others, before]))
        wait_for(
            lambda: self._partition(topic, partition).replicas[0] == others[0], 15, "the replicas are in new order"
        )
        until = time.monotonic() + 15
        while self.leader(topic, partition) == before:
            assert time.monotonic() < until, "the leader does not change"
            self.admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, partition)]).result(15)
        return before, self.leader(topic, partition)


async def _reorder(bootstrap: str, topic: str, partition: int, replicas: Sequence[int]) -> None:
    """Make the first of `replicas` the preferred leader. confluent-kafka has no call for that, aiokafka a request."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        parts: list[Any] = [(partition, list(replicas), {})]
        request = AlterPartitionReassignmentsRequest(15_000, [(topic, parts, {})], {})
        answer = await client.send(client.get_random_node(), request)
        assert answer.error_code == 0, f"the cluster refuses to reassign: {answer.error_code}"
    finally:
        await client.close()


@contextmanager
def running(say: Callable[[str], None]) -> Iterator[Cluster]:
    """Yield a cluster that answers. `Transient` where Java or Maven are missing."""
    prepared = LocalBroker.prepare(say)
    with Network() as network:
        cluster = _started(prepared, network)
        try:
            yield cluster
        finally:
            cluster.close()


def _started(prepared: Path, network: Network) -> Cluster:
    for _ in range(3):  # a port may be taken between its choice and its use
        cluster_id = new_cluster_id()
        ports = steady_ports(4 * len(NODES))
        nodes = [Node(number, cluster_id, ports[4 * i : 4 * i + 3]) for i, number in enumerate(NODES)]
        for i, node in enumerate(nodes):
            node.prepared = prepared
            node.voters = ",".join(f"{n.number}@127.0.0.1:{n.controller_port}" for n in nodes)
            node.advertised_port = network.add(node.number, node.workers_port, ports[4 * i + 3])
        cluster = Cluster(nodes, network)
        try:
            cluster.start()
            return cluster
        except Transient as error:
            failed = error
            cluster.close()
    raise failed
