"""`sealstream` with a fault armed in it: `python -m tests.integration.crashing FAULT [--supervise] COMMAND…`.

FAULT is `kill` or `raise`: when the protect leg comes to decode a record whose value holds `DEADLY`, the process ends
as by kill -9, or an exception is raised that nobody expects; `kill-identify`: as `kill` where the identify leg takes it
in; `late`: the watch leg finds its tables recovered 3 s after the others; `slow`: says `AT_WORK` and
stays at work on some records until it is killed; `none`.

Sessions have 3 s, which the settings do not allow: after each death the next worker waits for the end of one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from functools import partial
from typing import Any

from pipeline.cli.main import run
from pipeline.flow import identify, protect
from pipeline.worker import engine
from pipeline.worker.engine import LegEngine
from pipeline.worker.supervise import supervise

DEADLY = b"deadly-1b2c"
AT_WORK = "at work on a batch"
SESSION_SECONDS = 3.0


def before(module: Any, name: str, fault: Any) -> None:
    inner = getattr(module, name)

    def faulty(*args: Any) -> Any:
        fault(args)
        return inner(*args)

    setattr(module, name, faulty)


def kill(records: Any) -> None:
    if any(DEADLY in (r.value or b"") for r in records):
        os.kill(os.getpid(), signal.SIGKILL)


def fail(records: Any) -> None:
    if any(DEADLY in (r.value or b"") for r in records):
        raise KeyError(DEADLY)


def dawdle(records: Any) -> None:
    """Be at work on several records until somebody kills this process: alone each takes 30 µs, which nobody hits."""
    if len(records) > 1:
        print(AT_WORK, flush=True)
        time.sleep(30)


def delay_watch() -> None:
    inner = LegEngine.recover

    async def late(self: LegEngine, generation: int) -> bool:
        if self.leg.name == "watch":
            await asyncio.sleep(3)
        return await inner(self, generation)

    LegEngine.recover = late  # type: ignore[method-assign]


def given_short_sessions(config: type[engine.EngineConfig], **given: Any) -> engine.EngineConfig:
    return config(**{**given, "session_timeout": SESSION_SECONDS})


def main(fault: str, *args: str) -> int:
    if args[0] == "--supervise":
        return supervise([sys.executable, "-m", "tests.integration.crashing", fault, *args[1:]])
    engine.EngineConfig = partial(given_short_sessions, engine.EngineConfig)  # type: ignore[assignment,misc]
    match fault:
        case "kill":
            before(protect, "decode", lambda given: kill(given[0]))
        case "raise":
            before(protect, "decode", lambda given: fail(given[0]))
        case "kill-identify":
            before(identify.IdentifyPartition, "_events", lambda given: kill(given[1].records))
        case "late":
            delay_watch()
        case "slow":
            before(protect, "decode", lambda given: dawdle(given[0]))
    return run(args)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
