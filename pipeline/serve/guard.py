"""Who may ask: until there are members with permissions, whoever has the bearer token; without one, this machine."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from ..adapters import private_file
from ..certificates import is_loopback
from ..errors import Misuse

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]{32,512}\Z")  # RFC 6750: b64token
_MAX_BYTES = 513


class Guard:
    """Keeps the token's SHA-256 alone."""

    __slots__ = ("_digest",)

    def __init__(self, token: bytes | None) -> None:
        self._digest = None if token is None else hashlib.sha256(token).digest()

    def __repr__(self) -> str:
        return "Guard(…)"

    @property
    def open(self) -> bool:
        """Nobody is asked for a token."""
        return self._digest is None

    def admits(self, authorization: str | None) -> bool:
        """Whether a header `Authorization` has the token. Takes the same time whatever it holds."""
        if self._digest is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, self._digest) and scheme.lower() == "bearer"


def guard(token_file: Path | None) -> Guard:
    """Return the guard with the token of a file. `Misuse` for a file that others may use, or that holds no token."""
    if token_file is None:
        return Guard(None)
    remedy = "make one: (umask 077; openssl rand -base64 32 > FILE)"
    content = private_file.read(token_file, "SEALSTREAM_SERVE_TOKEN_FILE", _MAX_BYTES, remedy)
    token = (content or b"").removesuffix(b"\n")
    if not _TOKEN.match(token):
        raise Misuse("SEALSTREAM_SERVE_TOKEN_FILE: 32 to 512 characters of A-Z a-z 0-9 . _ ~ + / = - in one line")
    return Guard(token)


def asks_loopback(header: str) -> bool:
    """Whether a header `Host`, with a port or without, has such a name."""
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    return is_loopback(name)


def check_address(host: str, *, tls: bool, insecure: bool, token: bool) -> None:
    """`Misuse` where profiles would be open to others, or readable on their way."""
    if is_loopback(host):
        return
    if not token:
        raise Misuse("serving beyond this machine needs a token: set SEALSTREAM_SERVE_TOKEN_FILE")
    if not tls and not insecure:
        raise Misuse(
            "serving beyond this machine needs TLS: set SEALSTREAM_SERVE_CERT_FILE and …_CERT_KEY_FILE "
            "(SEALSTREAM_INSECURE=true behind a proxy that has it)"
        )
