"""`python -m tests.faults`: do a plan of faults and report; exit code 1 if anything was lost, doubled or different."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from pipeline.errors import Transient
from tests.faults import plan as plans
from tests.faults import report as reports
from tests.faults.faults import FAULTS
from tests.faults.run import Run, run


@click.command()
@click.option("--plan", default="short", show_default=True, type=click.Choice(sorted(plans.PLANS)))
@click.option("--seed", default=1, show_default=True, help="Same plan and seed, same faults in the same order.")
@click.option("--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="Only faults of this name; repeatable.")
@click.option("--count", type=click.IntRange(1), help="So many of each, instead of the plan's numbers.")
@click.option("--rate", default=500.0, show_default=True, help="Events a second.")
@click.option("--customers", default=2_000, show_default=True, help="Whom the events are about.")
@click.option("--profiles", default=0, show_default=True, help="Others that are there before the first fault.")
@click.option(
    "--report", "directory", default=".faults", show_default=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--list", "show", is_flag=True, help="Print the plan, and do nothing.")
def main(
    plan: str,
    seed: int,
    only: tuple[str, ...],
    count: int | None,
    rate: float,
    customers: int,
    profiles: int,
    directory: Path,
    show: bool,
) -> None:
    """Three brokers, two workers, a steady producer, and what can go wrong.

    \b
    Examples:
      python -m tests.faults --plan long --seed 7
      python -m tests.faults --only zombie --count 30 --profiles 100000
    """
    faults = plans.drawn(plan, seed, only, count)
    if show:
        for fault in faults:
            click.echo(f"{fault.name} {fault}")
        return
    directory.mkdir(parents=True, exist_ok=True)
    logs = Path(tempfile.mkdtemp(prefix=f"{plan}-{seed}-", dir=directory))
    try:
        report = run(Run(plan, seed, faults, rate, customers, profiles), logs, lambda line: click.echo(line, err=True))
    except Transient as error:
        click.echo(str(error), err=True)
        sys.exit(3)
    click.echo(reports.text(report))
    for path in reports.write(report, directory):
        click.echo(f"written: {path}", err=True)
    sys.exit(0 if report.clean else 1)


if __name__ == "__main__":
    main()
