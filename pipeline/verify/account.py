"""raw = protected ⊎ rejected, by origin; and resolved = protected.

Memory: 9 bytes for each offset of a raw partition that occurs, in pieces of 65,536 offsets: a byte of flags, and 8
bytes of digest of the first record that came of it. Cost: 1.5 µs a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from ..adapters.reader import Found
from ..events import Origin, Topic
from .findings import FIRST, Check, Findings
from .log import Log

PIECE_BITS = 16
_PIECE = 1 << PIECE_BITS
_WITHIN = _PIECE - 1

Stream = tuple[str, str, int]
"""Topic, incarnation and partition of an origin."""


class Mark(IntFlag):
    RAW = 1
    PROTECTED = 2
    REJECTED = 4
    RESOLVED = 8
    DIFFERS = 16


_RAW, _PROTECTED, _REJECTED, _RESOLVED, _DIFFERS = (m.value for m in Mark)
_SIDES = _PROTECTED | _REJECTED
_MARK_OF = {Topic.PROTECTED.value: _PROTECTED, Topic.REJECTED.value: _REJECTED}


class _Piece:
    __slots__ = ("digests", "flags")

    def __init__(self) -> None:
        self.flags = bytearray(_PIECE)
        self.digests = memoryview(bytearray(8 * _PIECE)).cast("Q")  # its pages cost nothing before they are written


class Account:
    """Marks where each origin occurs; `close` draws the balance. `events.protected` comes before `events.rejected`."""

    def __init__(self, raw: Log, findings: Findings) -> None:
        self._raw = raw
        self._findings = findings
        self._streams: dict[Stream, dict[int, _Piece]] = {}
        self._latest: dict[tuple[str, int, Stream], int] = {}
        self._ends = {(Topic.RAW.value, raw.incarnation, partition): end for partition, (_, end) in raw.bounds.items()}
        self.duplicates: dict[str, int] = dict.fromkeys((*_MARK_OF, Topic.RESOLVED.value), 0)

    def _piece(self, stream: Stream, offset: int) -> _Piece:
        pieces = self._streams.get(stream)
        if pieces is None:
            pieces = self._streams[stream] = {}
        number = offset >> PIECE_BITS
        piece = pieces.get(number)
        if piece is None:
            piece = pieces[number] = _Piece()
        return piece

    # -- records ---------------------------------------------------------------------------------------------------

    def raw(self, found: Found) -> None:
        stream = (Topic.RAW.value, self._raw.incarnation, found.partition)
        self._piece(stream, found.offset).flags[found.offset & _WITHIN] |= _RAW

    def output(self, topic: str, found: Found, origin: Origin) -> bool:
        """A record of `events.protected` or `events.rejected`; whether it is the first of its origin there."""
        stream, offset = (origin.topic, origin.incarnation, origin.partition), origin.offset
        piece, at, mark = self._piece(stream, offset), offset & _WITHIN, _MARK_OF[topic]
        flags = piece.flags[at]
        if flags & mark:
            self.duplicates[topic] += 1
            if flags & _SIDES != _SIDES and not flags & _DIFFERS and piece.digests[at] != digest(found):
                piece.flags[at] = flags | _DIFFERS
                self._findings.add(Check.DIFFERS, f"{topic}: an origin's records are not the same bytes", origin)
            return False
        piece.flags[at] = flags | mark
        if flags & _SIDES:
            self._findings.add(Check.BOTH, "an origin is protected and rejected", origin)
            return True
        piece.digests[at] = digest(found)
        way = (topic, found.partition, stream)
        if offset < self._latest.get(way, -1):
            self._findings.add(Check.ORDER, f"{topic}: an origin comes first behind a later one", origin)
        elif offset < self._ends.get(stream, offset + 1):  # else foreign, and no measure for others
            self._latest[way] = offset
        return True

    def is_first(self, found: Found, origin: Origin) -> bool:
        """Whether a record of `events.protected` is, or is equal to, the first one of its origin."""
        piece = self._piece((origin.topic, origin.incarnation, origin.partition), origin.offset)
        return piece.digests[origin.offset & _WITHIN] == digest(found)

    def resolved(self, origin: Origin) -> None:
        piece = self._piece((origin.topic, origin.incarnation, origin.partition), origin.offset)
        at = origin.offset & _WITHIN
        if piece.flags[at] & _RESOLVED:
            self.duplicates[Topic.RESOLVED.value] += 1
        piece.flags[at] |= _RESOLVED

    # -- the balance -----------------------------------------------------------------------------------------------

    def _offsets(self, stream: Stream, flags: int, wanted: int) -> Iterator[NDArray[np.int64]]:
        """The offsets whose flags, of those in `flags`, are `wanted`, or any of them for -1; ascending by piece."""
        for number, piece in sorted(self._streams.get(stream, {}).items()):
            found = np.frombuffer(piece.flags, np.uint8) & flags
            yield np.flatnonzero(found if wanted < 0 else found == wanted) + (number << PIECE_BITS)

    def _count(self, flag: int) -> int:
        return sum(len(part) for stream in self._streams for part in self._offsets(stream, flag, flag))

    def close(self, committed: Mapping[int, int]) -> dict[str, int]:
        """Add what does not balance to the findings; return the counts. `committed`: by the protect leg."""
        counts = {"expired": 0, "earlier": 0}
        for stream in sorted(self._streams):
            topic, incarnation, partition = stream
            outputs = [part for part in self._offsets(stream, _SIDES, -1) if len(part)]
            if topic == Topic.RAW and incarnation != self._raw.incarnation:
                counts["earlier"] += sum(map(len, outputs))
            elif topic != Topic.RAW or partition not in self._raw.bounds:
                for part in outputs:
                    self._add(Check.FOREIGN, "an origin of another topic or partition", stream, part)
            else:
                counts["expired"] += self._foreign(stream)
        for partition, offset in committed.items():
            self._missing((Topic.RAW.value, self._raw.incarnation, partition), offset)
        return {
            "raw": self._count(_RAW),
            "protected": self._count(_PROTECTED),
            "rejected": self._count(_REJECTED),
            "resolved": self._count(_RESOLVED),
            **counts,
        }

    def _foreign(self, stream: Stream) -> int:
        """Origins that raw does not hold; returns how many lie before all that it holds, and have expired there."""
        held = (int(part[0]) for part in self._offsets(stream, _RAW, _RAW) if len(part))
        start = next(held, self._raw.bounds[stream[2]][1])
        expired = 0
        for number, piece in sorted(self._streams[stream].items()):
            flags = np.frombuffer(piece.flags, np.uint8)
            part = np.flatnonzero((flags & _SIDES != 0) & (flags & _RAW == 0)) + (number << PIECE_BITS)
            before = int(np.searchsorted(part, start))
            expired += before
            self._add(Check.FOREIGN, "an origin that events.raw does not hold", stream, part[before:])
        return expired

    def _missing(self, stream: Stream, committed: int) -> None:
        start, end = self._raw.bounds[stream[2]]
        if committed < start:
            parts = self._offsets(stream, _SIDES, -1)
            lost = start - committed - sum(int(((part >= committed) & (part < start)).sum()) for part in parts)
            if lost:
                what = "not committed when events.raw deleted them"
                self._findings.add(Check.MISSING, what, Origin(*stream, committed), lost)
        if committed > end:
            self._findings.add(
                Check.AHEAD, "committed beyond the end of events.raw", Origin(*stream, end), committed - end
            )
        last = max((int(part[-1]) for part in self._offsets(stream, _SIDES, -1) if len(part)), default=-1)
        for part in self._offsets(stream, _RAW | _SIDES, _RAW):
            part = part[part < committed]
            middle = int(np.searchsorted(part, last))
            self._add(Check.MISSING, "committed, on neither side, though later ones are", stream, part[:middle])
            self._add(Check.AHEAD, "committed, on neither side, nor is any later one", stream, part[middle:])

    def unresolved(self, everything: bool) -> None:
        """Compare `events.resolved` with `events.protected`: all of it, or of what `events.raw` still holds."""
        held = 0 if everything else _RAW
        asked = _PROTECTED | _RESOLVED | held
        for stream in sorted(self._streams):
            for part in self._offsets(stream, asked, _PROTECTED | held):
                self._add(Check.RESOLVED, "protected, not resolved", stream, part)
            for part in self._offsets(stream, asked, _RESOLVED | held):
                self._add(Check.RESOLVED, "resolved, not protected", stream, part)

    def _add(self, check: Check, what: str, stream: Stream, offsets: NDArray[np.int64]) -> None:
        for i, offset in enumerate(offsets[:FIRST].tolist()):
            self._findings.add(check, what, Origin(*stream, offset), len(offsets) if i == 0 else 0)


def digest(found: Found) -> int:
    key = found.key or b""
    return int.from_bytes(
        hashlib.blake2b(len(key).to_bytes(4, "big") + key + (found.value or b""), digest_size=8).digest(), "big"
    )
