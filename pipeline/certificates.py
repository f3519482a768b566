"""TLS contexts, 1.2 and later, whose files may be replaced while they are used: every new connection looks at them.

Certificates live for weeks and workers for longer. What was replaced by something that does not load (a certificate
whose key is still to come) is said once, and the former one stays in use. And for whom there need be none: this
machine.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from .errors import Misuse

log = structlog.get_logger(__name__)
Stamps = tuple[tuple[int, int, int] | None, ...]


class _Renewing:
    """The context of some files, made again when they have changed."""

    def __init__(self, make: Callable[[], ssl.SSLContext], files: Sequence[Path | None]) -> None:
        self._make = make
        self._files = [file for file in files if file is not None]
        self._stamps = self._look()
        self._context = make()

    def context(self) -> ssl.SSLContext:
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = self._make()
                log.info("a certificate was replaced", files=[file.name for file in self._files])
            except (OSError, ssl.SSLError):
                log.warning(
                    "what replaced a certificate does not load; the former one is used",
                    files=[file.name for file in self._files],
                )
        return self._context

    def _look(self) -> Stamps:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class ClientContext(ssl.SSLContext):
    """Verifies the server and its name by the certificates in `ca` (None: the system's).

    Shows `cert`, a PEM certificate, if it is given, with `key`. For asyncio, which makes each connection by `wrap_bio`.
    """

    def __new__(cls, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ClientContext:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made

    def __init__(self, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> None:
        """`Misuse` if the files do not load."""

        def make() -> ssl.SSLContext:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if cert is not None:
                context.load_cert_chain(cert, key)
            return context

        try:
            self._renewing = _Renewing(make, (ca, cert, key))
        except (OSError, ssl.SSLError):
            raise Misuse(
                "SEALSTREAM_KAFKA_CA_FILE, …_CERT_FILE and …_CERT_KEY_FILE do not load as PEM certificates and key"
            ) from None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self._renewing.context().wrap_bio(*args, **kwargs)


class Replaced:
    """Tells clients that read the files of Kafka's security properties once, librdkafka's, when to be made anew."""

    def __init__(self, security: Mapping[str, str]) -> None:
        """`Misuse` if the files do not load."""
        files = kafka_files(security)
        self._renewing = ClientContext(*files)._renewing if any(files) else None
        self._context = None if self._renewing is None else self._renewing.context()

    def __call__(self) -> bool:
        """Were they replaced since the last call, by such as load?"""
        before, self._context = self._context, None if self._renewing is None else self._renewing.context()
        return self._context is not before


def kafka_files(security: Mapping[str, str]) -> tuple[Path | None, Path | None, Path | None]:
    """Return CA, certificate and key of security properties by librdkafka's names."""
    given = (security.get(f"ssl.{name}.location") for name in ("ca", "certificate", "key"))
    ca, cert, key = (Path(path) if path else None for path in given)
    return ca, cert, key


def server_context(cert: Path, key: Path | None, settings: str) -> ssl.SSLContext:
    """Return the context of a server. `Misuse`, with the names of the settings, if the files do not load."""

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert, key)
        return context

    try:
        renewing = _Renewing(make, (cert, key))
    except (OSError, ssl.SSLError):
        raise Misuse(f"{settings} do not load as a PEM certificate and its key") from None

    def renew(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = renewing.context()  # of each handshake, before a certificate is shown

    served = renewing.context()
    served.sni_callback = renew
    return served


def all_here(servers: str) -> bool:
    """Whether each `host:port` or `host`, separated by commas, means this machine for this machine alone."""
    return all(is_loopback(_host(server.strip())) for server in servers.split(","))


def _host(server: str) -> str:
    host, colon, port = server.rpartition(":")
    return (host if colon and port.isdigit() else server).strip("[]")


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
