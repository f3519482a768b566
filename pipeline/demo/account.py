"""What came of the story, by what stands on the topics: nothing here is told by the worker that is checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..adapters.reader import Found
from ..events import Topic

Place = tuple[int, int]
"""Partition and offset of a raw record."""


class Account(msgspec.Struct, frozen=True):
    """`missing`, `foreign`, `both`: raw records on no side, records of no raw one, records on both sides."""

    raw: int
    protected: int
    rejected: int
    twice: int
    missing: int
    foreign: int
    both: int

    @property
    def balanced(self) -> bool:
        return not (self.missing or self.foreign or self.both) and self.raw == self.protected + self.rejected


class Seen(msgspec.Struct, frozen=True):
    """The records of the topics, each with its JSON decoded."""

    raw: Mapping[Place, Found]
    protected: Mapping[Place, dict[str, Any]]
    rejected: Mapping[Place, dict[str, Any]]
    profiles: Mapping[str, dict[str, Any]]
    alerts: list[dict[str, Any]]
    twice: int

    def __repr__(self) -> str:
        return "Seen(…)"

    def account(self) -> Account:
        raw, out, no = self.raw.keys(), self.protected.keys(), self.rejected.keys()
        return Account(
            len(raw), len(out), len(no), self.twice, len(raw - (out | no)), len((out | no) - raw), len(out & no)
        )

    def reasons(self) -> list[tuple[str, int]]:
        return Counter(str(r["reason"]) for r in self.rejected.values()).most_common()

    def people(self) -> dict[str, dict[str, Any]]:
        """Return the profiles that are not part of another."""
        return {key: p for key, p in self.profiles.items() if "merged_into" not in p}


def see(topics: Mapping[Topic, Iterable[Found]]) -> Seen:
    """Read everything; a record that stands there twice is counted as `twice`."""
    sides: dict[Topic, dict[Place, dict[str, Any]]] = {Topic.PROTECTED: {}, Topic.REJECTED: {}}
    twice = 0
    for topic, side in sides.items():
        for found in topics[topic]:
            record = json.loads(found.value or b"{}")
            place = record["origin"]["partition"], record["origin"]["offset"]
            twice += place in side
            side[place] = record
    profiles: dict[str, dict[str, Any]] = {}
    for found in topics[Topic.PROFILES]:
        key = (found.key or b"").decode()
        if found.value is None:
            profiles.pop(key, None)
        else:
            profiles[key] = json.loads(found.value)
    return Seen(
        {(f.partition, f.offset): f for f in topics[Topic.RAW]},
        sides[Topic.PROTECTED],
        sides[Topic.REJECTED],
        profiles,
        [json.loads(f.value or b"{}") for f in topics[Topic.ALERTS]],
        twice,
    )
