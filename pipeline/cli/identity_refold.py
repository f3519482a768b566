"""`sealstream identity refold`: the identify leg's state anew, of every event."""

from __future__ import annotations

import click
import msgspec

from .. import settings
from ..adapters.refold import Report

_EVENTS_PER_SECOND = 20_000
"""Of one worker with a CPU of its own (`sealstream bench identify`), as a first guess."""


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done and what forbids it; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def refold(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Drop the identify leg's state, so that its workers fold every event of events.protected anew.

    For rules that cannot be applied to what was folded before (`identity apply` says which), and after an upgrade that
    says so. Profiles keep their ids. Stop the workers of the identify leg; the others may go on. Interrupted, no
    identify worker starts before the same command has been repeated to its end. Exit code 1 if a dry run finds that
    something forbids it.

    \b
    Examples:
      sealstream identity refold --dry-run
      sealstream identity refold --json
    """
    from .. import wiring

    config = settings.load()
    report = wiring.refolding(config, lambda step: click.echo(step, err=True)).run(dry_run=dry_run)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _tell(report)
    if not dry_run:
        click.echo(
            'next: start the identify workers; they are done when sealstream_lag_records{leg="identify"} is 0, '
            "and `sealstream verify` proves it",
            err=True,
        )
    ctx.exit(1 if report.blocked else 0)


def _tell(report: Report) -> None:
    verb = "would be" if report.dry_run else "will be"
    minutes = report.events / _EVENTS_PER_SECOND / 60
    click.echo(f"{report.events:,} events {verb} folded again: about {minutes:,.1f} minutes for one worker")
    click.echo(f"{'would make' if report.dry_run else 'made'} anew: {', '.join(report.changelogs)}")
    if report.resumed:
        click.echo("an earlier run had not come to its end")
    for reason in report.blocked:
        click.echo(f"first: {reason}")
