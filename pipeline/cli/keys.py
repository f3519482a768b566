"""`sealstream keys`: the key ring."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from .. import settings
from ..adapters import keyfile
from ..crypto.sessions import write_public
from ..errors import Misuse
from .identifiers import iso, key_option


@click.group()
def keys() -> None:
    """Make and keep the key ring.

    \b
    Example:
      sealstream keys init
    """


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the path and the key versions as JSON.")
def init(file: Path | None, as_json: bool) -> None:
    """Make a new key file with mode 0600: the key-encryption key, and version 1 of every other key.

    FILE is SEALSTREAM_KEY_FILE if not given, and keys.json in SEALSTREAM_STATE_DIR without that. A file that exists is
    never replaced. Whoever has the file can read everything; without it, nobody can. Back it up, apart from the data.
    If SEALSTREAM_KEK names a provider, that wraps the key-encryption key, and whoever reads needs both.

    \b
    Example:
      sealstream keys init /etc/sealstream/keys.json
    """
    from .. import wiring

    config = settings.load()
    path = file or config.keys_path()
    ring = wiring.new_ring(config)
    keyfile.create(path, ring)
    if as_json:
        click.echo(json.dumps({"file": str(path), "keys": [k.key_id for k in ring.keys]}))
        return
    click.echo(f"made {path} (mode 0600) with {', '.join(k.key_id for k in ring.keys)}")
    click.echo(f"next: back it up, then SEALSTREAM_KEY_FILE={path} sealstream worker", err=True)


@keys.command()
@key_option
@click.option("--json", "as_json", is_flag=True, help="Print what producers are given.")
def public(key_file: Path | None, as_json: bool) -> None:
    """Print the public key to which producers seal their events, and those to come with the time from which they do.

    What --json prints is for `pipeline.client.Producer`. It is no secret, but whoever can exchange it can read what is
    sealed: compare the key ids where you use it.

    \b
    Example:
      sealstream keys public --json > producer-keys.json
    """
    from .. import wiring

    ring = wiring.key_ring(settings.load(key_file=key_file))
    found = ring.public_keys(int(time.time() * 1000))
    if not found:
        raise Misuse("the key ring has no active producers key: activate or add one")
    if as_json:
        click.echo(write_public(found))
        return
    for k in found:
        click.echo(f"producers.{k.version}  id {k.key_id.hex()}  from {iso(k.active_from)}  {k.public.hex()}")
