"""`python -m tests.proof`: prove that profiles are a function of the set of events; exit code 1 if they are not."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
import msgspec

from pipeline.adapters.brokers import find_or_start
from pipeline.errors import Transient

from . import broker as brokers
from . import pure, report


@click.command()
@click.option("--cases", default=10_000, show_default=True, type=click.IntRange(0), help="Without a broker.")
@click.option("--broker", "on_broker", default=300, show_default=True, type=click.IntRange(0), help="On a broker.")
@click.option("--seed", default=1, show_default=True, help="Same seed, same cases.")
@click.option("--case", "only", type=click.IntRange(0), help="Only this one, without a broker.")
@click.option("--round", "only_round", type=click.IntRange(0), help="Only this one of those on a broker.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default="one per CPU", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(
    cases: int, on_broker: int, seed: int, only: int | None, only_round: int | None, jobs: int, as_json: bool
) -> None:
    """Random events of customers, kiosks, operators and broken clocks under random rules, in any order, more than once,
    on 1 to 12 partitions, while workers crash, and are replaced and wake up: profiles must be those that
    `sealstream identity recompute` makes of the same events, byte for byte.

    \b
    Examples:
      python -m tests.proof --cases 1000 --broker 0 --json
      python -m tests.proof --seed 7 --case 4711
    """
    numbers = range(cases) if only is None else range(only, only + 1)
    if only_round is not None:
        numbers = range(0)
    found = report.Report(seed)
    if numbers:
        with click.progressbar(length=len(numbers), label="without a broker", file=sys.stderr) as bar:
            found = msgspec.structs.replace(found, pure=pure.run(seed, numbers, min(jobs, len(numbers)), bar.update))
    if only is None and on_broker:
        wanted = [r for r in brokers.rounds(seed, on_broker) if only_round in (None, r.number)]
        try:
            found = msgspec.structs.replace(found, broker=_on_broker(wanted))
        except Transient as error:
            click.echo(str(error), err=True)
            sys.exit(3)
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode() if as_json else report.text(found))
    sys.exit(0 if found.clean else 1)


def _on_broker(wanted: list[brokers.Round]) -> report.Part:
    done: list[report.Part] = []
    given = os.environ.get("SEALSTREAM_KAFKA") or None
    directory = Path(tempfile.mkdtemp(prefix="sealstream-proof-"))
    with (
        find_or_start(given, need_real=True, say=lambda line: click.echo(line, err=True)) as broker,
        click.progressbar(wanted, label="on a broker", file=sys.stderr) as bar,
    ):
        for one in bar:
            done.append(brokers.run(broker.bootstrap, one, directory / f"round-{one.number}"))
    total: Counter[str] = Counter()
    for part in done:
        total.update(part.counts)
        total.update({report.CONFLICT + rule: n for rule, n in part.conflicts.items()})
    failures = [f for part in done for f in part.failures]
    if failures:
        click.echo(f"logs: {directory}", err=True)
    else:
        shutil.rmtree(directory)
    return report.part(sum(p.cases for p in done), sum(p.seconds for p in done), total, failures)


if __name__ == "__main__":
    main()
