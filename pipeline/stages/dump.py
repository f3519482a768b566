"""Read a dump of `events.protected`: JSON lines, one protected event each, or what `sealstream protect` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from ..errors import Misuse

T = TypeVar("T")


class _Line(msgspec.Struct, frozen=True):
    protected: msgspec.Raw = msgspec.Raw()
    rejected: Any = None
    anchor: str | None = None


def read(lines: Iterable[bytes], as_: type[T]) -> Iterator[T]:
    """Yield the events as `as_`, which names fields of `ProtectedEvent`; empty lines and rejects are passed over.

    `Misuse` names the number of a line that is no protected event.
    """
    head, event = msgspec.json.Decoder(_Line), msgspec.json.Decoder(as_)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = head.decode(line)
            if found.anchor is not None:
                yield event.decode(line)
            elif bytes(found.protected) not in (b"", b"null"):
                yield event.decode(found.protected)
            elif found.rejected is None:
                raise Misuse(f"line {number} is not a protected event")
        except msgspec.DecodeError:
            raise Misuse(f"line {number} is not a protected event") from None
