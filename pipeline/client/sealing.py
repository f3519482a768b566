"""What both producers do to an event: its bytes sealed and signed, its headers, its partition."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..adapters.partitioner import partitions
from ..crypto.sessions import Sealer, read_public
from ..crypto.signatures import SourceSecret
from ..errors import Misuse, Transient
from ..events import SEAL_KEY_HEADER, SOURCE_CHARS, SOURCE_HEADER, is_source

FLUSH_SECONDS = 30.0
Event = Mapping[str, Any] | bytes
Key = str | bytes


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
        plain = event if isinstance(event, bytes) else msgspec.json.encode(event)
        now = int(time.time() * 1000)
        value, seal_key = self._sealer.seal(plain, now)
        headers = [(SOURCE_HEADER, self._source), (SEAL_KEY_HEADER, seal_key)]
        if self._signer is not None:
            headers += self._signer.headers(now, seal_key, None, value)
        return value, headers


def partition_of(key: Key, count: int) -> int:
    """Where every Kafka client puts a record with this key, of `count` partitions."""
    return partitions([key.encode() if isinstance(key, str) else key], count)[0]


def unwritten(events: int) -> Transient:
    return Transient(f"{events} events are not on the broker; check it, then flush or send them again")
