"""Reject: what cannot be protected, sealed whole with the reason why.

In: `Rejected`. Out: records of `events.rejected`, keyed by origin, from which `sealstream replay` gives back exactly
what was sent. Pure in the record. Cost: 12 µs for a 560-byte value.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..crypto.rejects import RejectBoxes
from ..events import EventIds, Origin
from ..outcomes import Rejected, RejectedRecord
from ..ports import Out
from .decode import NO_SOURCE, Failure, source_of

KEPT_BYTES = 13_000_000
"""Of a sealed original; in base64, with the rest of its record, it is below the limit of `events.rejected`, 17 MiB."""

_encode: Final = msgspec.json.Encoder().encode


def reject(
    rejects: list[Rejected], ids: EventIds, topic: str, incarnation: str, partition: int, boxes: RejectBoxes
) -> list[Out]:
    """Return the records; `ids` are those of the batch's partition."""
    return [_record(r, ids, Origin(topic, incarnation, partition, r.record.offset), boxes) for r in rejects]


def _record(r: Rejected, ids: EventIds, origin: Origin, boxes: RejectBoxes) -> Out:
    record = r.record
    event_id = ids.of(record.offset)
    box = boxes.at(record.timestamp)
    sealed = box.seal(event_id, r.reason.value, record.key, record.value, record.headers)
    kept = len(sealed) <= KEPT_BYTES
    value = RejectedRecord(
        event_id.hex(),
        origin,
        _known_source(record.headers),
        r.stage,
        r.reason,
        record.timestamp,
        box.key_id,
        sealed if kept else b"",
        r.path,
        r.rule,
        r.schema,
        kept,
    )
    key = f"{origin.topic}/{origin.incarnation}/{origin.partition}/{origin.offset}"
    return Out(key.encode(), _encode(value), record.timestamp if record.timestamp > 0 else 0)


def _known_source(headers: object) -> str:
    try:
        return source_of(headers)
    except Failure:
        return NO_SOURCE
