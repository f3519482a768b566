"""Start a worker again when it fails, where nobody else does: `sealstream worker --supervise`, and the demo.

systemd and Docker do the same for their services (deploy/systemd, docker-compose.yml).
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

log = structlog.get_logger(__name__)

FINAL = (0, 2)
"""Exit codes after which another start would do nothing, or fail again."""
FIRST_SECONDS = 1.0
MOST_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""Who ran for so long failed for a reason of its own: the pauses begin at the first again."""


def pause(failures: int, chance: float) -> float:
    """Seconds before the start that follows `failures` (≥ 1) in a row: 1, 2, 4 … 30, less by up to half.

    `chance` in [0, 1): workers that failed together do not come back together.
    """
    return min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 16)) * (1 - chance / 2)


class Supervisor:
    """Runs a command until it is done: `run` returns its exit code, 128 + signal if one ended it."""

    def __init__(
        self,
        command: Sequence[str],
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._chance, self._clock = command, chance, clock
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def run(self) -> int:
        failures = 0
        while True:
            began = self._clock()
            code = self._once()
            if code in FINAL or self._stopping.is_set():
                break
            failures = 1 if self._clock() - began >= STEADY_SECONDS else failures + 1
            seconds = pause(failures, self._chance())
            log.warning("the worker failed, and is started again", **_how(code), in_seconds=round(seconds, 1))
            if self._stopping.wait(seconds):
                break
        return code if code >= 0 else 128 - code

    def _once(self) -> int:
        # a group of its own: a terminal's Ctrl-C comes to it once, from here
        self._child = child = subprocess.Popen(self._command, process_group=0)  # noqa: S603 - our own command
        if self._stopping.is_set():  # since the last look
            child.terminate()
        return child.wait()

    def stop(self, number: int, _: Any = None) -> None:
        """Pass a signal on to the worker, and start none again. May be called in a signal's handler."""
        self._stopping.set()
        if self._child is not None:
            self._child.send_signal(number)


def supervise(command: Sequence[str]) -> int:
    """Run `command` under a supervisor that SIGTERM and SIGINT stop; the main thread only."""
    supervisor = Supervisor(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.stop)
    return supervisor.run()


def _how(code: int) -> dict[str, int | str]:
    return {"exit_code": code} if code >= 0 else {"signal": signal.Signals(-code).name}
