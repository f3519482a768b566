"""What is written to `access.audit` about erasures and exports: who did what to whom, when, and what came of it.

A person stands in it by tokens, which are pseudonyms. Keyed by `id`; the fields sorted, so that equal records are equal
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import StrEnum

import msgspec

from ..errors import Misuse
from ..outcomes import UNDECODABLE

TICKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._#/-]{0,63}\Z")


class Action(StrEnum):
    ERASE = "erase"  # the markers are about to be sent
    ERASED = "erased"  # and this is what was left then
    EXPORT = "export"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where data of a person may stand. `live`: readable there as the present state. `copies`: superseded ones, that
    were not deleted yet; None: not counted. `until`: when the last copy goes by itself (ms); None: not by itself.
    """

    name: str
    live: int
    copies: int | None = 0
    until: int | None = None
    note: str = ""


class Audited(msgspec.Struct, frozen=True, omit_defaults=True):
    """`ends`: those of the partitions of `events.protected`, before the markers of an erasure were sent. `also`: the
    person's other profiles.
    """

    id: str
    time: int
    action: Action
    actor: str
    ticket: str
    profile_id: str | None
    tokens: tuple[str, ...]
    ends: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def profiles(self) -> str:
        """Their ids, to be shown."""
        return ", ".join(filter(None, (self.profile_id, *self.also))) or "(none)"


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(Audited).decode


def encode(record: Audited) -> bytes:
    return _encode(record)


def decode(value: bytes | None) -> Audited | None:
    """Return the record, or None if it is none of these."""
    try:
        return _decode(value or b"")
    except UNDECODABLE:
        return None


def time_after(records: Collection[Audited], now: int) -> int:
    """Return the time (ms) of an erasure that comes after those among `records`, which are of the same person.

    The legs go by these times, and clocks differ. `Misuse` if one is not done: nobody else knows what it is to erase.
    """
    begun = {record.id: record for record in records if record.action is Action.ERASE}
    done = {record.id for record in records if record.action is Action.ERASED}
    for ident in begun:
        if ident not in done:
            raise Misuse(f"an erasure of this person is not done: `sealstream erase --again {ident}` goes on with it")
    return max((now, *(record.time + 1 for record in begun.values())))


def check_ticket(ticket: str) -> str:
    """`Misuse` unless it is a plain reference: it is kept for ever, so it must not hold what a person said."""
    if not TICKET.match(ticket):
        raise Misuse("--ticket: a reference of up to 64 letters, digits and . _ # / -, with nothing personal in it")
    return ticket
