"""Seal: what may not be seen, under its person's key; and the protected event, ready to be published.

An erasure's marker (an operator's event of type `erase`, whose anchor is the person's token and which has nothing to
seal) is applied in its turn: what the person sends after it has another key.

In: `Tokenized`. Out: records of `events.protected`. Rejects: none; without a key nothing leaves (`Transient`,
`Corrupt` end the process). Cost: 9 µs with 4 sealed fields and a key that is at hand, 15 µs more for a person's first
event (bench/costs.py).

Pure in the record but for the person's key, which is made once and durable before what it sealed leaves: a record
that is protected again gives the same bytes.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..crypto.subjects import SubjectKeys
from ..events import ERASE, EventIds, Origin, ProtectedEvent, SubjectRef
from ..ports import Out
from .tokenize import Tokenized

_encode: Final = msgspec.json.Encoder().encode


def seal(
    events: list[Tokenized],
    ids: EventIds,
    topic: str,
    incarnation: str,
    partition: int,
    keys: SubjectKeys,
) -> list[Out]:
    """Return the records, each keyed by its anchor; `ids` and `keys` are those of the batch's partition."""
    outs: list[Out] = []
    add, encode, id_of, key_of = outs.append, _encode, ids.of, keys.get
    keys.enter(incarnation)
    for e in events:
        decoded, anchor = e.decoded, e.anchor
        record = decoded.record
        offset = record.offset
        event_id = id_of(offset)
        sealed: dict[str, bytes] = {}
        key = None
        if e.secrets:
            subject = key_of(anchor, offset)
            key = SubjectRef(anchor, subject.name)
            sealed = subject.seal_all(event_id, e.secrets)
        elif e.type == ERASE:
            keys.erase(anchor, offset)
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
