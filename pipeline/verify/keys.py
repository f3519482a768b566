"""Whatever was sealed names a key that stands in the subject-keys changelog of its raw partition, unless the person was
erased after it.

Memory: 8 bytes a row, 0.3 kB an erased person. A row is known by Python's keyed 64-bit hash of it: two rows of one hash
would hide a missing one, once in 10^13 for a million rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ..adapters.reader import Found
from ..crypto.subject_rows import ERASED, Erasure, place_of, read, row_key
from ..errors import Corrupt
from ..events import Origin, ProtectedEvent, SubjectRef
from .findings import Check, Findings

BATCH = 8_192


class Keys:
    def __init__(self, standing: Iterable[Found], findings: Findings, incarnation: str) -> None:
        """`incarnation`: of `events.raw` as it stands."""
        self._incarnation = incarnation
        self._erased: dict[tuple[int, str], Erasure] = {}
        self._rows = _rows(self._noted(standing))
        self._findings = findings
        self._asked = array("q")
        self._events: list[tuple[Origin, SubjectRef | None]] = []

    def take(self, event: ProtectedEvent) -> None:
        """An event of `events.protected`, once for each origin."""
        if event.sealed:
            self._events.append((event.origin, event.key))
            self._asked.append(_hash(event))
            if len(self._events) >= BATCH:
                self.close()

    def close(self) -> None:
        """Check what was taken since the last call."""
        if not self._events:
            return
        asked = np.frombuffer(self._asked, np.int64)
        at = np.minimum(np.searchsorted(self._rows, asked), len(self._rows) - 1)
        stands = self._rows[at] == asked if len(self._rows) else np.zeros(len(asked), np.bool_)
        for i in np.flatnonzero(~stands).tolist():
            origin, ref = self._events[i]
            if not self._is_erased(origin, ref):
                self._findings.add(Check.KEYS, "sealed under a key that is not in the changelog", origin)
        self._events, self._asked = [], array("q")

    def _noted(self, standing: Iterable[Found]) -> Iterable[Found]:
        for found in standing:
            if found.value is not None and found.value.startswith(ERASED) and found.key is not None:
                with suppress(Corrupt):
                    row = read(found.key, found.value)
                    if isinstance(row, Erasure):
                        self._erased[found.partition, row.subject] = row
            yield found

    def _is_erased(self, origin: Origin, ref: SubjectRef | None) -> bool:
        erasure = None if ref is None else self._erased.get((origin.partition, ref.subject))
        if erasure is None:
            return False
        if erasure.place == place_of(origin.incarnation):
            return origin.offset < erasure.offset
        return origin.incarnation != self._incarnation


def _hash(event: ProtectedEvent) -> int:
    ref = event.key
    try:
        row = row_key(ref.subject, bytes.fromhex(ref.key_id)) if ref is not None else b""
    except ValueError:  # not hex: no row has such a key
        row = b""
    return hash((event.origin.partition, row))


def _rows(standing: Iterable[Found]) -> NDArray[np.int64]:
    """The hashes of the rows that are left, sorted."""
    hashes, alive = array("q"), bytearray()
    for found in standing:
        hashes.append(hash((found.partition, found.key)))
        alive.append(found.value is not None)
    every = np.frombuffer(hashes, np.int64)
    order = np.argsort(every, kind="stable")
    ordered = every[order]
    last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    return ordered[last & np.frombuffer(alive, np.bool_)[order]]
