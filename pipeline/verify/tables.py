"""The identify leg's tables, as their changelogs hold them, against the events of one bucket.

Each origin must be counted once in its token's row; the pointers of a person's tokens must lead to one root, whose
members are all those whose pointers lead there, and which must hold their facts. In: the last values of rows. Only for
what is wrong are there findings, with origins of the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from ..adapters.changelog import last_values
from ..adapters.partitioner import partitions
from ..adapters.reader import Found
from ..errors import Corrupt
from ..events import Origin
from ..outcomes import UNDECODABLE
from ..stages.fold import GROUP
from ..stages.identity_rows import (
    Row,
    Seen,
    decode_row,
    digest_of,
    encode,
    evidence_key,
    pack,
    token_rank,
    unpack,
    unpack_members,
)
from .findings import Check, Findings
from .log import Log

_COUNTED = "a row does not count each origin of its token once"
_POINTERS = "pointers of one profile do not lead to one root"
_MEMBERS = "a root's members are not the tokens that point to it"
_EVIDENCE = "a root's evidence is not its member's facts"

Way = tuple[str, str, int]
"""Topic, incarnation and partition of origins."""


class Known(msgspec.Struct, frozen=True):
    """What the events of a bucket say of a token. `first`: the origin of the first event that names it."""

    first: Origin
    origins: list[Origin] = []
    """Of the events that are anchored on it, each once."""
    uncounted: int = 0
    """How many of them its counters pass over."""


class Person(msgspec.Struct, frozen=True):
    """A recomputed profile: its tokens, and its id."""

    tokens: list[str]
    profile: bytes


class Tables:
    """The rows of one bucket. `count`: partitions of the topics."""

    def __init__(
        self,
        tokens: Log,
        evidence: Log,
        count: int,
        rows: Iterable[Found],
        parts: Iterable[Found],
        findings: Findings,
    ) -> None:
        self._logs = tokens, evidence
        self._count = count
        self._rows = last_values(rows)
        self._parts = last_values(parts)
        self._known: set[bytes] = set()
        self._findings = findings

    def check(self, known: Mapping[str, Known], people: Iterable[Person]) -> None:
        """`known`: every token of which there must be a row. All of this bucket at once."""
        tokens = sorted(known)
        owners = dict(zip(tokens, partitions([t.encode() for t in tokens], self._count), strict=True))
        rows: dict[str, Row] = {}
        counted = set()
        for token in tokens:
            self._known.add(digest_of(token))
            found = self._rows.pop((owners[token], pack(token)), None)
            if found is None:
                place = min(known[token].origins, default=known[token].first)
                self._findings.add(Check.TABLES, "a token without a row", place)
                continue
            row = self._read(found)
            if row is None:
                continue
            rows[token] = row
            wrong = _wrong(row, known[token])
            for origin in wrong:
                self._findings.add(Check.TABLES, _COUNTED, origin)
            if not wrong:
                counted.add(token)
        ends = _ends({token: row.parent for token, row in rows.items()})
        doubtful = {""}  # roots of which a finding says already that something is wrong
        for person in people:
            roots = {ends.get(token, "") for token in person.tokens}
            if len(roots) > 1 or "" in roots:
                doubtful |= roots
            if not all(token in rows for token in person.tokens):
                continue  # the others cannot be followed, and one is reported already
            root = ends[min(person.tokens, key=token_rank)]
            for token in person.tokens:
                place = min(known[token].origins, default=known[token].first)
                if ends[token] != root or not root:
                    self._findings.add(Check.TABLES, _POINTERS, place)
                elif rows[token].profile != person.profile:
                    self._findings.add(Check.TABLES, "a row has another profile id than its cluster", place)
        clusters: dict[str, set[str]] = defaultdict(set)
        for token, end in ends.items():
            clusters[end].add(token)
        for root, cluster in clusters.items():
            if root not in doubtful:
                self._evidence(root, cluster, owners[root], rows, counted, known)

    def _read(self, found: Found) -> Row | None:
        assert found.value is not None
        try:
            row = decode_row(found.value)
            unpack(row.parent)
        except (Corrupt, *UNDECODABLE):
            self._findings.add(Check.UNREADABLE, "tokens: a row does not read back", self._logs[0].place(found))
            return None
        return row

    def _evidence(
        self,
        root: str,
        cluster: set[str],
        owner: int,
        rows: Mapping[str, Row],
        counted: set[str],
        known: Mapping[str, Known],
    ) -> None:
        found = self._parts.pop((owner, pack(root)), None)
        try:
            members = set(unpack_members(found.value or b"")[0]) if found is not None else set()
        except (Corrupt, *UNDECODABLE):
            assert found is not None
            self._findings.add(Check.UNREADABLE, "evidence: a row does not read back", self._logs[1].place(found))
            return
        if members != cluster - {root}:
            self._findings.add(Check.TABLES, _MEMBERS, min(known[token].first for token in cluster))
            return
        for member in sorted(members):
            facts = rows[member].facts
            held = self._parts.pop((owner, evidence_key(root, member)), None)
            if member in counted and (held.value if held else None) != (None if facts is None else encode(facts)):
                place = min(known[member].origins, default=known[member].first)
                self._findings.add(Check.TABLES, _EVIDENCE, place)

    def close(self) -> None:
        """After all clusters: no row may be left but the evidence of tokens that are roots no more."""
        for (_, key), found in self._rows.items():
            if key.startswith(GROUP.encode()):
                continue  # its members may be in any bucket
            self._findings.add(
                Check.TABLES, "tokens: a row of no token, or on a wrong partition", self._logs[0].place(found)
            )
        for (_, key), found in self._parts.items():
            root = key[1:17] if key[0] == 0 else key[-16:]
            if root not in self._known:
                self._findings.add(Check.TABLES, "evidence: a row of no token", self._logs[1].place(found))


def _ends(parents: Mapping[str, bytes]) -> dict[str, str]:
    """Where each token's pointers end; "" in a circle or outside of the cluster."""
    ends: dict[str, str] = {}
    for token in parents:
        way: dict[str, None] = {}
        at = token
        while at in parents and at not in ends and parents[at] and at not in way:
            way[at] = None
            at = unpack(parents[at])
        end = ends.get(at, at if at in parents and not parents[at] else "")
        ends.update(dict.fromkeys((*way, token), end))
    return ends


def _wrong(row: Row, known: Known) -> list[Origin]:
    """The origins that a row lacks or has too much; of one that has them all but counts otherwise, its first."""
    facts, origins = row.facts, known.origins
    if facts is None:
        return origins
    by_way: dict[Way, list[Origin]] = defaultdict(list)
    for origin in origins:
        by_way[origin.topic, origin.incarnation, origin.partition].append(origin)
    has = set()
    good = facts.version == len(origins) == sum(facts.events.values()) + known.uncounted
    for at, seen in row.seen.items():
        index, partition = at >> 32, at & 0xFFFFFFFF
        topic, _, incarnation = (facts.streams[index] if index < len(facts.streams) else "").partition("\0")
        has |= {Origin(topic, incarnation, partition, offset) for offset in _above(seen)}
        mine = by_way[topic, incarnation, partition]
        has |= {origin for origin in mine if origin.offset <= seen.floor}
        good &= seen.floor <= seen.high == max((origin.offset for origin in mine), default=-1)
    wrong = has ^ set(origins)
    if not wrong and not good:
        wrong.add(min(origins, default=known.first))
    return sorted(wrong)


def _above(seen: Seen) -> list[int]:
    distances = np.frombuffer(seen.above[: len(seen.above) // 4 * 4], "<u4")
    return [seen.floor + distance for distance in distances.tolist()]
