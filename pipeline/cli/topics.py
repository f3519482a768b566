"""`sealstream topics`: the pipeline's topics on a cluster."""

from __future__ import annotations

import click
import msgspec

from .. import settings


@click.group()
def topics() -> None:
    """Make and compare the topics.

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
    from ..adapters import topics as cluster

    config = settings.load()
    wanted = wiring.wanted_topics(config, append_time=not producer_times)
    call = cluster.check if check_only else cluster.apply
    reports = call(config.bootstrap(), config.security(), wanted)
    if as_json:
        click.echo(msgspec.json.encode(reports).decode())
    else:
        for report in reports:
            click.echo(f"{report.state.value:8} {report.name}")
            for difference in report.differences:
                click.echo(f"         {difference}")
    ctx.exit(1 if any(r.state in (cluster.State.MISSING, cluster.State.DIFFERS) for r in reports) else 0)
