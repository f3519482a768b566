"""The clock of what must not outlive its time: unlike `time.monotonic`, it goes on while a machine sleeps."""

from __future__ import annotations

import time


def clock() -> float:
    """Seconds; goes on while the process is stopped or the machine asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
