"""What faults act on: cluster, topics, workers, traffic, and where they stand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from bench.setting import SCHEMAS
from bench.workload import first_pass
from pipeline.adapters import topics as kafka_topics
from pipeline.events import Topic
from tests.faults import cluster as clusters
from tests.faults.cluster import Cluster
from tests.faults.fleet import Fleet
from tests.faults.oracle import Ledger, Verdict, findings, judge
from tests.faults.progress import Progress
from tests.faults.traffic import Traffic
from tests.integration.pipeline_stage import Pipeline

PARTITIONS = 4
WORKERS = 2
SESSION_SECONDS = 6.0
PREFIX = "faults."
ZERO_SECONDS = 120.0
"""Lag zero must be reached within this time."""
FILL_SECONDS = 600.0


class World(msgspec.Struct, frozen=True):
    cluster: Cluster
    pipeline: Pipeline
    fleet: Fleet
    traffic: Traffic
    progress: Progress
    ledger: Ledger
    over: threading.Event

    @property
    def raw(self) -> str:
        return self.pipeline.prefix + Topic.RAW

    def sleep(self, seconds: float) -> None:
        """Let time pass while a fault holds."""
        self.over.wait(seconds)

    def rest(self) -> None:
        """Nobody produces, and every leg has committed all of its input."""
        self.traffic.pause()
        lacking = self.progress.await_rest(ZERO_SECONDS)
        assert not lacking, f"after {ZERO_SECONDS:g} s: {lacking}"

    def judged(self) -> Verdict:
        """Only at rest."""
        incarnation = self.incarnation()
        raw = self.ledger.origins(incarnation, self.progress.raw_ends())
        verdict = judge(self.pipeline, incarnation, raw, self.ledger.canaries(incarnation, self.traffic.canaries))
        return msgspec.structs.replace(verdict, findings=findings(self.pipeline, self.ledger.late))

    def incarnation(self) -> str:
        """Of `events.raw`; "" while there is none."""
        return kafka_topics.topic_ids(self.cluster.bootstrap, None, [self.raw])[self.raw]


@contextmanager
def made(
    directory: Path, seed: int, rate: float, customers: int, profiles: int, say: Callable[[str], None]
) -> Iterator[World]:
    """Yield a world at work: workers have their partitions, and traffic flows.

    Args:
        customers: how many people the traffic is about.
        profiles: how many others there are already when it begins.
    """
    with ExitStack() as stack:
        say("starting three brokers")
        cluster = stack.enter_context(clusters.running(say))
        kafka_topics.apply(cluster.bootstrap, None, specs(), timeout=60.0)
        pipeline = Pipeline(
            cluster.bootstrap,
            PREFIX,
            directory,
            SEALSTREAM_SCHEMA_DIR=str(SCHEMAS),
            SEALSTREAM_SESSION_SECONDS=f"{SESSION_SECONDS:g}",
            SEALSTREAM_REPLICATION=str(clusters.REPLICATION),
        )
        env = {**pipeline.env, "SEALSTREAM_KAFKA": cluster.workers_bootstrap}
        progress = Progress(cluster.bootstrap, PREFIX, PARTITIONS)
        fleet = stack.enter_context(Fleet(WORKERS, directory, env))
        traffic = stack.enter_context(Traffic(cluster.bootstrap, PREFIX + Topic.RAW, rate, seed, customers))
        world = World(cluster, pipeline, fleet, traffic, progress, Ledger(), threading.Event())
        say(f"starting {WORKERS} workers")
        fleet.start()
        fleet.await_up()
        if profiles:
            say(f"filling {profiles} profiles")
            traffic.burst(first_pass(profiles, 1, seed + 1))
            lacking = progress.await_rest(FILL_SECONDS)
            assert not lacking, lacking
        cluster.await_whole()
        traffic.go()
        yield world


def specs() -> tuple[kafka_topics.Spec, ...]:
    return kafka_topics.specs(PARTITIONS, clusters.REPLICATION, prefix=PREFIX)
