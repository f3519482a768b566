"""`sealstream verify`: the proof, by what stands on the topics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import click
import msgspec

from .. import settings
from ..verify.findings import Report

T = TypeVar("T")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for the workers to finish what there is.",
)
@click.pass_context
def verify(ctx: click.Context, as_json: bool, wait: float) -> None:
    """Prove that nothing was lost and nothing counted twice, by what stands on the topics.

    Reads them without a worker or a key, and commits nothing. Every raw record must have come out once, as protected or
    as rejected; profiles must be what independent code makes of the events, by the rules in force; tables must count
    each event once. Hold producers back meanwhile: what is still moving cannot be proved. Exit code 1 for a finding;
    the first origins that it concerns are named. Needs disk for a copy of events.protected in TMPDIR.

    \b
    Examples:
      sealstream verify
      sealstream verify --wait 120 --json
    """
    from .. import wiring
    from ..verify.run import verify as run

    config = settings.load()
    rules = wiring.rules_in_force(config)
    began = time.monotonic()
    with wiring.snapshot(config, wait, _waiting) as snapshot:
        report = run(snapshot, rules, progress=_progress)
    report = msgspec.structs.replace(report, seconds=round(time.monotonic() - began, 1))
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _tell(report)
    ctx.exit(0 if report.ok else 1)


def _waiting(behind: Mapping[str, int]) -> None:
    if sys.stderr.isatty() and any(behind.values()):
        click.echo(
            "waiting for " + ", ".join(f"{leg}: {n:,}" for leg, n in behind.items() if n) + "  \r", err=True, nl=False
        )


def _progress(what: str, total: int, items: Iterable[T]) -> Iterator[T]:
    with click.progressbar(
        items, length=total, label=f"{what:24}", file=sys.stderr, hidden=not sys.stderr.isatty(), update_min_steps=500
    ) as bar:
        yield from bar


def _tell(report: Report) -> None:
    for name, count in (*report.events.items(), ("profiles", report.profiles), ("tokens", report.tokens)):
        twice = report.duplicates.get(f"events.{name}", 0)
        click.echo(f"{name:<10} {count:>12,}" + (f"  and {twice:,} again" if twice else ""))
    for finding in report.findings:
        click.echo(f"\n{finding.check.value}: {finding.what} ({finding.count:,})")
        for place in finding.first:
            click.echo(f"  {place}")
    click.echo("\n" + ("nothing lost, nothing twice" if report.ok else "NOT PROVED") + f" ({report.seconds:g} s)")
