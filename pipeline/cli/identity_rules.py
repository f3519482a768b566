"""`sealstream identity check` and `plan`: rules of identity before they are in force."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from .. import settings
from ..explain.names import short
from ..explain.plan import Plan
from . import identifiers
from .identifiers import file_argument, json_option, rules_option

_SHOWN = 6


@click.command()
@click.argument("rules", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the rules as JSON, defaults filled in.")
def check(rules: Path | None, as_json: bool) -> None:
    """Check a file of identity rules (default: the one in force) as a worker would read it.

    Exit code 2 with line, key and rule if something is wrong.

    \b
    Examples:
      sealstream identity check identity.toml
      sealstream identity check --json
    """
    from .. import wiring

    found = wiring.identity_rules(settings.load(), rules)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for name, kind in sorted(found.kinds.items(), key=lambda k: k[1].priority):
        limit = f"at most {kind.limit} in a profile" if kind.limit else "no limit"
        span = f" within {kind.window}" if kind.window else ""
        links = f"{limit}{span}, shared beyond {found.shared_at(name)}" if kind.links else "joins nothing"
        click.echo(f"ok  {kind.priority:2}  {name:16} {links}")


@click.command()
@click.argument("wanted", metavar="RULES", type=click.Path(path_type=Path, dir_okay=False))
@file_argument
@rules_option
@click.option("--samples", default=10, show_default=True, type=click.IntRange(min=0), help="Show so many changes.")
@click.option("--strict", is_flag=True, help="Exit with 1 if anything would change.")
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    wanted: Path,
    file: BinaryIO | None,
    rules: Path | None,
    samples: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Tell what other RULES would make of the profiles, before they are in force: merges, splits, conflicts, samples.

    Compared with the current rules (--rules) on the events of FILE, else of events.protected. Nothing is changed.

    \b
    Examples:
      sealstream identity plan new.toml
      sealstream identity plan new.toml protected.jsonl --strict --json
    """
    from .. import wiring
    from ..explain.plan import plan as compare

    config = settings.load()
    after, before = wiring.identity_rules(config, wanted), wiring.identity_rules(config, rules)
    found = compare(identifiers.events(config, file), before, after, samples)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _tell(found)
    ctx.exit(1 if strict and found.changes else 0)


def _tell(found: Plan) -> None:
    before, after = found.profiles
    click.echo(
        f"profiles: {before:,} → {after:,}; {found.merges:,} would gain others' identifiers, {found.splits:,} lose"
    )
    for name, counts in (("conflicts", found.conflicts), ("shared", found.shared)):
        shown = ", ".join(f"{rule} {one:,} → {other:,}" for rule, (one, other) in counts.items())
        click.echo(f"{name}: {shown or 'none'}")
    for change in found.samples:
        click.echo(f"  {_ids(change.before)} → {_ids(change.after)}")
        more = len(change.tokens) - _SHOWN
        click.echo(f"    {', '.join(map(short, change.tokens[:_SHOWN]))}{f', and {more} more' if more > 0 else ''}")
    if found.blocked_differ:
        click.echo("what is blocked differs, too: that holds for what is protected from then on")
    if not found.changes:
        click.echo("nothing would change")


def _ids(ids: list[str]) -> str:
    return " + ".join(ids) or "no profile"
