"""What both producers do to an event: its bytes sealed and signed, its headers, its partition; and what they lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from ..adapters.partitioner import partitions
from ..certificates import all_here
from ..crypto.sessions import Sealer, read_public
from ..crypto.signatures import SourceSecret
from ..errors import Misuse, Transient
from ..events import SEAL_KEY_HEADER, SOURCE_CHARS, SOURCE_HEADER, is_source

FLUSH_SECONDS = 30.0
Event = Mapping[str, Any] | bytes
Key = str | bytes
OnFailed = Callable[[Event, Key | None, str], None]
"""Given an event that is not on the broker and was given up, its key, and the name of Kafka's error."""


class Sealing:
    """Makes the records of one source for one topic: sealed, and signed if it has a secret."""

    def __init__(self, source: str, keys: bytes, secret: str | None, topic: str) -> None:
        if not is_source(source):
            raise Misuse(f"source: 1 to {SOURCE_CHARS} printable characters")
        self._sealer = Sealer(source, read_public(keys))
        self._source = source.encode()
        self._signer = None if secret is None else SourceSecret.parse(secret).signer(source, topic)

    def seal(self, event: Event) -> tuple[bytes, list[tuple[str, bytes]]]:
        """Return value and headers. `TypeError` for an event that has no JSON."""
        plain = event if isinstance(event, bytes) else _json(event)
        now = int(time.time() * 1000)
        value, seal_key = self._sealer.seal(plain, now)
        headers = [(SOURCE_HEADER, self._source), (SEAL_KEY_HEADER, seal_key)]
        if self._signer is not None:
            headers += self._signer.headers(now, seal_key, None, value)
        return value, headers


def check_encrypted(servers: str | Iterable[str], protocol: object, name: str) -> None:
    """`Misuse` if a connection to `servers` (none: this machine) by `protocol` crosses a network in clear.

    Source, times and lengths would be seen, a password too, and nobody would know which broker answers.
    """
    given = servers if isinstance(servers, str) else ",".join(servers)
    if given and not all_here(given) and str(protocol or "").upper() not in ("SSL", "SASL_SSL"):
        raise Misuse(f"{name}: not encrypted on the way to another machine; SSL or SASL_SSL, or insecure=True")


def partition_of(key: Key, count: int) -> int:
    """Where every Kafka client puts a record with this key, of `count` partitions."""
    return partitions([key.encode() if isinstance(key, str) else key], count)[0]


class Failures:
    """Events that were given up for good: told to `on_failed` at once, and raised by whoever looks next. Any thread."""

    def __init__(self, on_failed: OnFailed | None) -> None:
        self._on_failed = on_failed
        self._count = 0
        self._lock = threading.Lock()

    def of(self, event: Event, key: Key | None) -> Callable[[str], None]:
        """Return what to call with a reason if this one is given up. It is kept for `on_failed` alone."""
        return self._add if self._on_failed is None else partial(self._give_back, event, key, self._on_failed)

    def check(self, waiting: int = 0) -> None:
        """`Transient` if some were given up since the last time, or so many are `waiting`."""
        with self._lock:
            lost, self._count = self._count, 0
        told = [f"{waiting} events are not on the broker yet; check it, then flush again"] if waiting else []
        if lost:
            told.append(f"{lost} events were given up and are not on the broker; `on_failed` is told which and why")
        if told:
            raise Transient("; ".join(told))

    def _add(self, _: str) -> None:
        with self._lock:
            self._count += 1

    def _give_back(self, event: Event, key: Key | None, on_failed: OnFailed, reason: str) -> None:
        self._add(reason)
        on_failed(event, key, reason)


def _json(event: Mapping[str, Any]) -> bytes:
    plain = msgspec.json.encode(event)
    if b"null" in plain:  # as which msgspec writes a number that is not finite
        for name, value in msgspec.to_builtins(event).items():
            if not _finite(value):
                raise TypeError(f"{name}: numbers must be finite; JSON has no NaN and no infinity")
    return plain


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple | set | frozenset) or all(map(_finite, value))
