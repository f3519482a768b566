"""`sealstream topics`: the pipeline's topics on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from .. import settings


@click.group()
def topics() -> None:
    """Make, compare and grow the topics.

    \b
    Example:
      SEALSTREAM_KAFKA=localhost:9092 sealstream topics apply
    """


@topics.command()
@click.option("--check", "check_only", is_flag=True, help="Only compare; make nothing.")
@click.option(
    "--producer-times", is_flag=True, help="Keep producers' record times (a replay of the past); then nothing expires."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def apply(ctx: click.Context, check_only: bool, producer_times: bool, as_json: bool) -> None:
    """Make the topics that are missing, and compare the others with what they should be; those are never altered.

    SEALSTREAM_PARTITIONS and SEALSTREAM_REPLICATION say how they are made. Exit code 1 if a topic differs, or with
    --check is missing.

    \b
    Examples:
      SEALSTREAM_KAFKA=localhost:9092 SEALSTREAM_REPLICATION=3 sealstream topics apply
      sealstream topics apply --check --json
    """
    from .. import wiring
    from ..adapters.topics import State

    config = settings.load()
    wanted = wiring.wanted_topics(config, append_time=not producer_times)
    reports = wiring.apply_topics(config, wanted, only_check=check_only)
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    else:
        for report in reports:
            click.echo(f"{report.state.value:8} {report.name}")
            for difference in report.differences:
                click.echo(f"         {difference}")
    ctx.exit(1 if any(r.state in (State.MISSING, State.DIFFERS) for r in reports) else 0)


@topics.command()
@click.option("--partitions", "to", required=True, type=click.IntRange(1, 1024), help="How many each topic is to have.")
@click.option("--dry-run", is_flag=True, help="Say what would move and what must be done first; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def resize(ctx: click.Context, to: int, dry_run: bool, as_json: bool) -> None:
    """Give every topic more partitions, and move profiles and the workers' state to where their keys live then.

    The installation must stand still: stop the producers, let the workers run until each leg's lag is zero, stop them.
    Interrupted, no worker starts before the same command has been repeated to its end. Afterwards set
    SEALSTREAM_PARTITIONS to the new number. Exit code 1 if a dry run finds that something must be done first.

    \b
    Examples:
      sealstream topics resize --partitions 12 --dry-run
      sealstream topics resize --partitions 12 --json
    """
    from .. import wiring

    with _progress() as progress:
        report = wiring.resize(settings.load(), to, progress).run(dry_run=dry_run)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        _tell(report)
    if not dry_run:
        click.echo(f"set SEALSTREAM_PARTITIONS={to} for every command and worker, then start the workers", err=True)
    ctx.exit(1 if report.blocked else 0)


def _tell(report: Any) -> None:
    for name, count in report.partitions.items():
        click.echo(f"{count:>4} → {report.to:<4} {name}" if count < report.to else f"{count:>11} {name}")
    verb = "would move" if report.dry_run else "moved"
    for name, moved in report.moved.items():
        click.echo(f"{verb} {moved.rows} rows of {name}")
        if moved.stray:
            click.echo(f"     {moved.stray} more that no leg can reach stay")
    for reason in report.blocked:
        click.echo(f"first: {reason}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is done."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    doing, bar = "", None

    def progress(what: str, done: int, total: int) -> None:
        nonlocal doing, bar
        if bar is None or what != doing:
            if bar is not None:
                bar.render_finish()
            doing, bar = what, click.progressbar(length=total, label=what, file=sys.stderr)
        bar.update(done - bar.pos)

    yield progress
    if bar is not None:
        bar.render_finish()
