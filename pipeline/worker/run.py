"""Run legs in this process until a signal, or until one fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from ..errors import SealstreamError, Transient
from ..ports import Leg, LegState, Metrics
from . import records, requirements
from .engine import EngineConfig, LegEngine
from .journal import Journal
from .startup import answered, await_topics

log = structlog.get_logger(__name__)

STOP_SECONDS = 10.0
T = TypeVar("T")


Makers = Mapping[str, Callable[[], Leg]]
"""Leg → the function that makes it; it may ask the broker, which answers, or raise `Transient`."""


def run(makers: Makers, config: EngineConfig, metrics: Metrics) -> int:
    """Block until SIGTERM or SIGINT (0: everything taken in is durable and committed), or a failure (its exit code)."""
    requirements.check()
    records.install()
    gc.set_threshold(400_000, 20, 100)  # most of what batches make is freed by its reference count
    with Journal(Path(config.state_dir)) as journal:
        return asyncio.run(_run(makers, config, metrics, journal))


async def _run(makers: Makers, config: EngineConfig, metrics: Metrics, journal: Journal) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    for leg_name in makers:
        metrics.state(leg_name, LegState.WAITING)
    engines: list[LegEngine] = []
    try:
        ready = await _until(stopping, _ready(makers, config))
        if ready is None:
            return 0
        legs, incarnations = ready
        engines = [LegEngine(leg, config, metrics, incarnations, journal) for leg in legs]
        failed = await _serve(engines, stopping)
    except SealstreamError as e:
        failed = e
    gc.freeze()
    stopped = await _stop(engines)
    if failed is None and stopped:
        log.info("stopped, everything taken in is acknowledged")
        return 0
    failed = failed or next((e.failed.result() for e in engines if e.failed.done()), None)
    failed = failed or Transient("the last checkpoint could not be made durable in time; it will be repeated")
    known = isinstance(failed, SealstreamError)
    log.error(
        "stopped by a failure; nothing unfinished was acknowledged",
        error=type(failed).__name__,
        message=str(failed) if known else "",
        exc_info=None if known else failed,
    )
    return failed.exit_code if isinstance(failed, SealstreamError) else 1


def _topics(legs: Sequence[Leg], config: EngineConfig) -> list[list[str]]:
    """For each leg, the topics that must have one partition count."""
    return [
        [config.topic_prefix + s for s in leg.sources] + [config.changelog_of(leg.name, t) for t in leg.tables]
        for leg in legs
    ]


async def _ready(makers: Makers, config: EngineConfig) -> tuple[list[Leg], dict[str, str]]:
    legs = await answered(lambda: [make() for make in makers.values()], config.bootstrap)
    return legs, await await_topics(config, _topics(legs, config))


async def _until(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    task = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        return task.result()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


async def _serve(engines: Sequence[LegEngine], stopping: asyncio.Event) -> BaseException | None:
    stop = asyncio.ensure_future(stopping.wait())
    starts: asyncio.Future[Any] = asyncio.gather(*(e.start() for e in engines))
    opened: asyncio.Future[Any] = asyncio.gather(*(e.opened.wait() for e in engines))
    ends: set[asyncio.Future[Any]] = {stop, *(e.failed for e in engines)}
    try:
        await asyncio.wait({*ends, starts}, return_when=asyncio.FIRST_COMPLETED)
        if starts.done():
            if (error := starts.exception()) is not None:
                return error
            await asyncio.wait({*ends, opened}, return_when=asyncio.FIRST_COMPLETED)
            if opened.done():  # none works before all can
                for engine in engines:
                    engine.go.set()
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        opened.cancel()
        if not starts.done():
            starts.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starts
    return next((e.failed.result() for e in engines if e.failed.done()), None)


async def _stop(engines: Sequence[LegEngine]) -> bool:
    """Stop all; True if each made its last checkpoint durable. Who is about to join a group may have to leave without
    its answer, which comes when a member that died is given up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(e.stop() for e in engines))
    return all(e.drained and not e.failed.done() for e in engines)
