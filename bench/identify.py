"""The identify leg on a real broker: every device of every customer once (each edge is new), then steady state.

Beside it, on the same topic in the same round, what Kafka Streams does without any identity: a plain keyed fold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench import workload
from bench.measure import Measured, Running, cpu_seconds, rss_bytes, throughput
from bench.protect import JAVA, java
from bench.setting import Setting, setting
from pipeline.events import Topic

DEVICES = 3


class Identified(NamedTuple):
    first_pass_events: int
    first_pass_per_cpu_second: float
    steady: Measured
    rss_bytes: int
    """Of the worker at the end, tables full."""
    streams: Measured | None


def ours(
    bootstrap: str, events: int, customers: int, seed: int, say: Callable[[str], None], *, streams: bool = False
) -> Identified:
    """Fold the protected form of `events` events of `customers` customers; the first pass comes on top."""
    with setting(bootstrap) as s:
        raw, outputs = s.topic(Topic.RAW), (s.topic(Topic.PROTECTED), s.topic(Topic.REJECTED))
        say("writing events and protecting them")
        with s.worker("protect") as worker:
            first = s.broker.fill(raw, workload.first_pass(customers, DEVICES, seed=seed))
            throughput(worker, lambda: s.broker.end(*outputs), first, limit=600)
            first = s.broker.end(outputs[0])
            s.broker.fill(raw, workload.events(events, seed=seed, customers=customers, devices=DEVICES))
            throughput(worker, lambda: s.broker.end(*outputs), s.broker.end(raw), limit=600)
        total = s.broker.end(outputs[0])
        say(f"identifying {total:,} events of {customers:,} customers")
        group = s.group("identify")
        cpu: list[tuple[int, float]] = []
        with s.worker("identify") as worker:

            def done() -> int:
                n = s.broker.committed(group, outputs[0])
                cpu.append((n, cpu_seconds(worker.pid)))
                return n

            share = (first + (total - first) * 0.3) / total
            steady = throughput(worker, done, total, steady_from=share, limit=900)
            rss = rss_bytes(worker.pid)
        peer = _streams(s, outputs[0], total, share, say) if streams else None
        start = next(c for n, c in cpu if n > 0)
        started = next(n for n, _ in cpu if n > 0)
        n, c = next((n, c) for n, c in cpu if n >= first)
        return Identified(n - started, (n - started) / max(c - start, 1e-3), steady, rss, peer)


def _streams(s: Setting, topic: str, total: int, share: float, say: Callable[[str], None]) -> Measured:
    say("the same topic through a keyed fold in Kafka Streams")
    group = s.prefix + "streams"
    env = {
        "BENCH_IN": topic,
        "BENCH_BOOTSTRAP": s.broker.bootstrap,
        "BENCH_GROUP": group,
        "BENCH_STATE": str(s.directory / "streams"),
    }
    with Running(java("bench.Identify", say), env, s.directory / "streams.log", cwd=JAVA) as running:
        return throughput(running, lambda: s.broker.committed(group, topic), total, steady_from=share, limit=600)
