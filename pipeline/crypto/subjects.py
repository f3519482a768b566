"""The subject keys of one raw partition: random, one per person, wrapped in a table whose changelog is durable.

Row: key = subject ‖ 0x00 ‖ key_id (8), value = a key record (`crypto.kek`) with
AAD = frame("sealstream/subject-key/1", subject, key_id).

Why the key id stands in the row's key: a worker that has lost the partition but not noticed yet may still write a key
for a person for whom the new owner makes one, too. Were the row's key the subject alone, the changelog's last writer
would win and what the other one sealed could never be opened. So rows only add up; all of them open, and the smallest
key id is the active one: a function of the set of rows, whatever their order. The table cannot look up by prefix,
therefore an index subject → active row's key is built from `items()` at the first use. It shares the row keys with an
in-memory table; see `SubjectKeys` for its measured size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

from .. import ports
from ..errors import Corrupt
from ..events import frame
from .aead import KEY_BYTES
from .kek import Kek, is_key_record, unwrap_key, wrap_key
from .seal import KEY_ID_BYTES, SubjectKey


class SubjectKeys:
    """Finds or makes the key of a person. A token as `subject` holds no zero byte.

    `cached` keys stay unwrapped in memory (about 0.4 kB each). Ciphers are made anew (2.3 µs): kept ones are 3 kB each,
    so that no useful share of the people would fit, and cold ones cost as much.
    """

    __slots__ = ("_active", "_index", "_kek", "_random", "_table", "_unwrapped")

    def __init__(
        self,
        table: ports.Table,
        kek: Kek,
        random: Callable[[int], bytes] = os.urandom,
        cached: int = 50_000,
    ) -> None:
        self._table = table
        self._kek = kek
        self._random = random
        self._index: dict[str, bytes] | None = None
        self._unwrapped = lru_cache(cached)(self._unwrap)
        self._active = lru_cache(cached)(self._find_or_make)

    def __repr__(self) -> str:
        return "SubjectKeys(…)"

    def get(self, subject: str) -> SubjectKey:
        """Return the person's active key; make and `put` it if there is none. `Corrupt` if its row was changed.

        The caller makes the table durable before anything sealed with a new key leaves.
        """
        return self._active(subject)

    def find(self, subject: str, key_id: bytes) -> SubjectKey | None:
        """Return the person's key `key_id` for opening, or None if it is not (or no longer) here."""
        try:
            return SubjectKey(key_id, self._unwrapped(row_key(subject, key_id)))
        except LookupError:
            return None

    def probe(self) -> None:
        """Open one of the keys, if there is any. `Corrupt` before a new one is made under another KEK than theirs."""
        for row, _ in self._table.items():
            self._unwrap(row)
            return

    def forget(self, subject: str) -> int:
        """Delete every key of the person and return how many there were: what they sealed here is unreadable then.

        Goes through the whole table (raced rows count), so about 30 ms with 100,000 subjects; and empties the caches.
        """
        rows = [row for row, _ in self._table.items() if row[: -KEY_ID_BYTES - 1] == subject.encode()]
        for row in rows:
            self._table.delete(row)
        self._index = None
        self._active.cache_clear()
        self._unwrapped.cache_clear()
        return len(rows)

    def _find_or_make(self, subject: str) -> SubjectKey:
        index = self._index
        if index is None:
            index = self._index = _index(self._table)
        row = index.get(subject)
        if row is not None and self._table.get(row) is not None:
            return SubjectKey(row[-KEY_ID_BYTES:], self._unwrap(row))
        return self._make(subject, index)

    def _make(self, subject: str, index: dict[str, bytes]) -> SubjectKey:
        key_id, key = self._random(KEY_ID_BYTES), self._random(KEY_BYTES)
        row = row_key(subject, key_id)
        self._table.put(row, wrap_key(self._kek, key, key_id, _aad(row)))
        index[subject] = row
        return SubjectKey(key_id, key)

    def _unwrap(self, row: bytes) -> bytes:
        record = self._table.get(row)
        if record is None:
            raise LookupError("no such subject key")  # not remembered by the cache: the row may come yet
        try:
            return unwrap_key(self._kek, record, row[-KEY_ID_BYTES:], _aad(row))
        except Corrupt as e:
            raise Corrupt(f"a row of the table subject-keys: {e}") from None


def check_row(key: bytes, value: bytes) -> None:
    """`Corrupt` if it has not the form of a row; whether its key opens is seen when it is used."""
    subject = key[: -KEY_ID_BYTES - 1]
    well_formed = subject.isascii() and len(subject) > 0 and key[len(subject) : len(subject) + 1] == b"\0"
    if not well_formed or not is_key_record(value):
        raise Corrupt("a row of the table subject-keys does not read back")


def row_key(subject: str, key_id: bytes) -> bytes:
    """The table's key of a row."""
    return subject.encode() + b"\0" + key_id


def _aad(row: bytes) -> bytes:
    return frame(b"sealstream/subject-key/1", row[: -KEY_ID_BYTES - 1], row[-KEY_ID_BYTES:])


def _index(table: ports.Table) -> dict[str, bytes]:
    index: dict[str, bytes] = {}
    for row, _ in table.items():
        subject = row[: -KEY_ID_BYTES - 1].decode()
        known = index.get(subject)
        if known is None or row < known:
            index[subject] = row
    return index
