"""`sealstream identity explain`, `timeline` and `stats`: who is who, and why."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from .. import settings
from ..errors import Misuse
from ..events import iso
from ..explain.chain import Explanation, Step
from ..explain.evidence import Sighting
from ..explain.names import short
from ..explain.stats import Stats
from ..explain.timeline import Entry, Timeline, What
from ..stages.link import Rules
from ..stages.profile_records import ID
from . import identifiers
from .identifiers import file_argument, json_option, key_option, rules_option


@click.command()
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@file_argument
@rules_option
@key_option
@json_option
def explain(
    left: str, right: str, file: BinaryIO | None, rules: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Say what joined two identifiers to one profile, or what keeps them apart.

    A and B are tokens, or kind:value (kind:- reads the value from a prompt or standard input), whose value is made a
    token with the key ring and never printed. Reads FILE (a dump, as `recompute` does), else the topic
    events.protected. Tells the chain of sightings between the two, each with its first time and source; or the first
    rule on the way: a limit, a shared identifier, an operator's cut, the cap of a profile.

    \b
    Examples:
      sealstream identity explain user_id:c-10001 email:-
      sealstream identity explain email.1.9b0c…(32 hex) device_id:f3a1 protected.jsonl --json
    """
    from ..explain.chain import explain as answer

    config = settings.load(key_file=key_file)
    chosen = identifiers.rules_of(config, file, rules)
    names = identifiers.named(config, chosen, left, right)
    found = identifiers.events(config, file)
    known = {token for event in found for token in event.everything()}
    one, other = (next((t for t in tokens if t in known), tokens[0]) for tokens in names)
    explained = answer(found, chosen, one, other)
    if as_json:
        click.echo(msgspec.json.encode(explained))
    else:
        _tell_explanation(explained)


def _tell_explanation(found: Explanation) -> None:
    if found.one_profile:
        click.echo(f"one profile: {found.profiles[0]}")
    else:
        click.echo(f"not one profile: {' and '.join(ident or 'none' for ident in found.profiles)}")
        click.echo(f"never seen: {', '.join(map(short, found.unknown))}" if found.unknown else found.said)
    click.echo(f"  {short(found.left)}")
    for step in found.chain:
        mark = "✗" if step.refused else "─"
        rule = f"  refused: {step.refused}" if step.refused else ""
        click.echo(f"  {mark} {short(step.right):30} {_first(step)}{rule}")
    if not found.chain and found.left != found.right:
        click.echo(f"  {short(found.right)}")
    cut = found.apart.cut if found.apart else found.cut
    if cut is not None:
        click.echo(f"  cut: {short(cut.left)} from {short(cut.right)}, {_first(cut)}")


def _first(step: Step) -> str:
    how = "linked by" if step.link else "by"
    return f"{iso(step.time)} {how} {step.source}, event {step.event_id[:8]}"


@click.command()
@click.argument("profile", metavar="P")
@file_argument
@rules_option
@key_option
@json_option
def timeline(profile: str, file: BinaryIO | None, rules: Path | None, key_file: Path | None, as_json: bool) -> None:
    """Tell what became of a profile as its events came in: merges, splits, conflicts, and the event behind each.

    P is a profile id, of today or of the past, a token, or kind:value (kind:- asks for the value). In the order in
    which Kafka received the events, which need not be that of their own times. Reads FILE, else events.protected.

    \b
    Examples:
      sealstream identity timeline user_id:c-10001
      sealstream identity timeline 3f2a…(32 hex) protected.jsonl --json
    """
    from ..explain.timeline import timeline as told

    config = settings.load(key_file=key_file)
    chosen = identifiers.rules_of(config, file, rules)
    names = None if ID.match(profile) else identifiers.named(config, chosen, profile)[0]
    found = identifiers.events(config, file)
    token = _founder(found, chosen, profile) if names is None else _seen(found, names)
    answer = told(found, chosen, token, identifiers.bar_of("moments"))
    if as_json:
        click.echo(msgspec.json.encode(answer))
    else:
        _tell_timeline(answer)


def _founder(found: list[Sighting], rules: Rules, profile: str) -> str:
    from ..explain.timeline import founder

    token = founder(found, rules, profile)
    if token is None:
        raise Misuse("no profile has, or had, this id")
    return token


def _seen(found: list[Sighting], names: list[str]) -> str:
    known = {token for event in found for token in event.everything()}
    token = next((t for t in names if t in known), None)
    if token is None:
        raise Misuse("no event has this identifier")
    return token


def _tell_timeline(found: Timeline) -> None:
    for entry in found.entries:
        click.echo(f"{iso(entry.received_at)}  {entry.what.value.replace('_', ' '):10}  {_what(entry)}")
        cause = entry.cause
        click.echo(f"{'':26}{cause.type} by {cause.source} at {iso(cause.time)}, event {cause.event_id[:8]}")
    click.echo(f"now: profile {found.profile_id or 'none'}, {len(found.tokens)} identifiers")
    if found.at_once > 1:
        click.echo(
            f"({found.events:,} events, taken in {found.at_once} at a time: a change is told of the last of them)"
        )


def _what(entry: Entry) -> str:
    tokens = ", ".join(short(t) for t in entry.tokens[:4]) + (", …" if len(entry.tokens) > 4 else "")
    others = ", ".join(ident or "no profile" for ident in entry.profiles)
    if entry.what is What.MERGED:
        return f"with {others} ({tokens}); now {entry.profile_id}"
    if entry.what is What.SPLIT:
        return f"by {entry.rule or 'rule'}{', a late event' if entry.late else ''}: {tokens} now in {others}"
    return f"{tokens} ({entry.rule})" if entry.rule else tokens


@click.command()
@file_argument
@rules_option
@click.option(
    "--devices",
    "more_than",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="A profile with more devices than this may be too much.",
)
@json_option
def stats(file: BinaryIO | None, rules: Path | None, more_than: int, as_json: bool) -> None:
    """Count profiles by size, what the rules forbade, and what hints at too many joins or too few.

    Reads FILE, else events.protected.

    \b
    Examples:
      sealstream identity stats
      sealstream identity stats protected.jsonl --devices 5 --json
    """
    from ..explain.stats import stats as count

    config = settings.load()
    chosen = identifiers.rules_of(config, file, rules)
    found = count(identifiers.events(config, file), chosen, more_than)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _tell_stats(found)


def _tell_stats(found: Stats) -> None:
    over, under = found.overmerge, found.undermerge
    click.echo(f"{found.profiles:,} profiles; identifiers: {_by(found.identifiers)}")
    click.echo(f"by number of identifiers: {_by(found.sizes)}")
    click.echo(f"conflicts: {_by(found.conflicts)}; shared: {_by(found.shared)}")
    click.echo(f"operators' links: {found.links:,}, cuts: {found.cuts:,}")
    click.echo("too much in one profile?")
    click.echo(f"  at a limit: {_by(over.at_limit)}; at the cap: {over.at_cluster_cap:,} ({over.capped:,} refused)")
    click.echo(f"  more than {over.more_than} devices: {_by(over.many_devices)}")
    click.echo(f"  largest: {', '.join(f'{ident} ({size})' for ident, size in over.largest) or 'none'}")
    click.echo("one person in several?")
    click.echo(f"  one refusal apart from one other profile: {under.one_refusal_apart:,} ({_by(under.by_rule)})")
    click.echo(f"  of one identifier: {_by(under.singletons)}")


def _by(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"
