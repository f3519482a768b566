"""`sealstream keys`: the key ring."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from .. import settings
from ..adapters import keyfile
from ..crypto.keyring import KeyRing


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

    \b
    Example:
      sealstream keys init /etc/sealstream/keys.json
    """
    path = file or settings.load().keys_path()
    ring = KeyRing.generate(os.urandom, int(time.time() * 1000))
    keyfile.create(path, ring)
    if as_json:
        click.echo(json.dumps({"file": str(path), "keys": [k.key_id for k in ring.keys]}))
        return
    click.echo(f"made {path} (mode 0600) with {', '.join(k.key_id for k in ring.keys)}")
    click.echo(f"next: back it up, then SEALSTREAM_KEY_FILE={path} sealstream worker", err=True)
