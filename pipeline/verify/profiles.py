"""`profiles` as compaction leaves it, against the recomputation. Memory: 0.3 kB a profile or merged id."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from ..adapters.partitioner import partitions
from ..adapters.reader import Found
from ..events import Origin
from . import records
from .buckets import batched
from .findings import Check, Findings
from .log import Log

_PLACE = struct.Struct("<Iq")
_DIGEST = 8
_AS_EXPECTED = b""


class Profiles:
    """What stands there: id → place and digest, or place and the id that it was merged into (told by length)."""

    def __init__(self, log: Log, found: Iterable[Found], findings: Findings) -> None:
        self._log = log
        self._findings = findings
        self._rows: dict[bytes, bytes] = {}
        self._elsewhere: dict[bytes, bytes] = {}  # id → place; until they moved, when the topics grew
        for batch in batched(found):
            homes = partitions([record.key or b"" for record in batch], len(log.bounds))
            for record, home in zip(batch, homes, strict=True):
                self._take(record, home)
        self.live = sum(len(row) == _PLACE.size + _DIGEST for row in self._rows.values())

    def _take(self, found: Found, home: int) -> None:
        ident = records.profile_id(found.key)
        if ident is None:
            self._findings.add(Check.UNREADABLE, "profiles: a key is no profile id", self._log.place(found))
        elif found.partition != home:
            if found.value is None:
                self._elsewhere.pop(ident, None)
            else:
                self._elsewhere[ident] = _PLACE.pack(found.partition, found.offset)
        elif found.value is None:
            self._rows.pop(ident, None)
        else:
            into = records.merged_into(found.value)
            if into is None:
                self._findings.add(Check.UNREADABLE, "profiles: a record is no profile", self._log.place(found))
                return
            self._rows[ident] = _PLACE.pack(found.partition, found.offset) + (into or _digest(found.value))

    def expect(self, ident: bytes, value: bytes, oldest: Origin) -> None:
        """A recomputed profile, whose oldest event's origin is `oldest`."""
        row = self._rows.get(ident, _AS_EXPECTED)
        if row[_PLACE.size :] != _digest(value):
            what = (
                "a profile is not there"
                if not row
                else "a profile differs from the recomputed one"
                if len(row) == _PLACE.size + _DIGEST
                else "a profile is announced as merged into another"
            )
            self._findings.add(Check.PROFILES, what, oldest)
        self._rows[ident] = _AS_EXPECTED

    def erased(self, ident: bytes, origin: Origin) -> None:
        """A profile may have had this id, of an event that was erased since: nothing may stand under it."""
        if self._rows.pop(ident, None) is not None:
            self._findings.add(Check.PROFILES, "a record stands under an erased id", origin)

    def close(self) -> None:
        """After all were expected: what remains are merged ids, each of which must lead to a profile."""
        for place in self._elsewhere.values():
            self._findings.add(Check.PROFILES, "a record is not on its key's partition", self._place(place))
        for row in self._rows.values():
            if len(row) == _PLACE.size + _DIGEST:
                self._findings.add(Check.PROFILES, "a profile that no event makes", self._place(row))
            elif row and not self._leads_to_profile(row):
                self._findings.add(Check.PROFILES, "merged into what is no profile", self._place(row))

    def _leads_to_profile(self, row: bytes) -> bool:
        passed: set[bytes] = set()
        while len(row) > _PLACE.size + _DIGEST:
            into = row[_PLACE.size :]
            if into in passed or into not in self._rows:
                return False
            passed.add(into)
            row = self._rows[into]
        return True

    def _place(self, row: bytes) -> Origin:
        return Origin(self._log.name, self._log.incarnation, *_PLACE.unpack(row[: _PLACE.size]))


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_DIGEST).digest()
