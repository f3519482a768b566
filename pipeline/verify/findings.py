"""What was found, by check: a sentence, how often, and the places to look at first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from ..events import Origin

FIRST = 10
"""Places kept of a finding, the smallest ones."""


class Check(StrEnum):
    """Every check by its name (docs/operations.md, "Prove it")."""

    BEHIND = "behind"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    AHEAD = "ahead"
    BOTH = "both"
    FOREIGN = "foreign"
    DIFFERS = "differs"
    ORDER = "order"
    PARTITION = "partition"
    ANCHOR = "anchor"
    KEYS = "keys"
    RESOLVED = "resolved"
    PROFILES = "profiles"
    TABLES = "tables"


class Finding(msgspec.Struct, frozen=True):
    """`first`: "topic/incarnation/partition/offset" of origins, else of the records themselves."""

    check: Check
    what: str
    count: int
    first: list[str]


class Findings:
    """Collects findings; one per check and sentence."""

    def __init__(self) -> None:
        self._found: dict[tuple[Check, str], tuple[list[Origin], list[int]]] = {}

    def add(self, check: Check, what: str, place: Origin | None = None, count: int = 1) -> None:
        first, counted = self._found.setdefault((check, what), ([], [0]))
        counted[0] += count
        if place is not None and (len(first) < FIRST or place < first[-1]):
            insort(first, place)
            del first[FIRST:]

    def all(self) -> list[Finding]:
        order = list(Check)
        return [
            Finding(check, what, counted[0], [text(place) for place in first])
            for (check, what), (first, counted) in sorted(
                self._found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
            )
        ]


def text(place: Origin) -> str:
    return f"{place.topic}/{place.incarnation}/{place.partition}/{place.offset}"


class Report(msgspec.Struct, frozen=True):
    """What `sealstream verify --json` prints.

    `events`: distinct origins on each topic; raw = protected + rejected − expired − earlier where nothing is wrong.
    """

    ok: bool
    events: Mapping[str, int]
    duplicates: Mapping[str, int]
    profiles: int
    tokens: int
    behind: Mapping[str, int]
    findings: list[Finding]
    seconds: float
