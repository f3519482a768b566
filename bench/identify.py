"""The identify leg on a real broker: every device of every customer once (each edge is new), then steady state.

Then the worker starts once more, and reads its tables. Beside it, on the same topic in the same round, what Kafka
Streams and a Faust table do without any identity: a plain keyed fold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from bench import workload
from bench.measure import Measured, Running, cpu_seconds, rss_bytes, throughput
from bench.protect import JAVA, PYTHON, java
from bench.recovery import Recovered, recover
from bench.setting import Setting, setting
from pipeline.adapters.changelog import standing
from pipeline.adapters.reader import Reader
from pipeline.adapters.topic_specs import changelog_name
from pipeline.events import Topic
from pipeline.flow.identify import IdentifyLeg

DEVICES = 3


class Identified(NamedTuple):
    first_pass_events: int
    first_pass_per_cpu_second: float
    steady: Measured
    rss_bytes: int
    """Of the worker at the end, tables full."""
    rows: int
    """Of its tables."""
    recovered: Recovered
    peers: dict[str, Measured]


def ours(
    bootstrap: str, events: int, customers: int, seed: int, say: Callable[[str], None], *, against: Collection[str] = ()
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
        say("the worker starts again")
        changelogs = [changelog_name(IdentifyLeg.name, table, prefix=s.prefix) for table in IdentifyLeg.tables]
        recovered = recover(s, "identify", changelogs)
        rows = sum(_rows(bootstrap, name) for name in changelogs)
        peers = {name: _peer(name, s, outputs[0], total, share, say) for name in against}
        start = next(c for n, c in cpu if n > 0)
        started = next(n for n, _ in cpu if n > 0)
        n, c = next((n, c) for n, c in cpu if n >= first)
        first_pass = (n - started) / max(c - start, 1e-3)
        return Identified(n - started, first_pass, steady, rss, rows, recovered, peers)


def _rows(bootstrap: str, changelog: str) -> int:
    left: dict[bytes | None, bool] = {}
    with Reader(bootstrap, {}, changelog) as reader:
        for record in standing(reader):
            left[record.key] = record.value is not None
    return sum(left.values())


def _peer(name: str, s: Setting, topic: str, total: int, share: float, say: Callable[[str], None]) -> Measured:
    say(f"the same topic through a keyed fold: {name}")
    command, cwd = COMMANDS[name](say)
    group = s.prefix + name
    env = {
        "BENCH_IN": topic,
        "BENCH_BOOTSTRAP": s.broker.bootstrap,
        "BENCH_GROUP": group,
        "BENCH_STATE": str(s.directory / name),
        "FAUST_DATADIR": str(s.directory / name),
    }
    with Running(command, env, s.directory / f"{name}.log", cwd=cwd) as running:
        return throughput(running, lambda: s.broker.committed(group, topic), total, steady_from=share, limit=600)


COMMANDS: dict[str, Callable[[Callable[[str], None]], tuple[list[str], Path]]] = {
    "streams": lambda say: (java("bench.Identify", say), JAVA),
    "faust": lambda say: ([sys.executable, "faust_table.py"], PYTHON),
}
