"""`sealstream identity check`, `plan`, `apply` and `rules`: rules of identity before they are in force, and then."""

from __future__ import annotations

import time
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from .. import settings
from ..adapters.rules_version import RulesVersion, Unreadable
from ..errors import Misuse
from ..events import iso
from ..explain.names import short
from ..explain.plan import Plan
from ..explain.rule_changes import RuleChange, Takes, rule_changes
from ..stages.link import Rules
from . import identifiers
from .identifiers import file_argument, json_option, rules_option

_SHOWN = 6
_HOLDS = {
    Takes.RESTART: "",
    Takes.REFOLD: "  (for earlier events: after `sealstream identity refold`)",
    Takes.NEW_EVENTS: "  (for what is protected from then on)",
}


class _Applied(msgspec.Struct, frozen=True):
    applied: bool
    version: int
    digest: str
    refold: bool
    """Whether a change holds for earlier events only after a refold."""
    changes: list[RuleChange]


@click.command()
@click.argument("rules", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the rules as JSON, defaults filled in.")
def check(rules: Path | None, as_json: bool) -> None:
    """Check a file of identity rules (default: identity.toml of the schemas) as a worker would read it.

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
    else:
        _tell_kinds(found)


def _tell_kinds(found: Rules) -> None:
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

    Compared with the current rules (--rules, else those in force) on the events of FILE, else of events.protected.
    Nothing is changed.

    \b
    Examples:
      sealstream identity plan new.toml
      sealstream identity plan new.toml protected.jsonl --strict --json
    """
    from .. import wiring
    from ..explain.plan import plan as compare

    config = settings.load()
    after, before = wiring.identity_rules(config, wanted), identifiers.rules_of(config, file, rules)
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


@click.command()
@click.argument("wanted", metavar="RULES", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--reason", default="", help="Why; kept with the version, in clear.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def apply(wanted: Path, reason: str, as_json: bool) -> None:
    """Put RULES, and computed.toml beside them, in force: as the next version on the topic control.

    Each worker takes the latest version at its start, in place of its own files, so restart the workers one after the
    other. What differs from the version in force is listed, with what makes it hold for earlier events. Their text
    stands on the topic in clear. Look at `identity plan RULES` first.

    \b
    Examples:
      sealstream identity apply identity.toml --reason "ticket 4713: kiosks"
      sealstream identity apply identity.toml --json
    """
    from .. import wiring

    config = settings.load()
    texts = wiring.rules_texts(config, wanted)
    after = wiring.rules_of(texts)
    current, before = _current(config)
    changes = [] if before is None else rule_changes(before, after)
    if current.version and current.digest == texts.digest:
        found = _Applied(False, current.version, current.digest, False, [])
    else:
        version = msgspec.structs.replace(
            texts, version=current.version + 1, at=int(time.time() * 1000), reason=reason.strip()
        )
        wiring.apply_rules(config, version)
        refold = any(change.takes is Takes.REFOLD for change in changes)
        found = _Applied(True, version.version, version.digest, refold, changes)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _tell_applied(found, before is not None)


def _current(config: settings.Settings) -> tuple[RulesVersion, Rules | None]:
    """What is in force, and its rules; None if no worker could read it: then it is replaced."""
    from .. import wiring

    try:
        current = wiring.version_in_force(config)
    except Unreadable:
        return RulesVersion(0, "", "", ""), None
    try:
        return current, wiring.rules_of(current)
    except Misuse:
        return current, None


def _tell_applied(found: _Applied, compared: bool) -> None:
    if not found.applied:
        click.echo(f"version {found.version} has these rules already")
        return
    click.echo(f"version {found.version} is in force for every worker that starts from now on: {found.digest}")
    if not compared:
        click.echo("  what stood there before could not be read, and so not be compared")
    for change in found.changes:
        click.echo(f"  {change.path}: {change.before} → {change.after}{_HOLDS[change.takes]}")
    if compared and not found.changes:
        click.echo("  no rule differs from what was in force")
    click.echo("next: restart the workers, one after the other")
    if found.refold:
        click.echo("then, for earlier events: stop the identify workers, `sealstream identity refold`, start them")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the version as JSON, with the texts of both files.")
def rules(as_json: bool) -> None:
    """Show the version of the rules that is in force, and since when. Needs the broker.

    \b
    Examples:
      sealstream identity rules
      sealstream identity rules --json | jq -r .rules > identity.toml
    """
    from .. import wiring

    current = wiring.version_in_force(settings.load())
    if as_json:
        click.echo(msgspec.json.encode(current))
        return
    made = wiring.rules_of(current)
    if current.version:
        click.echo(f"version {current.version}, applied {iso(current.at)}: {current.reason or 'no reason given'}")
    else:
        click.echo("no version was applied: each worker takes the files of its schemas, which here are")
    click.echo(f"digest {current.digest}")
    _tell_kinds(made)
    for name in sorted(made.computed):
        click.echo(f"ok      computed.{name}")
