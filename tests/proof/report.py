"""What was proved: how much of it, what happened on the way, and what failed."""

from __future__ import annotations

from collections import Counter

import msgspec

CONFLICT = "conflict "
"""What counters of conflicts by rule begin with."""
SHOWN = ("events", "records", "crashes", "zombies", "kills", "terminated", "profiles", "merges", "splits", "erased")


class Failure(msgspec.Struct, frozen=True):
    what: str
    again: str
    """Arguments of `python -m tests.proof` that do it alone."""


class Part(msgspec.Struct, frozen=True):
    """`counts`: events, records (events and those that came again), crashes, …: what there was of each."""

    cases: int
    seconds: float
    counts: dict[str, int]
    conflicts: dict[str, int]
    failures: list[Failure]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    seed: int
    pure: Part | None = None
    broker: Part | None = None

    @property
    def clean(self) -> bool:
        return not any(part.failures for part in (self.pure, self.broker) if part is not None)


def part(cases: int, seconds: float, counts: Counter[str], failures: list[Failure]) -> Part:
    return Part(
        cases,
        round(seconds, 1),
        {name: counts[name] for name in SHOWN if name in counts},
        {name.removeprefix(CONFLICT): n for name, n in sorted(counts.items()) if name.startswith(CONFLICT)},
        failures,
    )


def text(report: Report) -> str:
    """For a terminal."""
    lines = []
    for name, found in (("pure", report.pure), ("broker", report.broker)):
        if found is None:
            continue
        lines.append(f"{name}: {found.cases} cases in {found.seconds:.0f} s, {len(found.failures)} failed")
        lines.append("  " + ", ".join(f"{n} {what}" for what, n in found.counts.items()))
        lines.append("  conflicts: " + (", ".join(f"{n} {rule}" for rule, n in found.conflicts.items()) or "none"))
        lines += [f"  FAILED {f.what}\n         python -m tests.proof {f.again}" for f in found.failures]
    lines.append(f"seed {report.seed}: {'profiles are those of the set of events' if report.clean else 'NOT PROVED'}")
    return "\n".join(lines)
