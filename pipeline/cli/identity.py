"""`sealstream identity`: the oracle of profiles, and the commands about who is who."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from .. import settings
from .lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "identity_ask": ("explain", "timeline", "stats"),
        "identity_decide": ("link", "cut"),
        "identity_rules": ("check", "plan", "apply", "rules"),
        "identity_refold": ("refold",),
        "remap": ("remap",),
    },
)
def identity() -> None:
    """Ask how identifiers became profiles, and decide it.

    \b
    Examples:
      sealstream identity explain user_id:c-10001 email:-
      sealstream identity recompute protected.jsonl
    """


@identity.command()
@click.argument("file", type=click.File("rb"))
@click.option("--rules", type=click.Path(path_type=Path, dir_okay=False), help="Default: identity.toml of the schemas.")
def recompute(file: BinaryIO, rules: Path | None) -> None:
    """Compute every profile from a dump of events.protected, in any order: one JSON line each, by profile id.

    FILE (- for standard input) holds protected events, or what `sealstream protect` prints, one per line. This is the
    oracle: it shares no code with the stream, and what the topic `profiles` holds must be equal to it.

    \b
    Example:
      sealstream protect < events.jsonl | sealstream identity recompute - > profiles.jsonl
    """
    from .. import wiring
    from ..stages.recompute import recompute as profiles

    chosen = wiring.identity_rules(settings.load(), rules)
    for profile in profiles(_lines(file), chosen):
        sys.stdout.write(profile.decode() + "\n")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    with click.progressbar(file, label="events", file=sys.stderr, hidden=not sys.stderr.isatty()) as lines:
        yield from lines
