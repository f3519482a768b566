"""Seal: what may not be seen, under its person's key; and the protected event, ready to be published.

In: `Tokenized`. Out: records of `events.protected`. Rejects: none; without a key nothing leaves (`Transient`,
`Corrupt` end the process). Cost: 9 µs with 4 sealed fields and a key that is at hand, 15 µs more for a person's first
event (bench/costs.py).

Pure in the record but for the person's key, which is made once and durable before what it sealed leaves: a record
that is protected again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ..crypto.seal import SubjectKey
from ..events import EventIds, Origin, ProtectedEvent, SubjectRef
from ..ports import Out
from .tokenize import Tokenized

_encode: Final = msgspec.json.Encoder().encode


def seal(
    events: list[Tokenized],
    ids: EventIds,
    topic: str,
    incarnation: str,
    partition: int,
    key_of: Callable[[str], SubjectKey],
) -> list[Out]:
    """Return the records, each keyed by its anchor; `ids` are those of the batch's partition."""
    outs: list[Out] = []
    add, encode, id_of = outs.append, _encode, ids.of
    for e in events:
        decoded, anchor = e.decoded, e.anchor
        record = decoded.record
        offset = record.offset
        event_id = id_of(offset)
        sealed: dict[str, bytes] = {}
        key = None
        if e.secrets:
            subject = key_of(anchor)
            key = SubjectRef(anchor, subject.name)
            sealed = subject.seal_all(event_id, e.secrets)
        received = record.timestamp
        value = encode(
            ProtectedEvent(
                event_id.hex(),
                Origin(topic, incarnation, partition, offset),
                decoded.source,
                decoded.schema.title,
                e.type,
                e.time,
                received,
                e.message_id,
                anchor,
                e.event,
                e.tokens,
                decoded.body,
                key,
                sealed,
            )
        )
        add(Out(anchor.encode(), value, received if received > 0 else 0))
    return outs
