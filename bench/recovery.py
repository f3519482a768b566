"""How long a worker needs until it runs: it starts, joins its group, claims its tables and reads their changelogs."""

from __future__ import annotations

import time
from typing import NamedTuple

from bench.measure import cpu_seconds, rss_bytes
from bench.setting import Setting

RUNS = b'"partitions assigned"'


class Recovered(NamedTuple):
    records: int
    """That stood in the changelogs, overwritten rows included."""
    seconds: float
    """From the start of the process until the leg runs."""
    cpu_seconds: float
    rss_bytes: int


def recover(s: Setting, leg: str, changelogs: list[str], limit: float = 900.0, **env: str) -> Recovered:
    """Start a worker with one leg, and end it when it has read its tables."""
    records = s.broker.end(*changelogs)
    log = s.directory / f"{leg}.log"
    before = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    with s.worker(leg, **env) as worker:
        while RUNS not in log.read_bytes()[before:]:
            worker.check()
            if time.monotonic() - started > limit:
                raise RuntimeError(f"the worker does not run after {limit:.0f} s")
            time.sleep(0.05)
        took = time.monotonic() - started
        return Recovered(records, round(took, 1), round(cpu_seconds(worker.pid), 1), rss_bytes(worker.pid))
