"""Whatever was sealed names a key that stands in the subject-keys changelog of its raw partition, unless it was erased.

Memory: 8 bytes a row; 0.5 kB an event without its key, which are those of erased people. A row is known by Python's
keyed 64-bit hash of it: two rows of one hash would hide a missing one, once in 10^13 for a million rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..adapters.reader import Found
from ..crypto.subject_rows import row_key
from ..events import ERASE, Origin, ProtectedEvent
from ..stages.reference import unerased
from .findings import Check, Findings

BATCH = 8_192


class Keys:
    def __init__(self, standing: Iterable[Found], findings: Findings) -> None:
        self._rows = _rows(standing)
        self._findings = findings
        self._asked = array("q")
        self._sealed: list[_Event] = []
        self._doubtful: list[_Event] = []
        """Markers of erasures, and what was sealed under a key that is not there."""

    def take(self, event: ProtectedEvent) -> None:
        """An event of `events.protected`, once for each origin."""
        if event.type == ERASE:
            self._doubtful.append(_short(event, event.clear))
        if event.sealed:
            self._sealed.append(_short(event))
            self._asked.append(_hash(event))
            if len(self._sealed) >= BATCH:
                self._check()

    def close(self) -> None:
        """After all were taken."""
        self._check()
        stands, _ = unerased(self._doubtful)
        for event in stands:
            self._findings.add(Check.KEYS, "sealed under a key that is not in the changelog", event.origin)

    def _check(self) -> None:
        if not self._sealed:
            return
        asked = np.frombuffer(self._asked, np.int64)
        at = np.minimum(np.searchsorted(self._rows, asked), len(self._rows) - 1)
        stands = self._rows[at] == asked if len(self._rows) else np.zeros(len(asked), np.bool_)
        self._doubtful += [self._sealed[i] for i in np.flatnonzero(~stands).tolist()]
        self._sealed, self._asked = [], array("q")


class _Event(msgspec.Struct, frozen=True, gc=False):
    """What `unerased` needs of an event."""

    origin: Origin
    type: str
    time: int
    received_at: int
    anchor: str
    clear: Any


def _short(event: ProtectedEvent, clear: Any = None) -> _Event:
    return _Event(event.origin, event.type, event.time, event.received_at, event.anchor, clear)


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
