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
    quota, v1 = int(cores * PERIOD_US), (V1 / "cgroup.procs").exists()
    root = V1 if v1 else V2
    group = root / f"sealstream-bench-{pid}"
    try:
        group.mkdir()
        if v1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as e:
        raise Misuse(f"--cores needs Linux control groups and the right to make one ({e.strerror})") from None
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has ended
            (root / "cgroup.procs").write_text(str(pid))
        group.rmdir()
