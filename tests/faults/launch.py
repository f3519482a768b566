"""`sealstream` with faults that the harness can arm: `python -m tests.faults.launch ORDERS worker …`.

ORDERS is a file with `Orders` as JSON. It is read at the start, and again at SIGUSR1. At SIGUSR2 the process writes to
its log where each of its tasks is.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

POISON = b'"poison"'
"""A record of which the value has this kills the worker that decodes it."""
MOMENT = 1.2
"""Seconds; a worker commits once a second (`EngineConfig.commit_seconds`)."""


class Orders(msgspec.Struct, frozen=True):
    """`point`: where (`tests.integration.tally.POINTS`; "": nowhere) the process sends itself `signal`, the `nth` time.

    `clock`: seconds that its wall clock is ahead. `file_bytes`: no file of its can grow longer (-1: no limit).
    """

    point: str = ""
    nth: int = 1
    signal: int = signal.SIGKILL
    clock: float = 0.0
    file_bytes: int = -1


class Clock:
    """`time.time`, with steps."""

    def __init__(self) -> None:
        self._real, self.ahead = time.time, 0.0

    def time(self) -> float:
        return self._real() + self.ahead


def main() -> int:
    orders = Path(sys.argv[1])
    clock = Clock()
    time.time = clock.time  # before anything keeps a reference to it

    from tests.integration.tally import strike_at

    def obey(*_: object) -> None:
        found = msgspec.json.decode(orders.read_bytes(), type=Orders)
        clock.ahead = found.clock
        if found.point:
            strike_at(found.point, found.nth, partial(os.kill, os.getpid(), found.signal), MOMENT)
        if found.file_bytes >= 0:
            _limit(found.file_bytes)

    obey()
    signal.signal(signal.SIGUSR1, obey)
    signal.signal(signal.SIGUSR2, _tell)
    _die_of_poison()

    from pipeline.cli.main import run

    return run(sys.argv[2:])


def _tell(*_: object) -> None:
    for task in asyncio.all_tasks(asyncio.get_running_loop()):
        task.print_stack()


def _limit(size: int) -> None:
    """The log, a file as well, goes on through another process."""
    log = subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True)
    assert log.stdin is not None
    os.dup2(log.stdin.fileno(), 1)
    os.dup2(log.stdin.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _die_of_poison() -> None:
    from pipeline.stages import decode as stage

    inner = stage.decode

    def decode(records: Any, *args: Any, **kwargs: Any) -> Any:
        if any(r.value is not None and POISON in r.value for r in records):
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(records, *args, **kwargs)

    stage.decode = decode


if __name__ == "__main__":
    sys.exit(main())
