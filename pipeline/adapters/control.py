"""`control`: what the whole installation must know, one value to a key. Small, compacted, in one partition."""

from __future__ import annotations

from collections.abc import Mapping

from .reader import Reader
from .writer import Writer


def standing(bootstrap: str, security: Mapping[str, str], topic: str) -> dict[bytes, bytes]:
    """Return the last value of each key that has one. Raises as `Reader` does."""
    found: dict[bytes, bytes] = {}
    with Reader(bootstrap, security, topic) as reader:
        for record in reader:
            if record.value is None:
                found.pop(record.key or b"", None)
            else:
                found[record.key or b""] = record.value
    return found


def put(bootstrap: str, security: Mapping[str, str], topic: str, key: bytes, value: bytes | None) -> None:
    """Return when it is durable; None takes the key away. Raises as `Writer.flush` does."""
    writer = Writer(bootstrap, security)
    writer.send(topic, key, value)
    writer.flush()
