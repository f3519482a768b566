"""Where a readable copy of an erased person is left: in the tables, and in what compaction has not deleted yet.

In: all records of a changelog or of `profiles`, and where the erasure's markers stand. Out: a `Place` each. `live`
counts what the present state says; `copies` what earlier records still say, until Kafka deletes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from ..adapters.changelog import standing
from ..adapters.reader import Found
from ..crypto import subject_rows
from ..crypto.subject_rows import Erasure, KeyRow
from ..errors import Corrupt
from ..events import Origin
from ..stages.compose import erased_ids
from ..stages.identity_rows import DIGEST, Facts, Row, decode_facts, decode_row, digest_of, pack
from ..stages.profile_records import profile_id, said
from .audit import Place
from .markers import Spot


class _Ledger:
    """Which rows say something readable now, and how many records said so that were overwritten since."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, bytes], bool] = {}
        self._copies = 0

    def take(self, found: Found, readable: bool) -> None:
        """The next record of its key."""
        at = found.partition, found.key or b""
        self._copies += self._last.get(at, False)
        self._last[at] = readable

    def place(self, name: str, note: str = "") -> Place:
        return Place(name, sum(self._last.values()), self._copies, note=note if self._copies else "")


def subject_keys(records: Iterable[Found], marks: Mapping[Spot, Origin | None], openable: Collection[str]) -> Place:
    """The keys of before. `openable`: ids of the KEKs (epochs, and the ring's) that are not destroyed."""
    subjects = {token.encode() for token, _ in marks}
    ledger = _Ledger()
    for found in standing(records):
        key = found.key or b""
        if key.partition(b"\0")[0] in subjects:
            row = None if found.value is None else _row(key, found.value)
            ledger.take(
                found,
                isinstance(row, KeyRow)
                and _made_before(row, marks.get((row.subject, found.partition)))
                and row.kek_id in openable,
            )
    return ledger.place("subject-keys", "at once by `keys rotate subjects`, and `keys destroy` of the epoch before")


def _row(key: bytes, value: bytes) -> KeyRow | Erasure | None:
    try:
        return subject_rows.read(key, value)
    except Corrupt:
        return None


def _made_before(row: KeyRow, mark: Origin | None) -> bool:
    if mark is None:  # no marker has come out of that partition yet
        return True
    return row.place != subject_rows.place_of(mark.incarnation) or row.made < mark.offset


class Rows:
    """The identify leg's rows of the person's tokens, and what it has announced. In the order of the methods."""

    def __init__(self, tokens: Iterable[str], erasure: str, time: int) -> None:
        """The erasure, and its time (ms)."""
        self._this = time, erasure
        self._packed = {pack(token): token for token in tokens}
        self._digests = {digest_of(token): token for token in self._packed.values()}
        self._eras: dict[str, int] = {}
        """Token → how often it was erased; what was known before this erasure has less."""
        self._gone: set[str] = set()
        """Ids of profiles under which nothing may stand any more."""

    def tokens(self, records: Iterable[Found]) -> Place:
        read: list[tuple[Found, str, Row | None]] = []
        last: dict[str, Row] = {}
        for found in records:
            token = self._packed.get(found.key or b"")
            if token is not None:
                row = None if found.value is None else decode_row(found.value)
                read.append((found, token, row))
                if row is not None:
                    last[token] = row
        for token, row in last.items():
            self._learn(token, row)
        ledger = _Ledger()
        for found, token, row in read:
            ledger.take(found, row is not None and self._is_old(token, row.facts))
        return ledger.place("tokens")

    def _learn(self, token: str, row: Row) -> None:
        facts, erased = row.facts, row.erased
        if facts is None or erased is None or (erased.time, erased.erasure) < self._this:
            self._eras[token] = 1 << 62  # all of it
            return
        self._eras[token] = facts.erasures
        self._gone |= {ident.hex() for ident in erased_ids(facts)}

    def _is_old(self, token: str, facts: Facts | None) -> bool:
        if facts is None or facts.erasures >= self._eras.get(token, 0):
            return False
        return bool(facts.births or facts.traits or facts.links or facts.decisions)

    def evidence(self, records: Iterable[Found]) -> Place:
        ledger = _Ledger()
        for found in records:
            key = found.key or b""
            token = self._digests.get(key[-DIGEST:]) if key[:1] == b"\0" else None
            if token is not None:
                facts = None if found.value is None else decode_facts(found.value)
                ledger.take(found, self._is_old(token, facts))
        return ledger.place("evidence")

    def profiles(self, records: Iterable[Found]) -> Place:
        ledger = _Ledger()
        named = frozenset(self._packed.values())
        for found in records:
            ident = profile_id(found.key)
            if ident is None:
                continue
            content = None if found.value is None else said(found.value)
            about = content is not None and not named.isdisjoint(content.tokens)
            ledger.take(found, about and ident in self._gone)
        return ledger.place("profiles")

    def database(self, by_id: Callable[[str], bytes | None]) -> Place:
        return Place("database", sum(by_id(ident) is not None for ident in sorted(self._gone)))
