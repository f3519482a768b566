"""Unseal: what a producer sealed before it sent it, opened; plaintext of a source that must seal, rejected.

In: records of `events.raw`. Out: the same, `Opened` in place of those that were sealed. Rejects: `bad_seal`,
`no_seal_key`, `not_sealed`, `bad_header`. Cost: 0.3 µs for what is in clear (0.5 where some sources must seal), 2.2 µs
for 540 sealed bytes, 55 µs more for a session that is not remembered.

A record is sealed if it has the header `seal-key` or its value begins with 0xF5; one without the other does not open.
Values that are empty, or longer than they may be, are left to `decode` as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from ..crypto.seal import SealBroken
from ..crypto.sessions import MAGIC, OVERHEAD, Opener, UnknownKey
from ..events import SEAL_KEY_HEADER, Record
from ..outcomes import Reason, Rejected, Split, Stage
from .decode import EVERY_SOURCE, Failure, source_of


class Opened(msgspec.Struct, frozen=True, gc=False):
    """A `Record` whose value is the event; `sent` is what stands on the topic."""

    sent: Record
    value: bytes
    offset: int
    timestamp: int
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    def __repr__(self) -> str:
        return f"Opened(offset={self.offset}, …)"


def unseal(records: Iterable[Record], opener: Opener, must_seal: Collection[str], max_bytes: int) -> Split[Record]:
    """Return the records as `decode` takes them. `must_seal`: sources, or `EVERY_SOURCE`."""
    passed: list[Record] = []
    rejected: list[Rejected] = []
    add, every, limit = passed.append, EVERY_SOURCE in must_seal, max_bytes + OVERHEAD
    for record in records:
        value, headers = record.value, record.headers
        if not value or len(value) > limit:
            add(record)
            continue
        seal_key = None
        for name, content in headers:
            if name == SEAL_KEY_HEADER:
                seal_key = content or b""
                break
        try:
            if seal_key is not None or value[0] == MAGIC:
                event = _open(opener, source_of(headers), seal_key, value)
                add(Opened(record, event, record.offset, record.timestamp, record.key, headers))
                continue
            if must_seal and (every or source_of(headers) in must_seal):
                raise Failure(Reason.NOT_SEALED, rule="this source must seal its events", stage=Stage.UNSEAL)
            add(record)
        except Failure as f:
            rejected.append(Rejected(record, f.stage, f.reason, f.path, f.rule))
    return Split(passed, rejected)


def _open(opener: Opener, source: str, seal_key: bytes | None, value: bytes) -> bytes:
    if seal_key is None:
        raise Failure(Reason.BAD_SEAL, SEAL_KEY_HEADER, "is required", Stage.UNSEAL)
    try:
        return opener.open(source, seal_key, value)
    except UnknownKey:
        rule = "sealed to a key that the key ring does not have"
        raise Failure(Reason.NO_SEAL_KEY, SEAL_KEY_HEADER, rule, Stage.UNSEAL) from None
    except SealBroken:
        raise Failure(Reason.BAD_SEAL, rule="does not open as this source's", stage=Stage.UNSEAL) from None


def as_sent(rejects: Iterable[Rejected]) -> list[Rejected]:
    """Return them with the records that stand on the topic: what was sealed is kept sealed."""
    return [_as_sent(r) for r in rejects]


def _as_sent(rejected: Rejected) -> Rejected:
    record: Any = rejected.record
    return msgspec.structs.replace(rejected, record=record.sent) if isinstance(record, Opened) else rejected
