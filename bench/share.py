"""Give a process a share of the cores, by Linux's control groups (v1 or v2). Takes the right to make one: root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import Misuse

V1, V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 20_000
"""Short, so that no heartbeat waits."""


@contextmanager
def share(pid: int, cores: float) -> Iterator[None]:
    """Until the context ends, the threads of `pid` together run at most so much: 0.4 is 40 % of one core."""
    quota = int(cores * PERIOD_US)
    root, limits = V2, {"cpu.max": f"{quota} {PERIOD_US}"}
    if (V1 / "cgroup.procs").exists():
        root, limits = V1, {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    group = root / f"sealstream-bench-{pid}"
    try:
        group.mkdir()
        for name, value in {**limits, "cgroup.procs": str(pid)}.items():
            (group / name).write_text(value)
    except OSError as e:
        with suppress(OSError):
            group.rmdir()
        raise Misuse(f"--cores needs Linux control groups and the right to make one ({e.strerror})") from None
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has ended
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
