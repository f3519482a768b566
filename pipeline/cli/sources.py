"""`sealstream sources`: who may send, and the secrets by which they prove who they are."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from .. import settings
from ..crypto.keyring import Purpose
from ..crypto.signatures import KID_BYTES, SourceSecret
from ..errors import Misuse
from ..events import SOURCE_CHARS, is_source, iso
from ..stages.decision import SOURCE as OPERATOR
from ..stages.sources import Secret, Source
from .identifiers import key_option
from .keys import from_option, json_option, now_ms, time_of

name_argument = click.argument("name")
HOUR_MS = 3_600_000
_TRIES = 5
"""To have a secret begin when every worker knows it. What is revoked or disabled is not put off."""
Sources = dict[str, Source]


@click.group()
def sources() -> None:
    """Register those who write to events.raw. What they do not sign is rejected from then on.

    Changes hold two seconds after they are made, on all workers, for records of that time and later. They stand on the
    topic control; secrets do not: they are derived from the key ring.

    \b
    Examples:
      sealstream sources add shop
      sealstream sources list
    """


@sources.command()
@name_argument
@from_option
@key_option
@json_option
def add(name: str, since: str | None, key_file: Path | None, as_json: bool) -> None:
    """Register the source NAME and print its secret.

    Give it to the source alone, for `pipeline.client.Producer(secret=…)`; it is not shown again. What NAME does not
    sign is rejected from TIME on. A source that is sending already: give a time ahead, and have it sign before.

    \b
    Examples:
      sealstream sources add shop
      sealstream sources add shop --from 2027-01-31T06:00:00Z --json
    """
    from .. import wiring

    config, start = settings.load(key_file=key_file), 0 if since is None else time_of(since)
    if not is_source(name):
        raise Misuse(f"NAME: 1 to {SOURCE_CHARS} printable characters")
    if name == OPERATOR:
        raise Misuse(f"{OPERATOR} is the source of our own decisions; it signs with the key ring")
    wiring.check_times(config)
    if since is not None and start < now_ms():
        raise Misuse("--from: not in the past, records of that time are protected")

    def added(found: Sources, new: Secret) -> Source:
        if name in found:
            raise Misuse("this source is registered already: `sealstream sources rotate` gives it another secret")
        return Source(name, (msgspec.structs.replace(new, since=max(new.since, start)),))

    _with_secret(config, name, added, as_json)


@sources.command()
@name_argument
@click.option(
    "--overlap",
    type=click.FloatRange(0, 24 * 365),
    default=24.0,
    show_default=True,
    help="Hours for which the former secret is valid beside it.",
)
@key_option
@json_option
def rotate(name: str, overlap: float, key_file: Path | None, as_json: bool) -> None:
    """Give the source NAME another secret, and print it. The former one ends after the overlap.

    \b
    Example:
      sealstream sources rotate shop --overlap 72
    """
    config = settings.load(key_file=key_file)
    if math.isnan(overlap):  # which is in every range
        raise Misuse("--overlap: a number of hours")
    overlap_ms = round(overlap * HOUR_MS)
    _with_secret(config, name, lambda found, new: _registered(found, name).rotated(new, overlap_ms), as_json)


@sources.command()
@name_argument
@click.argument("kid")
@key_option
@json_option
def revoke(name: str, kid: str, key_file: Path | None, as_json: bool) -> None:
    """End the secret KID of the source NAME now: it was seen by others. KID is what stands between the underscores.

    \b
    Example:
      sealstream sources revoke shop 5f1c0e9a
    """
    _change(name, lambda source, at: source.revoked(kid, at), key_file, as_json)


@sources.command()
@name_argument
@key_option
@json_option
def disable(name: str, key_file: Path | None, as_json: bool) -> None:
    """Reject all that the source NAME sends, as source_disabled, until it is enabled.

    \b
    Example:
      sealstream sources disable shop
    """
    _change(name, Source.disabled_from, key_file, as_json)


@sources.command()
@name_argument
@key_option
@json_option
def enable(name: str, key_file: Path | None, as_json: bool) -> None:
    """Take in again what the source NAME sends. What was rejected meanwhile: `sealstream replay`.

    \b
    Example:
      sealstream sources enable shop
    """
    _change(name, Source.enabled_from, key_file, as_json)


@sources.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show the registered sources, and from when to when each of their secrets is valid.

    \b
    Example:
      sealstream sources list --json
    """
    from .. import wiring

    found = wiring.sources(settings.load())
    if as_json:
        click.echo(json.dumps({"sources": [_told(found[name]) for name in sorted(found)]}))
        return
    for name in sorted(found):
        _show(found[name])
    if not found:
        click.echo("no source is registered; next: sealstream sources add NAME", err=True)


def _change(name: str, change: Callable[[Source, int], Source], key_file: Path | None, as_json: bool) -> None:
    from .. import wiring

    config = settings.load(key_file=key_file)
    source = wiring.announce_source(config, lambda found, at: change(_registered(found, name), at))
    if as_json:
        click.echo(json.dumps(_told(source)))
    else:
        _show(source)


def _registered(found: Sources, name: str) -> Source:
    if name not in found:
        raise Misuse(f"no such source; registered: {', '.join(sorted(found)) or 'none'}")
    return found[name]


def _with_secret(
    config: settings.Settings, name: str, change: Callable[[Sources, Secret], Source], as_json: bool
) -> None:
    """Announce `change` of what is registered and of a new secret of the source `name`, valid as soon as may be."""
    from .. import wiring

    ring, kid = wiring.key_ring(config), os.urandom(KID_BYTES).hex()
    signs = ring.in_use(Purpose.SOURCES, now_ms())
    secret = None if signs is None else ring.source_keys().secret(signs.version, name, kid)
    if signs is None or secret is None:
        raise Misuse("the key ring has no active sources key: `sealstream keys rotate sources` makes one")
    version = signs.version
    source = wiring.announce_source(config, lambda found, at: change(found, Secret(kid, version, at)), _TRIES)
    _tell_secret(source, secret, as_json)


def _tell_secret(source: Source, secret: SourceSecret, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**_told(source), "secret": secret.export()}))
        return
    click.echo(secret.export())
    (new,) = (each for each in source.secrets if each.kid == secret.kid)
    click.echo(f"{source.name}: valid from {iso(new.since)}; keep it as you keep a password", err=True)
    for before in source.secrets:
        if before is not new and before.until is not None and before.valid(new.since):
            click.echo(f"the former one, {before.kid}, is valid until {iso(before.until)}", err=True)


def _show(source: Source) -> None:
    now = now_ms()
    click.echo(f"{source.name}{' (disabled)' if source.disabled else ''}: must sign since {iso(source.since)}")
    for secret in source.secrets:
        ended = secret.until is not None and secret.until <= now
        until = "" if secret.until is None else f" until {iso(secret.until)}"
        click.echo(f"  {secret.kid} from {iso(secret.since)}{until}{' (ended)' if ended else ''}")


def _told(source: Source) -> dict[str, Any]:
    return {
        "source": source.name,
        "enabled": not source.disabled,
        "secrets": [_secret(secret) for secret in source.secrets],
        "off": [list(each) for each in source.off],
    }


def _secret(secret: Secret) -> dict[str, Any]:
    return {"kid": secret.kid, "sources_key": secret.version, "since": secret.since, "until": secret.until}
