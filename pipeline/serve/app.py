"""The HTTP interface: profiles by identifier and by id, health, metrics. No answer repeats what was asked for.

(Only where a request is no HTTP, aiohttp quotes to its sender what it could not read.)

    GET /v1/profiles/{kind}/{value}   200 the profile · 400 kind or value · 404 nobody's
    GET /v1/profiles/{profile_id}     200 the profile, of what it was merged into if it was · 404
    GET /healthz /readyz /metrics     /readyz: 503 while catching up

Everywhere: 401 without the token (but health), 405, 503 while catching up or while the database or the KEK is away.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..errors import Transient
from ..stages.normalize import KINDS
from ..stages.profile_records import ID
from ..telemetry.metrics import OTHER, PrometheusMetrics
from .guard import Guard, asks_loopback
from .lookup import Lookup, Unusable

BY_ID = "profile_id"
_OPEN = ("/healthz", "/readyz")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Freshness(Protocol):
    """How far behind the topic what is served is (`follow.Follower`)."""

    @property
    def ready(self) -> bool: ...
    @property
    def lag_records(self) -> int: ...
    @property
    def lag_ms(self) -> int: ...


class Api:
    """The handlers. Lookups block, and go to `pool`."""

    def __init__(
        self, lookup: Lookup, freshness: Freshness, guard: Guard, metrics: PrometheusMetrics, pool: Executor
    ) -> None:
        self._lookup = lookup
        self._freshness = freshness
        self._guard = guard
        self._metrics = metrics
        self._pool = pool

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._checked])
        app.router.add_get("/v1/profiles/{kind}/{value:[^/]*}", self._by_identifier)
        app.router.add_get("/v1/profiles/{profile_id}", self._by_id)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/readyz", self._readiness)
        app.router.add_get("/metrics", self._page)
        return app

    @web.middleware
    async def _checked(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Ask for the token, and give errors, aiohttp's included, their one form."""
        if request.path not in _OPEN:
            if self._guard.open and not asks_loopback(request.host):
                # a page in a browser whose name was made to mean this machine
                return _error(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this machine")
            if not self._guard.admits(request.headers.get("Authorization")):
                refused = _error(HTTPStatus.UNAUTHORIZED, "no valid bearer token")
                refused.headers["WWW-Authenticate"] = "Bearer"
                return refused
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            refused = _error(HTTPStatus.METHOD_NOT_ALLOWED, "GET only")
            refused.headers["Allow"] = error.headers["Allow"]
            return refused
        except web.HTTPException as error:
            return _error(HTTPStatus(error.status), HTTPStatus(error.status).phrase.lower())

    async def _by_identifier(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        known = kind in KINDS
        return await self._timed(kind if known else OTHER, self._answer_identifier(request, kind if known else None))

    async def _answer_identifier(self, request: web.Request, kind: str | None) -> web.Response:
        if kind is None:
            return _error(HTTPStatus.BAD_REQUEST, "unknown kind", kinds=list(KINDS))
        try:
            # by itself: the router leaves bytes that are not UTF-8 as they were written
            value = unquote_to_bytes(request.rel_url.raw_path.rpartition("/")[2]).decode()
        except UnicodeDecodeError:
            return _error(HTTPStatus.BAD_REQUEST, "unusable value", kind=kind, rule="UTF-8, percent-encoded")
        return await self._found(kind, self._lookup.by_identifier, kind, value)

    async def _by_id(self, request: web.Request) -> web.Response:
        return await self._timed(BY_ID, self._answer_id(request.match_info["profile_id"]))

    async def _answer_id(self, ident: str) -> web.Response:
        if not ID.match(ident):
            return _error(HTTPStatus.BAD_REQUEST, "unusable value", kind=BY_ID, rule="32 hexadecimal digits")
        return await self._found(BY_ID, self._lookup.by_id, ident)

    async def _found(self, kind: str, look: Callable[..., bytes | None], *asked: str) -> web.Response:
        fresh = self._freshness
        if not fresh.ready:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "catching up", records_left=fresh.lag_records)
        headers = {
            "Cache-Control": "no-store",
            "X-Profile-Lag-Records": str(fresh.lag_records),
            "X-Profile-Lag-Seconds": f"{fresh.lag_ms / 1000:.3f}",
        }
        try:
            body = await asyncio.get_running_loop().run_in_executor(self._pool, look, *asked)
        except Unusable as error:
            return _error(HTTPStatus.BAD_REQUEST, "unusable value", kind=kind, rule=error.rule)
        except Transient:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "the profile database or the key provider does not answer")
        if body is None:
            absent = _error(HTTPStatus.NOT_FOUND, "no profile has it")
            absent.headers.update(headers)
            return absent
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _timed(self, by: str, answer: Awaitable[web.Response]) -> web.Response:
        started = time.perf_counter()
        response = await answer
        self._metrics.lookup(by, response.status, time.perf_counter() - started)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return _json(HTTPStatus.OK, {"alive": True})

    async def _readiness(self, _: web.Request) -> web.Response:
        fresh = self._freshness
        status = HTTPStatus.OK if fresh.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"ready": fresh.ready, "lag_records": fresh.lag_records})

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(status: HTTPStatus, body: dict[str, object]) -> web.Response:
    content = json.dumps(body).encode() + b"\n"
    return web.Response(
        body=content, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _error(status: HTTPStatus, error: str, **more: object) -> web.Response:
    response = _json(status, {"error": error, **more})
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response
