"""The protect leg on a real broker, beside the same work in Kafka Streams and in Faust as its guide teaches it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import workload
from bench.measure import Broker, Measured, Running, throughput
from bench.setting import HERE, setting
from bench.share import share
from pipeline.errors import Misuse
from pipeline.events import Topic

JAVA = HERE / "peers" / "java"
PYTHON = HERE / "peers" / "python"
NAIVE_EVENTS = 20_000
"""Faust by its guide does 2,500 events/s: it gets fewer of them."""

Say = Callable[[str], None]


def ours(bootstrap: str, events: int, seed: int, say: Say, *, workers: int = 1, cores: float | None = None) -> Measured:
    """What `workers` do together, each with `cores` of a core at most; CPU and memory are those of one of them."""
    with setting(bootstrap) as s, ExitStack() as running:
        say(f"writing {events:,} events")
        s.broker.fill(s.topic(Topic.RAW), workload.events(events, seed=seed))
        say("sealstream works" + (f", in {workers} processes" if workers > 1 else ""))
        made = [running.enter_context(s.worker("protect")) for _ in range(workers)]
        for worker in made:
            if cores:
                running.enter_context(share(worker.pid, cores))
        outputs = s.topic(Topic.PROTECTED), s.topic(Topic.REJECTED)
        return throughput(made[0], lambda: s.broker.end(*outputs), events)


def java(main: str, say: Say) -> list[str]:
    """The command of a peer in Java; its jar is built by Maven on the first use."""
    if not (JAVA / "target" / "protect-leg-1.jar").exists():
        say("building the Kafka Streams peer")
        built = subprocess.run(["mvn", "-q", "package"], cwd=JAVA, capture_output=True, text=True, check=False)
        if built.returncode:
            raise Misuse("the Kafka Streams peer does not build; it needs Maven and a JDK 17 (see bench/README.md)")
    flags = ["-Xms512m", "-Xmx1g", "-XX:+UseParallelGC", "-XX:-UsePerfData"]
    return ["java", *flags, "-cp", "target/protect-leg-1.jar:target/lib/*", main, "1"]


def peer(bootstrap: str, command: list[str], cwd: Path, events: int, seed: int, say: Say) -> Measured:
    """A peer reads its topics' names from the environment; see `peers/`."""
    tag = f"bench-{time.time_ns():x}."
    broker = Broker(bootstrap)
    names = {"BENCH_IN": tag + "raw", "BENCH_OUT": tag + "protected", "BENCH_REJ": tag + "rejected"}
    broker.create(*names.values())
    try:
        say(f"writing {events:,} events")
        broker.fill(names["BENCH_IN"], workload.events(events, seed=seed))
        say(f"{command[-1] if 'java' not in command[0] else 'Kafka Streams'} works")
        state = cwd / "target" / tag.rstrip(".")
        state.mkdir(parents=True)
        env = {
            **names,
            "BENCH_BOOTSTRAP": bootstrap,
            "BENCH_GROUP": tag + "group",
            "BENCH_STATE": str(state),
            "FAUST_DATADIR": str(state),
        }
        with Running(command, env, state / "log", cwd=cwd) as running:
            return throughput(running, lambda: broker.end(names["BENCH_OUT"], names["BENCH_REJ"]), events, limit=600)
    finally:
        broker.delete(tag)


def streams(bootstrap: str, events: int, seed: int, say: Say) -> Measured:
    """Kafka Streams, one thread."""
    return peer(bootstrap, java("bench.Streams", say), JAVA, events, seed, say)


def naive(bootstrap: str, events: int, seed: int, say: Say) -> Measured:
    """Faust, an agent per event."""
    return peer(bootstrap, [sys.executable, "faust_naive.py"], PYTHON, min(events, NAIVE_EVENTS), seed, say)


PEERS = {"streams": streams, "faust": naive}
