"""The report: what each kind of fault did, as a table, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.oracle import Verdict

HEADER = ("fault", "count", "lost", "twice", "p50 s", "p95 s")


class Outcome(msgspec.Struct, frozen=True):
    """One fault that was done. `recovery`: seconds from its beginning to lag zero, None if that was not reached.

    `wrong`: what was not as it must be; "" if nothing.
    """

    name: str
    parameters: Mapping[str, Any]
    at: float
    recovery: float | None
    wrong: str = ""


class Row(msgspec.Struct, frozen=True):
    fault: str
    count: int
    lost: int
    twice: int
    p50: float | None
    p95: float | None


class Report(msgspec.Struct, frozen=True):
    plan: str
    seed: int
    versions: Mapping[str, str]
    settings: Mapping[str, float]
    seconds: float
    outcomes: Sequence[Outcome]
    exits: Mapping[str, int]
    """Exit codes of workers that nobody had asked to end, with how often. The supervisor started others."""
    verdict: Verdict | None
    """None: the end was not reached."""
    wrong: Sequence[str]
    """Of the run as a whole."""
    logs: Sequence[str]

    @property
    def clean(self) -> bool:
        reached = self.verdict is not None and self.verdict.clean
        return reached and not self.wrong and all(not o.wrong and o.recovery is not None for o in self.outcomes)


def rows(outcomes: Sequence[Outcome], verdict: Verdict | None) -> list[Row]:
    """One row per kind of fault, and one for all. What was lost or doubled is laid to the fault that came before it."""
    lost = _laid(outcomes, verdict.lost_at if verdict else ())
    twice = _laid(outcomes, verdict.twice_at if verdict else ())
    names = list(dict.fromkeys(o.name for o in outcomes))
    found = []
    for name in [*sorted(names), "all"]:
        mine = [i for i, o in enumerate(outcomes) if name in ("all", o.name)]
        times = [r for i in mine if (r := outcomes[i].recovery) is not None]
        found.append(
            Row(
                name,
                len(mine),
                sum(lost[i] for i in mine),
                sum(twice[i] for i in mine),
                statistics.median(times) if times else None,
                quantile(times, 0.95) if times else None,
            )
        )
    return found


def _laid(outcomes: Sequence[Outcome], times: Iterable[float]) -> list[int]:
    starts = [o.at for o in outcomes]
    counts = [0] * len(outcomes)
    for at in times:
        if counts:
            counts[max(0, bisect_right(starts, at) - 1)] += 1
    return counts


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share `q` of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


def table(report: Report) -> list[tuple[str, ...]]:
    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return [
        HEADER,
        *(
            (r.fault, str(r.count), str(r.lost), str(r.twice), seconds(r.p50), seconds(r.p95))
            for r in rows(report.outcomes, report.verdict)
        ),
    ]


def text(report: Report) -> str:
    """For a terminal."""
    lines = table(report)
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    shown = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([*shown, "", *_notes(report)])


def markdown(report: Report) -> str:
    head, *body = table(report)
    lines = [f"# Faults: plan {report.plan}, seed {report.seed}", ""]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(line) + " |" for line in body]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(report)), ""])


def _notes(report: Report) -> list[str]:
    v = report.verdict
    notes = [
        f"plan {report.plan}, seed {report.seed}, {report.seconds:.0f} s: {'clean' if report.clean else 'NOT CLEAN'}"
    ]
    if v is not None:
        notes.append(
            f"{v.events} events, {v.rejected} of them rejected; {v.lost} lost, {v.twice} twice, {v.foreign} foreign, "
            f"{v.different} profiles different; {v.duplicates} records written again in equal bytes"
        )
        notes.append(f"{v.canaries} canaries, {v.canaries_wrong} wrong")
        notes += v.first
        notes += [f"verify: {finding}" for finding in v.findings]
    if report.exits:
        notes.append(
            "workers that ended unasked: " + ", ".join(f"{n} with {code}" for code, n in sorted(report.exits.items()))
        )
    notes += [f"{o.name} {dict(o.parameters)}: {o.wrong}" for o in report.outcomes if o.wrong]
    notes += report.wrong
    notes.append(", ".join(f"{name} {value:g}" for name, value in report.settings.items()))
    notes.append(", ".join(f"{name} {version}" for name, version in report.versions.items()))
    if not report.clean:
        notes += [f"log: {path}" for path in report.logs]
    return notes


def write(report: Report, directory: Path) -> list[Path]:
    """Write both forms; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{report.plan}-{report.seed}"
    as_json, as_markdown = directory / f"{stem}.json", directory / f"{stem}.md"
    as_json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    as_markdown.write_text(markdown(report), encoding="utf-8")
    return [as_json, as_markdown]
