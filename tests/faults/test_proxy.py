"""The proxy passes bytes on, and its wire can be cut, stalled, made slow and mended.

Mutations seen red: `cut` that leaves open connections alone; `cut` that goes on accepting; a stalled wire that passes;
a delay that is not kept; what was sent before the end of a connection is not passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.faults.proxy import GOOD, Proxy, Wire

SOON = 5.0
DELAY = 0.1
CHUNKS = 30
BROKEN_OFF = (ConnectionError, asyncio.IncompleteReadError)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[Proxy], Awaitable[Ends]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
    await closed(writer)


async def last_words(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x" * 500_000)
    await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def before(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Proxy]:
    """A proxy before a server."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Proxy(server.sockets[0].getsockname()[1])
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)  # handlers see the end


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that sends back what it gets."""
    async with before(echo) as made:
        yield made


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens connections, and closes them when the test ends."""
    writers: list[asyncio.StreamWriter] = []

    async def connected(proxy: Proxy) -> Ends:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return reader, writer

    yield connected
    for writer in writers:
        await closed(writer)


async def comes_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> bool:
    writer.write(sent)
    async with asyncio.timeout(SOON):
        return await reader.readexactly(len(sent)) == sent


async def test_it_passes_bytes_in_both_directions(proxy: Proxy, connect: Connect) -> None:
    ends = await connect(proxy)
    assert await comes_back(*ends, b"x" * 1_000_000)


async def test_a_cut_breaks_connections_off_and_refuses_new_ones_until_mended(proxy: Proxy, connect: Connect) -> None:
    reader, writer = await connect(proxy)
    assert await comes_back(reader, writer, b"before")
    await proxy.set(Wire(cut=True))
    async with asyncio.timeout(SOON):
        with pytest.raises(BROKEN_OFF):
            await reader.readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.set(GOOD)
    assert await comes_back(*await connect(proxy), b"after")


async def test_a_stalled_wire_accepts_and_passes_nothing_until_mended(proxy: Proxy, connect: Connect) -> None:
    old = await connect(proxy)
    assert await comes_back(*old, b"before")
    await proxy.set(Wire(stalled=True))
    new = await connect(proxy)
    for reader, writer in (old, new):
        writer.write(b"held")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.readexactly(1)
    await proxy.set(GOOD)
    for reader, _ in (old, new):
        async with asyncio.timeout(SOON):
            assert await reader.readexactly(4) == b"held"


async def test_a_delay_holds_each_way_and_does_not_add_up_over_chunks(proxy: Proxy, connect: Connect) -> None:
    await proxy.set(Wire(delay=DELAY))
    reader, writer = await connect(proxy)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(CHUNKS):
        writer.write(b"x" * 10)
        await asyncio.sleep(0.001)
    async with asyncio.timeout(SOON):
        await reader.readexactly(10 * CHUNKS)
    assert loop.time() - began >= 2 * DELAY
    assert loop.time() - began < CHUNKS * DELAY, "under way at the same time, not one after another"


async def test_what_was_sent_before_the_end_is_passed_on(connect: Connect) -> None:
    async with before(last_words) as through:
        await through.set(Wire(delay=0.05))
        reader, _ = await connect(through)
        async with asyncio.timeout(SOON):
            assert len(await reader.read(-1)) == 500_000


async def test_a_broker_that_is_away_is_a_connection_that_ends(connect: Connect) -> None:
    nobody = Proxy(1)
    await nobody.start()
    try:
        reader, _ = await connect(nobody)
        async with asyncio.timeout(SOON):
            with pytest.raises(BROKEN_OFF):
                await reader.readexactly(1)
    finally:
        await nobody.stop()
