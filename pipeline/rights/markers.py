"""The events that erase a person: for each token, one in every partition of `events.raw`.

A marker's own place is the boundary: what came before it in its partition is erased, what comes after it begins anew
(`stages.fold`, `crypto.subjects`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ..adapters.reader import Found
from ..events import ERASE, Origin
from ..outcomes import UNDECODABLE

Spot = tuple[str, int]
"""A token, and a partition of `events.raw`."""


class Marker(msgspec.Struct, frozen=True):
    """An event to be sent to `partition`."""

    token: str
    partition: int
    event: bytes


def spots(tokens: Iterable[str], partitions: int) -> list[Spot]:
    return [(token, number) for token in tokens for number in range(partitions)]


def markers(
    wanted: Iterable[Spot], erasure: str, time: int, partitions: int, new_id: Callable[[], str]
) -> list[Marker]:
    """Return the markers of an erasure (32 hex). `time`: ms, the same for all of it, whenever they are sent."""

    def event(token: str) -> bytes:
        told: dict[str, Any] = {
            "type": ERASE,
            "messageId": new_id(),
            "timestamp": time,
            "subject": token,
            "erasure": erasure,
            "partitions": partitions,
        }
        return msgspec.json.encode(told)

    return [Marker(token, number, event(token)) for token, number in wanted]


class _Clear(msgspec.Struct):
    erasure: str


class _Protected(msgspec.Struct):
    type: str
    anchor: str
    origin: Origin
    clear: _Clear


_decode = msgspec.json.Decoder(_Protected).decode


def protected(records: Iterable[Found], erasure: str) -> Iterator[tuple[Spot, Origin]]:
    """Yield where the markers of an erasure stand in `events.raw`, of those that came out on `events.protected`."""
    sign = erasure.encode()
    for record in records:
        if record.value is None or sign not in record.value:
            continue
        try:
            found = _decode(record.value)
        except UNDECODABLE:
            continue
        if found.type == ERASE and found.clear.erasure == erasure:
            yield (found.anchor, found.origin.partition), found.origin
