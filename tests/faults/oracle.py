"""The judge: what stands on the topics, against what was sent. What the workers say of themselves does not count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from pipeline.events import Topic
from pipeline.verify.findings import Check, Report
from tests.faults.traffic import Place
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import Got

Origin = tuple[str, int, int]
"""Incarnation, partition, offset."""
_SHOWN = 5
VERIFY_SECONDS = 3_600
"""A long plan leaves millions of events."""


class Ledger:
    """What `events.raw` ever held. A topic that is deleted takes its records along; their effects must stand.

    `late`: how many records the harness had skipped, and let be read behind later ones.
    """

    def __init__(self) -> None:
        self.late = 0
        self._past: dict[str, dict[int, int]] = {}
        self._canaries: dict[Origin, int] = {}

    def close(self, incarnation: str, ends: Mapping[int, int], canaries: Mapping[int, Place]) -> None:
        """An incarnation ends."""
        self._past[incarnation] = dict(ends)
        self._canaries |= _placed(incarnation, canaries)

    def origins(self, incarnation: str, ends: Mapping[int, int]) -> set[Origin]:
        held = {**self._past, incarnation: ends}
        return {(i, p, o) for i, parts in held.items() for p, end in parts.items() for o in range(end)}

    def canaries(self, incarnation: str, present: Mapping[int, Place]) -> dict[Origin, int]:
        return self._canaries | _placed(incarnation, present)


def _placed(incarnation: str, canaries: Mapping[int, Place]) -> dict[Origin, int]:
    return {(incarnation, *place): number for number, place in canaries.items()}


class Verdict(msgspec.Struct, frozen=True):
    """`lost` and `twice` count origins; `at`: when such an origin came, seconds since 1970, where it still stands."""

    events: int
    rejected: int
    lost: int
    twice: int
    foreign: int
    different: int
    """Profiles that are not what `identity recompute` makes of the protected events."""
    canaries: int
    canaries_wrong: int
    """Canaries that no profile has, or that one has not counted once."""
    duplicates: int
    """Records that were written again, in equal bytes: allowed, and told."""
    lost_at: tuple[float, ...] = ()
    twice_at: tuple[float, ...] = ()
    first: tuple[str, ...] = ()
    """Some of what is wrong, by origin or profile id."""
    findings: tuple[str, ...] = ()
    """Those of `sealstream verify`."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.twice or self.foreign or self.different or self.canaries_wrong or self.findings)


class Stands(Protocol):
    """What stands on a pipeline's topics: `Pipeline` is one."""

    def read(self, topic: str) -> list[Got]: ...
    def profiles(self) -> dict[str, Any]: ...
    def recomputed(self) -> dict[str, Any]: ...


def judge(pipeline: Stands, incarnation: str, raw: set[Origin], canaries: Mapping[Origin, int]) -> Verdict:
    """Judge a pipeline at rest. `raw`: every origin there ever was; `incarnation`: that of `events.raw` now."""
    forms: dict[Topic, dict[Origin, bytes]] = {}
    twice: set[Origin] = set()
    duplicates: Counter[str] = Counter()
    for topic in (Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED):
        side: dict[Origin, bytes] = {}
        forms[topic] = side
        for r in pipeline.read(topic):
            assert r.value is not None
            origin = _origin(msgspec.json.decode(r.value, type=_Originated))
            duplicates[topic] += origin in side
            # a resolved event bears the profile id as known then
            if side.setdefault(origin, r.value) != r.value and topic != Topic.RESOLVED:
                twice.add(origin)
    protected, rejected, resolved = (forms[t] for t in (Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED))
    twice |= protected.keys() & rejected.keys()
    out = protected.keys() | rejected.keys()
    lost = (raw - out) | (protected.keys() - resolved.keys())
    foreign = (out | resolved.keys()) - raw
    profiles = pipeline.profiles()
    different = _different(profiles, pipeline.recomputed())
    wrong = _wrong_canaries(canaries, protected, profiles)
    times = _times(pipeline, incarnation, lost | twice)
    return Verdict(
        events=len(raw),
        rejected=len(rejected),
        lost=len(lost),
        twice=len(twice),
        foreign=len(foreign),
        different=len(different),
        canaries=len(canaries),
        canaries_wrong=len(wrong),
        duplicates=duplicates.total(),
        lost_at=tuple(sorted(times[o] for o in lost if o in times)),
        twice_at=tuple(sorted(times[o] for o in twice if o in times)),
        first=tuple(
            f"{what} {where}"
            for what, found in (("lost", lost), ("twice", twice), ("foreign", foreign), ("canary", wrong))
            for where in sorted(found)[:_SHOWN]
        )
        + tuple(f"profile {i}" for i in sorted(different)[:_SHOWN]),
    )


def findings(pipeline: Pipeline, late: int) -> tuple[str, ...]:
    """What `sealstream verify` finds of a pipeline at rest, but that `late` records came out of order."""
    done = pipeline.command("verify", "--json", "--wait", "60", timeout=VERIFY_SECONDS)
    try:
        report = msgspec.json.decode(done.stdout, type=Report)
    except msgspec.DecodeError:
        return (f"verify ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}",)
    return tuple(
        f"{f.check.value}: {f.what} ({f.count}), {f.first[:1]}"
        for f in report.findings
        if not (f.check is Check.ORDER and f.count <= late)
    )


class _Place(msgspec.Struct):
    incarnation: str
    partition: int
    offset: int


class _Originated(msgspec.Struct):
    origin: _Place


def _origin(record: _Originated) -> Origin:
    return record.origin.incarnation, record.origin.partition, record.origin.offset


def _different(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
    return {i for i in found.keys() | wanted.keys() if found.get(i) != wanted.get(i)}


def _wrong_canaries(
    canaries: Mapping[Origin, int], protected: Mapping[Origin, bytes], profiles: Mapping[str, Any]
) -> list[Origin]:
    """Each has a person of its own: a profile with its anchor, that counts one event."""
    counted: Counter[str] = Counter()
    for profile in profiles.values():
        for tokens in profile["tokens"].values():
            for token in tokens:
                counted[token] += sum(profile.get("events", {}).values())
    return [o for o in canaries if o not in protected or counted[json.loads(protected[o])["anchor"]] != 1]


def _times(pipeline: Stands, incarnation: str, origins: Iterable[Origin]) -> dict[Origin, float]:
    wanted = set(origins)
    if not wanted:
        return {}
    return {
        origin: r.timestamp / 1000
        for r in pipeline.read(Topic.RAW)
        if (origin := (incarnation, r.partition, r.offset)) in wanted
    }
