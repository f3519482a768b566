"""The subject keys of one raw partition: random, wrapped in a table whose changelog is durable. Rows: `subject_rows`.

Each row says at which raw offset its key was made, and which key seals an event is a function of the rows and its
offset (`subject_rows.choose`). So a replay after a crash seals as it did, whatever was made and erased since.

Why the key id stands in the row's key: a worker that has lost the partition but not noticed yet may still write a key
for a person for whom the new owner makes one, too. Were the row's key the subject alone, the changelog's last writer
would win and what the other one sealed could never be opened. So rows only add up, and all of them open.

Erasure: its row is written where its marker stands in the log, and from there on only keys made after it are used. The
keys of before go when the marker was committed: until then a crash may have events of before it protected again, to the
bytes that they had. Where somebody sets offsets back by hand, such events come once more without their keys; they get
one that goes in the same way.

The table cannot look up by prefix, therefore an index subject → its rows' keys is built from `items()` at the first
use. It shares the row keys with an in-memory table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .. import ports
from ..remembered import Remembered
from . import subject_rows
from .aead import KEY_BYTES
from .epochs import Epochs
from .seal import KEY_ID_BYTES, SubjectKey
from .subject_rows import Erasure, KeyRow

LOOKED_AT = 10
"""`rewrap` looks at so many rows for one that it may wrap: 2 µs against 16."""


class Held(NamedTuple):
    """A person's key in memory, and for which offsets: `since` ≤ offset < `until`."""

    key: SubjectKey
    since: int
    until: int


class SubjectKeys:
    """Finds or makes the key of a person. A token as `subject` holds no zero byte.

    `cached` keys stay unwrapped in memory (about 0.4 kB each); a person whose key does not costs 15 µs more.
    """

    __slots__ = (
        "_epochs",
        "_held",
        "_incarnation",
        "_index",
        "_pending",
        "_place",
        "_random",
        "_table",
        "_unseen",
        "_wrapped_by",
    )

    def __init__(
        self,
        table: ports.Table,
        epochs: Epochs,
        random: Callable[[int], bytes] = os.urandom,
        cached: int = 131_072,
    ) -> None:
        self._table = table
        self._epochs = epochs
        self._random = random
        self._index: dict[str, bytes | tuple[bytes, ...]] | None = None
        self._pending: dict[str, Erasure] = {}
        self._incarnation, self._place = "", subject_rows.place_of("")
        self._held: Remembered[Held] = Remembered(cached)
        self._wrapped_by: object = None
        self._unseen: Iterator[bytes] = iter(())

    def __repr__(self) -> str:
        return "SubjectKeys(…)"

    def enter(self, incarnation: str) -> None:
        """The offsets that follow are of this incarnation of the topic."""
        if incarnation != self._incarnation:
            self._incarnation, self._place = incarnation, subject_rows.place_of(incarnation)
            self._held.clear()

    def get(self, subject: str, offset: int) -> SubjectKey:
        """Return the person's key for what stands at `offset`; make and `put` it if there is none.

        `Corrupt` if its row was changed. The caller makes the table durable before anything sealed with a new key
        leaves.
        """
        held = self._held.get(subject)
        if held is not None and held.since <= offset < held.until:
            return held.key
        return self._find_or_make(subject, offset)

    def find(self, subject: str, key_id: bytes) -> SubjectKey | None:
        """Return the person's key `key_id` for opening, or None if it is not (or no longer) here."""
        row = subject_rows.row_key(subject, key_id)
        value = self._table.get(row)
        if value is None:
            return None
        found = subject_rows.read(row, value)
        return SubjectKey(key_id, found.open(self._epochs)) if isinstance(found, KeyRow) else None

    def probe(self) -> None:
        """Open one of the keys, if there is any. `Corrupt` before a new one is made under another KEK than theirs."""
        for row, value in self._table.items():
            found = subject_rows.read(row, value)
            if isinstance(found, KeyRow):
                found.open(self._epochs)
                return

    # -- erasure -----------------------------------------------------------------------------------------------------

    def erase(self, subject: str, offset: int) -> bool:
        """The marker of the person's erasure stands at `offset`. False: it is known, or one that came after it.

        Keys made before it are not used from there on, and deleted by `committed`.
        """
        rows, before = self._rows(subject)
        if before is not None and before.place == self._place and before.offset >= offset:
            return False
        self._delete(subject, [row for row in rows if row.place not in (None, self._place)])  # no replay needs those
        erasure = Erasure(subject, self._place, offset)
        self._put(subject, erasure)
        self._note(erasure)
        return True

    def committed(self, incarnation: str, offset: int) -> int:
        """Nothing below `offset` comes again: delete the keys that wait for it, and return how many there were."""
        self._indexed()  # which finds those that a former owner left
        place, deleted = subject_rows.place_of(incarnation), 0
        for subject, erasure in list(self._pending.items()):
            if erasure.place != place or erasure.offset < offset:
                deleted += self._delete(subject, self._doomed(erasure))
                del self._pending[subject]
        return deleted

    def _note(self, erasure: Erasure) -> None:
        """Remember it while there are keys that it dooms."""
        if self._doomed(erasure):
            self._pending[erasure.subject] = erasure
        else:
            self._pending.pop(erasure.subject, None)

    def _doomed(self, erasure: Erasure) -> list[KeyRow]:
        rows, _ = self._rows(erasure.subject)
        return [row for row in rows if erasure.dooms(row)]

    # -- epochs ------------------------------------------------------------------------------------------------------

    def rewrap(self, most: int) -> int:
        """Wrap at most so many keys anew that are not under the epoch in use; return how many. To be called again.

        Keys and their ids stay, and what they sealed. Rows say what is left to do, so it goes on after a restart.
        """
        epochs, table = self._epochs, self._table
        if self._wrapped_by is not epochs.in_use:
            self._wrapped_by = epochs.in_use
            self._unseen = iter([row for row, _ in table.items()])
        wrapped = 0
        for _, row in zip(range(most * LOOKED_AT), self._unseen, strict=False):
            value = table.get(row)
            found = None if value is None else subject_rows.read(row, value)
            if isinstance(found, KeyRow) and not epochs.is_current(found.wrapped):
                table.put(row, found.under(epochs).value)
                wrapped += 1
                if wrapped == most:
                    break
        return wrapped

    # -- rows --------------------------------------------------------------------------------------------------------

    def _find_or_make(self, subject: str, offset: int) -> SubjectKey:
        rows, erasure = self._rows(subject)
        choice = subject_rows.choose(rows, erasure, self._place, offset)
        key = None
        for row in rows:  # all are opened: a changed one might be passed over
            opened = row.open(self._epochs)
            if row is choice.row:
                key = SubjectKey(row.key_id, opened)
        if key is None:
            key = self._make(subject, offset)
            if erasure is not None:
                self._note(erasure)
        self._held.keep(subject, Held(key, choice.since, choice.until))
        return key

    def _make(self, subject: str, offset: int) -> SubjectKey:
        key_id, key = self._random(KEY_ID_BYTES), self._random(KEY_BYTES)
        self._put(subject, subject_rows.new(self._epochs, subject, key_id, self._place, offset, key))
        return SubjectKey(key_id, key)

    def _indexed(self) -> dict[str, bytes | tuple[bytes, ...]]:
        index = self._index
        if index is None:
            index = self._index = {}
            erased = []
            for row, _ in self._table.items():
                zero = row.index(b"\0")
                subject = row[:zero].decode()
                index[subject] = _with(index.get(subject), row)
                if zero == len(row) - 1:
                    erased.append(subject)
            for subject in erased:
                _, erasure = self._rows(subject)
                if erasure is not None:
                    self._note(erasure)
        return index

    def _rows(self, subject: str) -> tuple[list[KeyRow], Erasure | None]:
        entry = self._indexed().get(subject, ())
        keys: list[KeyRow] = []
        erasure = None
        for row in (entry,) if isinstance(entry, bytes) else entry:
            value = self._table.get(row)
            if value is None:
                continue
            found = subject_rows.read(row, value)
            if isinstance(found, Erasure):
                erasure = found
            else:
                keys.append(found)
        return keys, erasure

    def _put(self, subject: str, row: KeyRow | Erasure) -> None:
        index, key = self._indexed(), row.key
        self._table.put(key, row.value)
        index[subject] = _with(index.get(subject), key)

    def _delete(self, subject: str, rows: list[KeyRow]) -> int:
        index = self._indexed()
        for row in rows:
            self._table.delete(row.key)
            entry = index[subject]
            rest = () if isinstance(entry, bytes) else tuple(key for key in entry if key != row.key)
            if rest:
                index[subject] = rest[0] if len(rest) == 1 else rest
            else:
                del index[subject]
        self._held.pop(subject, None)
        return len(rows)


def _with(entry: bytes | tuple[bytes, ...] | None, row: bytes) -> bytes | tuple[bytes, ...]:
    """Nearly everybody has one row: no tuple for it."""
    if entry is None or entry == row:
        return row
    others = (entry,) if isinstance(entry, bytes) else entry
    return others if row in others else (*others, row)
