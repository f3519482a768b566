"""A TCP proxy of our own between workers and brokers, whose wire can be cut, stalled or made slow.

It runs in an event loop of its own thread, so that the harness, which waits and sleeps, never holds up the traffic.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import msgspec

T = TypeVar("T")
_CHUNK = 64 << 10
_QUEUE = 256
"""Chunks under way in one direction of a connection."""


class Wire(msgspec.Struct, frozen=True):
    """What a proxy's connections are like.

    `cut`: those there are break off, and new ones are refused. `stalled`: connections are accepted, and nothing passes.
    `delay`: seconds that every byte takes, each way.
    """

    cut: bool = False
    stalled: bool = False
    delay: float = 0.0


GOOD = Wire()


class Proxy:
    """Passes connections to 127.0.0.1:`port` on to 127.0.0.1:`target`. All of it runs on one event loop."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self._wire = GOOD
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def set(self, wire: Wire) -> None:
        was, self._wire = self._wire, wire
        if wire.stalled:
            self._flowing.clear()
        else:
            self._flowing.set()
        if wire.cut and not was.cut:
            assert self._server is not None
            self._server.close()
            self._drop()
        elif was.cut and not wire.cut:
            await self.start(self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _drop(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        self._ends.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target, limit=_CHUNK)
            ends.append(back)
            self._ends.add(back)
            if self._wire.cut:
                return
            ways = [asyncio.ensure_future(self._pass(reader, back)), asyncio.ensure_future(self._pass(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:  # the broker is away: so is the connection
            pass
        except asyncio.CancelledError:  # `stop`; asyncio would report a handler that was cancelled
            pass
        finally:
            self._tasks.discard(task)
            for end in ends:
                self._ends.discard(end)
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Return at the end of what comes from `reader`, once all of it has been passed on."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)

        async def deliver() -> None:
            while True:
                due, chunk = await under_way.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
                under_way.task_done()

        delivery = asyncio.ensure_future(deliver())
        try:
            while chunk := await reader.read(_CHUNK):
                await under_way.put((loop.time() + self._wire.delay, chunk))
            end = asyncio.ensure_future(under_way.join())
            await asyncio.wait({delivery, end}, return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)


class Network:
    """Proxies by the number of what is behind them, in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._proxies: dict[int, Proxy] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies.values():
            self._call(proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def add(self, number: int, target: int, port: int = 0) -> int:
        """Have a proxy for `target`, in place of another of this number; its port."""
        if (before := self._proxies.pop(number, None)) is not None:
            self._call(before.stop())

        async def make() -> Proxy:
            proxy = Proxy(target)
            await proxy.start(port)
            return proxy

        proxy = self._proxies[number] = self._call(make())
        return proxy.port

    def set(self, wire: Wire, *numbers: int) -> None:
        """Make the wire to these so; to all of them if none is named."""
        for number in numbers or self._proxies:
            self._call(self._proxies[number].set(wire))
