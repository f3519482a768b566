"""`bench serve` tells what somebody waits for who asks at a steady rate, while records really arrive.

Mutations seen red: a late request counted from when it is sent; requests one after the other; records counted that the
broker has not taken; the owner answers for the token's own row alone.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bench import serve
from bench.serve_owner import Owner, half_of, token

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(answer: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"{site.name}/"
    finally:
        await runner.cleanup()


class Server:
    """In place of aiohttp's session: answers at once, but all stands still at the second request."""

    status, asked = 200, 0

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def get(self, _: str) -> Server:
        self.asked += 1
        if self.asked == 2:
            time.sleep(0.5)
        return self

    async def read(self) -> bytes:
        return b"{}"


async def test_a_request_that_is_late_counts_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "ClientSession", Server)
    found = await serve._ask(("" for _ in iter(int, 1)), 0.5)
    assert found.asked == 0.5 * serve.ASKED_PER_SECOND
    assert found.p50 > 200  # half were due before half of the time was over


def test_records_count_that_the_broker_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Takes:
        def __init__(self, _: Any) -> None:
            self.count = 0

        def produce(self, _topic: str, _value: bytes, _key: bytes, on_delivery: Any) -> None:
            self.count += 1
            on_delivery(None if self.count % 2 else "error", None)

        def poll(self, _: float) -> None: ...
        def flush(self, _: float) -> None: ...

    class Made:
        count = 10
        asked = 0

        def record(self, number: int) -> tuple[bytes, bytes]:
            self.asked += 1
            return b"%d" % number, b"{}"

    class World:
        class Broker:
            bootstrap = "nowhere"

        broker = Broker()

        def topic(self, name: str) -> str:
            return name

    made: Any = Made()
    world: Any = World()
    monkeypatch.setattr(serve, "Producer", Takes)
    with serve._arriving(world, made, 500) as arrived:
        asyncio.run(asyncio.sleep(0.3))
    assert made.asked > 10
    assert arrived[0] == (made.asked + 1) // 2


async def test_a_request_does_not_wait_for_the_one_before() -> None:
    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.json_response({"profile": 1})

    began = time.perf_counter()
    async with serving(answer) as base:
        await serve._ask((base for _ in iter(int, 1)), 0.1)
    assert time.perf_counter() - began < 0.3 * 0.1 * serve.ASKED_PER_SECOND


async def test_the_owner_answers_with_the_profile_of_either_token() -> None:
    customers = [n for n in range(40) if half_of(token("user_id", n)) == 0]
    owner = Owner(0, "nowhere")
    owner.fold(customers)
    owner.fold(customers[:1])
    for n, kind in ((n, kind) for n in customers for kind in ("user_id", "anonymous_id")):
        request = make_mocked_request("GET", "/", match_info={"token": token(kind, n)})
        answer = await owner.answer(request)
        found = json.loads(answer.body)  # type: ignore[arg-type]
        assert found["tokens"] == {"anonymous_id": [token("anonymous_id", n)], "user_id": [token("user_id", n)]}
        assert found["events"] == {"Product Viewed": 2 if n == customers[0] else 1}
