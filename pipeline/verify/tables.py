"""The identify leg's tables, as their changelogs hold them, against the events of one bucket.

Each origin must be counted once in its token's row; pointers must lead to one root per cluster; and the root must hold
its members' facts. In: the last values of rows. Only for what is wrong are there findings, with origins of the events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from ..adapters.partitioner import partitions
from ..adapters.reader import Found
from ..errors import Corrupt
from ..events import Origin
from ..outcomes import UNDECODABLE
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
from .log import Log, last_values

_COUNTED = "a row does not count each origin of its token once"
_POINTERS = "a pointer does not lead to its cluster's root"
_MEMBERS = "a root's members are not its cluster's tokens"
_EVIDENCE = "a root's evidence is not its member's facts"

Way = tuple[str, str, int]
"""Topic, incarnation and partition of origins."""

Anchored = Mapping[str, list[Origin]]
"""Token → the origins of the events that are anchored on it, each once."""


class Cluster(msgspec.Struct, frozen=True):
    """Tokens that are one person by the recomputation, its profile's id, and the origin of its oldest event."""

    tokens: list[str]
    profile: bytes
    oldest: Origin


class Tables:
    """The rows of one bucket. `count`: partitions of the topics. `repeats`: token → how many events are not counted."""

    def __init__(
        self,
        tokens: Log,
        evidence: Log,
        count: int,
        rows: Iterable[Found],
        parts: Iterable[Found],
        repeats: Mapping[str, int],
        findings: Findings,
    ) -> None:
        self._logs = tokens, evidence
        self._count = count
        self._rows = last_values(rows)
        self._parts = last_values(parts)
        self._repeats = repeats
        self._known: set[bytes] = set()
        self._findings = findings

    def check(self, cluster: Cluster, anchored: Anchored) -> None:
        tokens = cluster.tokens
        owners = dict(zip(tokens, partitions([t.encode() for t in tokens], self._count), strict=True))
        rows: dict[str, Row] = {}
        counted = set()
        for token in tokens:
            self._known.add(digest_of(token))
            origins = anchored.get(token, [])
            found = self._rows.pop((owners[token], pack(token)), None)
            if found is None:
                place = min(origins, default=cluster.oldest)
                self._findings.add(Check.TABLES, "a token without a row", place)
                continue
            row = self._read(found)
            if row is None:
                continue
            rows[token] = row
            wrong = _wrong(row, origins, self._repeats.get(token, 0), cluster.oldest)
            for origin in wrong:
                self._findings.add(Check.TABLES, _COUNTED, origin)
            if not wrong:
                counted.add(token)
        if len(rows) < len(tokens):
            return  # the others cannot be followed, and one is reported already
        root = min(tokens, key=token_rank)
        ends = _ends({token: row.parent for token, row in rows.items()})
        for token in tokens:
            place = min(anchored.get(token, ()), default=cluster.oldest)
            if ends[token] != root:
                self._findings.add(Check.TABLES, _POINTERS, place)
            elif rows[token].profile != cluster.profile:
                self._findings.add(Check.TABLES, "a row has another profile id than its cluster", place)
        self._evidence(cluster, root, owners[root], rows, counted, anchored)

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
        cluster: Cluster,
        root: str,
        owner: int,
        rows: Mapping[str, Row],
        counted: set[str],
        anchored: Anchored,
    ) -> None:
        found = self._parts.pop((owner, pack(root)), None)
        try:
            members = set(unpack_members(found.value or b"")) if found is not None else set()
        except (Corrupt, *UNDECODABLE):
            assert found is not None
            self._findings.add(Check.UNREADABLE, "evidence: a row does not read back", self._logs[1].place(found))
            return
        if members != rows.keys() - {root}:
            self._findings.add(Check.TABLES, _MEMBERS, cluster.oldest)
            return
        for member in sorted(members):
            facts = rows[member].facts
            held = self._parts.pop((owner, evidence_key(root, member)), None)
            if member in counted and (held.value if held else None) != (None if facts is None else encode(facts)):
                self._findings.add(Check.TABLES, _EVIDENCE, min(anchored.get(member, ()), default=cluster.oldest))

    def close(self) -> None:
        """After all clusters: no row may be left but the evidence of tokens that are roots no more."""
        for found in self._rows.values():
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


def _wrong(row: Row, origins: list[Origin], repeats: int, oldest: Origin) -> list[Origin]:
    """The origins that a row lacks or has too much; of one that has them all but counts otherwise, its first."""
    facts = row.facts
    if facts is None:
        return origins
    by_way: dict[Way, list[Origin]] = defaultdict(list)
    for origin in origins:
        by_way[origin.topic, origin.incarnation, origin.partition].append(origin)
    has = set()
    good = facts.version == len(origins) == sum(facts.events.values()) + repeats
    for at, seen in row.seen.items():
        index, partition = at >> 32, at & 0xFFFFFFFF
        topic, _, incarnation = (facts.streams[index] if index < len(facts.streams) else "").partition("\0")
        has |= {Origin(topic, incarnation, partition, offset) for offset in _above(seen)}
        known = by_way[topic, incarnation, partition]
        has |= {origin for origin in known if origin.offset <= seen.floor}
        good &= seen.floor <= seen.high == max((origin.offset for origin in known), default=-1)
    wrong = has ^ set(origins)
    if not wrong and not good:
        wrong.add(min(origins, default=oldest))
    return sorted(wrong)


def _above(seen: Seen) -> list[int]:
    distances = np.frombuffer(seen.above[: len(seen.above) // 4 * 4], "<u4")
    return [seen.floor + distance for distance in distances.tolist()]
