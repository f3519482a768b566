"""Serve profiles until a signal: the follower in a thread of its own, HTTP on the event loop, lookups in a pool."""

from __future__ import annotations

import asyncio
import signal
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import structlog
from aiohttp import web

from ..errors import Misuse
from ..telemetry.metrics import PrometheusMetrics
from .app import Api
from .follow import Follower
from .guard import Guard
from .lookup import Lookup

log = structlog.get_logger(__name__)

LOOKUPS = 4
"""At a time; each holds a connection to the database."""
STOP_SECONDS = 5.0


class Listen(NamedTuple):
    host: str
    port: int
    tls: ssl.SSLContext | None


def run(lookup: Lookup, follower: Follower, guard: Guard, metrics: PrometheusMetrics, listen: Listen) -> int:
    """Block until SIGTERM or SIGINT; return 0. Raises what ends the follower, and `Misuse` where nothing can listen."""
    return asyncio.run(_run(lookup, follower, guard, metrics, listen))


async def _run(lookup: Lookup, follower: Follower, guard: Guard, metrics: PrometheusMetrics, listen: Listen) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    with ThreadPoolExecutor(LOOKUPS, "lookup") as pool, ThreadPoolExecutor(1, "follow") as thread:
        api = Api(lookup, follower, guard, metrics, pool)
        # no access log: paths hold identifiers
        runner = web.AppRunner(api.app(), access_log=None, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            port = await _listen(runner, listen)
            following = asyncio.ensure_future(loop.run_in_executor(thread, follower.run))
            log.info("serving", port=port, tls=listen.tls is not None)
            stop = asyncio.ensure_future(stopping.wait())
            ends: set[asyncio.Future[Any]] = {stop, following}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
        finally:
            follower.stop()
            await runner.cleanup()
        await following
    log.info("stopped")
    return 0


async def _listen(runner: web.AppRunner, listen: Listen) -> int:
    site = web.TCPSite(runner, listen.host, listen.port, ssl_context=listen.tls)
    try:
        await site.start()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Misuse(f"cannot listen at SEALSTREAM_SERVE: {why} (another one on this machine?)") from None
    return int(runner.addresses[0][1])
