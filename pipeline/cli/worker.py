"""`sealstream worker`: legs on Kafka."""

from __future__ import annotations

import click

from .. import settings
from ..errors import Misuse

LEGS = ("protect", "identify", "watch")


class _ListsSettings(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Settings (environment)"):
            formatter.write_dl(
                [
                    (f"{settings.PREFIX}{name.upper()}", f"{field.description} [default: {_shown(field.default)}]")
                    for name, field in settings.Settings.model_fields.items()
                ]
            )


def _shown(default: object) -> str:
    return "none" if default is None else str(default)


@click.command(cls=_ListsSettings)
@click.option(
    "--legs", default=",".join(LEGS), show_default=True, help="Which legs this process runs, separated by commas."
)
@click.option(
    "--supervise", is_flag=True, help="Start the worker again when it fails, after 1 s at first, 30 s at most."
)
@click.option("--http", help="host:port of metrics and health, or off; default SEALSTREAM_HTTP.")
@click.pass_context
def worker(ctx: click.Context, legs: str, supervise: bool, http: str | None) -> int:
    """Run legs of the pipeline until SIGTERM: then everything taken in is made durable and committed, within 10 s.

    Start as many workers as there are partitions at most; they share the work. A worker that fails ends without
    acknowledging what is not durable, with exit code 1 (its log says why), 2 (wrong use) or 3 (a dependency is away):
    let a supervisor start it again: systemd, a container's restart policy, or --supervise.

    \b
    Examples:
      SEALSTREAM_KAFKA=localhost:9092 sealstream worker
      SEALSTREAM_KAFKA=localhost:9092 sealstream worker --supervise
      SEALSTREAM_KAFKA=localhost:9092 sealstream worker --legs protect --http 127.0.0.1:9465
    """
    names = chosen(legs)
    config = settings.load(http=http)
    config.bootstrap()  # say so before anything is loaded
    from .. import wiring

    if supervise:
        options = ["--legs", ",".join(names), *(("--http", http) if http else ())]
        ctx.exit(wiring.supervised(["worker", *options], config))
    ctx.exit(wiring.work(names, config))


def chosen(legs: str) -> tuple[str, ...]:
    """Return the names in `legs`, in the order of the flow; `Misuse` for others, or none."""
    names = {name.strip() for name in legs.split(",") if name.strip()}
    if not names or not names <= set(LEGS):
        raise Misuse(f"--legs takes {', '.join(LEGS)}, separated by commas")
    return tuple(name for name in LEGS if name in names)
