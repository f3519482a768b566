"""The rows of the table `subject-keys`, byte by byte, and which of a person's keys seals an event.

    key    subject ‖ 0x00 ‖ key id (8)
    value  0x02 ‖ place (8) ‖ made (8) ‖ record(subject key, key id,
                 frame("sealstream/subject-key/2", subject, key id, place, made))
    value  0x01 …: record(subject key, key id, frame("sealstream/subject-key/1", subject, key id)); of before, only read

    key    subject ‖ 0x00
    value  0x03 ‖ place (8) ‖ offset (8)                                      the person was erased there

`place` names the incarnation of `events.raw`, `made` and `offset` are raw offsets in it. A row of version 1 counts as
made at -1 of whichever incarnation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from ..errors import Corrupt
from ..events import frame
from .epochs import kek_id_of
from .kek import COMMITMENT_BYTES, FORMAT, Kek, is_key_record, unwrap_key, wrap_key
from .seal import KEY_ID_BYTES

MADE_AT = b"\x02"
ERASED = b"\x03"
PLACE_BYTES = 8
OFFSET_BYTES = 8
SPAN = 1 << 26
"""A key seals events of so many offsets, × `stages.schema.MAX_SEALED` values an event: 2^32 at the very most, over all
restarts, and nobody has to count."""
BEYOND: Final = 1 << 63
_HEAD_BYTES = len(MADE_AT) + PLACE_BYTES + OFFSET_BYTES
_WRAPPED_AT = len(FORMAT) + COMMITMENT_BYTES
_AAD: Final = frame(b"sealstream/subject-key/2")
_OF_8: Final = (8).to_bytes(4, "big")


class KeyRow(msgspec.Struct, frozen=True, gc=False):
    """A key, wrapped. `place` None, `made` -1: of version 1."""

    subject: str
    key_id: bytes
    place: bytes | None
    made: int
    record: bytes

    def __repr__(self) -> str:
        return "KeyRow(…)"

    @property
    def kek_id(self) -> str:
        """Of the epoch, or the ring's KEK, that wraps it: 16 hex."""
        return kek_id_of(self.record[_WRAPPED_AT:])

    @property
    def wrapped(self) -> bytes:
        return self.record[_WRAPPED_AT:]

    @property
    def key(self) -> bytes:
        return row_key(self.subject, self.key_id)

    @property
    def value(self) -> bytes:
        if self.place is None:
            return self.record
        return MADE_AT + self.place + self.made.to_bytes(OFFSET_BYTES, "big") + self.record

    def open(self, kek: Kek) -> bytes:
        """Return the key. `Corrupt` if anything of the row differs from what was written."""
        try:
            return unwrap_key(kek, self.record, self.key_id, self.aad())
        except Corrupt as e:
            raise Corrupt(f"a row of the table subject-keys: {e}") from None

    def under(self, kek: Kek) -> KeyRow:
        """Return the same key, wrapped anew."""
        record = wrap_key(kek, self.open(kek), self.key_id, self.aad())
        return msgspec.structs.replace(self, record=record)

    def aad(self) -> bytes:
        """To what the record is bound."""
        return _aad(self.subject, self.key_id, self.place, self.made)


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """The person was erased at `offset`: keys made before it die when no record before it can come again."""

    subject: str
    place: bytes
    offset: int

    def __repr__(self) -> str:
        return "Erasure(…)"

    @property
    def key(self) -> bytes:
        return self.subject.encode() + b"\0"

    @property
    def value(self) -> bytes:
        return ERASED + self.place + self.offset.to_bytes(OFFSET_BYTES, "big")

    def dooms(self, row: KeyRow) -> bool:
        """Is it a key of before? Those of other incarnations went when it was written; others of them came after it."""
        return row.place is None or (row.place == self.place and row.made < self.offset)


def place_of(incarnation: str) -> bytes:
    """Return 8 bytes for an incarnation of `events.raw`."""
    return hashlib.sha256(frame(b"sealstream/incarnation/1", incarnation.encode())).digest()[:PLACE_BYTES]


def row_key(subject: str, key_id: bytes) -> bytes:
    """The table's key of a key row."""
    return subject.encode() + b"\0" + key_id


def new(kek: Kek, subject: str, key_id: bytes, place: bytes, made: int, key: bytes) -> KeyRow:
    """Return the row of a new key, wrapped."""
    return KeyRow(subject, key_id, place, made, wrap_key(kek, key, key_id, _aad(subject, key_id, place, made)))


def _aad(subject: str, key_id: bytes, place: bytes | None, made: int) -> bytes:
    named = subject.encode()
    if place is None:
        return frame(b"sealstream/subject-key/1", named, key_id)
    # as `frame` would, 3 µs faster
    named = len(named).to_bytes(4, "big") + named + _OF_8 + key_id
    return _AAD + named + _OF_8 + place + _OF_8 + made.to_bytes(OFFSET_BYTES, "big")


def read(key: bytes, value: bytes) -> KeyRow | Erasure:
    """Return what a row says; `Corrupt` if it has not the form of one. Whether its key opens is seen by `open`."""
    zero = key.find(b"\0")
    if zero > 0:
        form, place, at = value[:1], value[1 : 1 + PLACE_BYTES], value[1 + PLACE_BYTES : _HEAD_BYTES]
        if len(key) == zero + 1 + KEY_ID_BYTES:
            key_id = key[zero + 1 :]
            if form == MADE_AT and is_key_record(record := value[_HEAD_BYTES:]):
                return KeyRow(_text(key[:zero]), key_id, place, int.from_bytes(at, "big"), record)
            if form == FORMAT and is_key_record(value):
                return KeyRow(_text(key[:zero]), key_id, None, -1, value)
        if len(key) == zero + 1 and form == ERASED and len(value) == _HEAD_BYTES:
            return Erasure(_text(key[:zero]), place, int.from_bytes(at, "big"))
    raise Corrupt("a row of the table subject-keys does not read back")


def _text(subject: bytes) -> str:
    try:
        return subject.decode()
    except UnicodeDecodeError:
        raise Corrupt("a row of the table subject-keys does not read back") from None


def check(key: bytes, value: bytes) -> None:
    """`Corrupt` if it has not the form of a row; whether its key opens is seen when it is used."""
    if not read(key, value).subject.isascii():
        raise Corrupt("a row of the table subject-keys does not read back")


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The key for the offsets `since` ≤ o < `until`; None: there is none, and one made at `since` would be it."""

    row: KeyRow | None
    since: int
    until: int


def choose(rows: Iterable[KeyRow], erasure: Erasure | None, place: bytes, offset: int) -> Choice:
    """Return which of a person's keys seals what stands at `offset` of the incarnation `place`.

    The last one made up to there, of several made at one offset the smallest id; none that was made before an erasure
    that lies up to there, nor for more than `SPAN`. A function of the rows and the offset: a replay finds the keys that
    it found before, also among those that were made later.
    """
    first, until = -1, BEYOND
    if erasure is not None:
        if erasure.place != place:
            first = 0
        elif offset < erasure.offset:
            until = erasure.offset
        else:
            first = erasure.offset
    found: KeyRow | None = None
    for row in rows:
        if row.place not in (None, place) or row.made < first:
            continue
        if row.made > offset:
            until = min(until, row.made)
        elif found is None or (-row.made, row.key_id) < (-found.made, found.key_id):
            found = row
    if found is None or offset >= found.made + SPAN:
        return Choice(None, offset, min(until, offset + SPAN))
    return Choice(found, max(first, found.made), min(until, found.made + SPAN))


def by_kek(rows: Iterable[tuple[bytes, bytes]]) -> Counter[str]:
    """Return KEK id (16 hex) → how many keys of people it wraps, of the (key, value) of the rows that are left."""
    found = (read(key, value) for key, value in rows)
    return Counter(row.kek_id for row in found if isinstance(row, KeyRow))
