"""TLS contexts over real sockets: what is verified, and that replaced files are used by the next connection.

Mutations seen red: files are read once; a pair that does not load is used up to the next change, or raises; the name
is not verified; a replacement told before it loads, or twice; any CA is trusted; TLS 1.1 is spoken; the server's
callback is not set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.certificates import ClientContext, Replaced, server_context
from pipeline.errors import Misuse
from tests.certificates import Authority, Pair


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "one")


class Server:
    """Answers with the serial number of the certificate that the client has shown; 0: none."""

    def __init__(self) -> None:
        self.port = 0
        self.shown: list[int] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert") or {"serialNumber": "0"}
        self.shown.append(int(certificate["serialNumber"], 16))
        writer.close()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


async def serial(server: Server, context: ssl.SSLContext, name: str = "localhost") -> int:
    """Connect; the serial number of the server's certificate."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname=name)
    found = int(writer.get_extra_info("peercert")["serialNumber"], 16)
    assert await reader.read() == b""
    writer.close()
    return found


def replace(pair: Pair, by: Pair, *parts: str) -> None:
    """As a certificate manager does: the new file takes the old one's name."""
    for part in parts:
        new = getattr(pair, part).with_suffix(".new")
        shutil.copy(getattr(by, part), new)
        os.replace(new, getattr(pair, part))


async def test_a_servers_new_certificate_is_shown_to_the_next_client_once_its_key_is_there(ca: Authority) -> None:
    pair, new = ca.issue("localhost", 2), ca.issue("localhost", 3)
    client = ClientContext(ca.cert)
    async with serving(server_context(pair.cert, pair.key, "settings")) as server:
        assert await serial(server, client) == 2
        replace(pair, new, "cert")
        assert await serial(server, client) == 2
        replace(pair, new, "key")
        assert await serial(server, client) == 3


def test_who_reads_files_once_is_told_when_they_were_replaced_by_such_as_load(ca: Authority) -> None:
    pair, new = ca.issue("localhost", 2), ca.issue("localhost", 3)
    files = {"ssl.ca.location": ca.cert, "ssl.certificate.location": pair.cert, "ssl.key.location": pair.key}
    replaced = Replaced({name: str(file) for name, file in files.items()})
    assert not replaced()
    replace(pair, new, "cert")
    assert not replaced()
    replace(pair, new, "key")
    assert replaced()
    assert not replaced()
    assert not Replaced({})()
    with pytest.raises(Misuse):
        Replaced({"ssl.ca.location": "absent.pem"})


async def test_a_clients_new_certificate_is_shown_to_the_next_server_and_a_missing_one_changes_nothing(
    ca: Authority,
) -> None:
    pair, new = ca.issue("worker", 4), ca.issue("worker", 5)
    mutual = ca.server("localhost", 2)
    mutual.verify_mode = ssl.CERT_REQUIRED
    client = ClientContext(ca.cert, pair.cert, pair.key)
    async with serving(mutual) as server:
        await serial(server, client)
        pair.key.unlink()
        await serial(server, client)
        replace(pair, new, "key", "cert")
        await serial(server, client)
        assert server.shown == [4, 4, 5]


async def test_a_replaced_authority_is_the_one_that_is_trusted(ca: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "two")
    client = ClientContext(ca.cert)
    async with serving(other.server("localhost", 9)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(server, client)
        os.replace(shutil.copy(other.cert, tmp_path / "new"), ca.cert)
        assert await serial(server, client) == 9
    async with serving(ca.server("localhost", 2)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(server, client)


async def test_the_servers_name_is_verified(ca: Authority) -> None:
    async with serving(ca.server("localhost", 2)) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
            await serial(server, ClientContext(ca.cert), "elsewhere.example")


def test_less_than_tls_1_2_is_not_spoken(ca: Authority) -> None:
    pair = ca.issue("localhost", 2)
    client = ClientContext(ca.cert)
    for context in (client, client._renewing.context(), server_context(pair.cert, pair.key, "settings")):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_does_not_load_at_first_is_wrong_use(ca: Authority, tmp_path: Path) -> None:
    pair = ca.issue("worker", 2)
    for files in ((tmp_path / "none",), (pair.key,), (ca.cert, pair.cert, ca.issue("other", 3).key)):
        with pytest.raises(Misuse, match="SEALSTREAM_KAFKA_CA_FILE"):
            ClientContext(*files)
    with pytest.raises(Misuse, match="the settings do not load"):
        server_context(pair.cert, ca.issue("other", 4).key, "the settings")
