"""`sealstream keys`: the key ring, in its file. No output holds a key."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from .. import settings
from ..adapters import key_uses, keyfile
from ..adapters.settled import RAW, Settled
from ..crypto.aead import KEY_BYTES
from ..crypto.kek import LocalKek
from ..crypto.keyring import KEK, KeyRing, KeyState, Purpose, RingKey
from ..crypto.sessions import write_public
from ..crypto.subject_rows import by_kek
from ..errors import Misuse
from ..events import DAY, Topic, iso
from .identifiers import key_option

_NONE: dict[str, str] = {
    Purpose.SUBJECTS: "the key-encryption key; `keys rotate subjects` makes an epoch",
    Purpose.SOURCES: "nobody can sign; `keys rotate sources` makes one",
    Purpose.AUDIT: "audit records are not authenticated; `keys rotate audit` makes one",
}
"""What a ring goes on with that has no key of a purpose."""

COMMIT_SECONDS = 5.0
"""A protect leg that keeps up commits within a second."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON; times in ms since 1970.")


@click.group()
def keys() -> None:
    """Make, rotate, retire and destroy keys.

    The commands change the key file alone. Workers read it when they start: copy it to each of them, restart them.

    \b
    Examples:
      sealstream keys init
      sealstream keys list
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


@keys.command("list")
@key_option
@json_option
def list_(key_file: Path | None, as_json: bool) -> None:
    """Show every version of every key: its state, and the Kafka time of the records from which it is used.

    And at most how many values workers with this state directory have made under it; unknown if there were none.

    \b
    Example:
      sealstream keys list --json
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    path, ring, values = config.keys_path(), wiring.key_ring(config), key_uses.totals(config.key_uses_path())
    if as_json:
        told = [_told(k) | ({"values": values[k.key_id]} if k.key_id in values else {}) for k in ring.keys]
        click.echo(json.dumps({"file": str(path), "kek": _kek_id(ring), "keys": told}))
        return
    for k in ring.keys:
        overlap = "" if k.retired_from is None else f", overlapped until {iso(k.retired_from)}"
        made = f", at most {values[k.key_id]:,} values" if k.key_id in values else ""
        click.echo(f"{k.key_id:12} {k.state.value:12} since {iso(k.active_from)}{overlap}{made}")


@keys.command()
@key_option
@json_option
@click.pass_context
def status(ctx: click.Context, key_file: Path | None, as_json: bool) -> None:
    """Show which version is in use now for each purpose, which one comes next, and which others are left.

    Exit code 1 if a purpose has no active key.

    \b
    Example:
      sealstream keys status
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    path, ring, now = config.keys_path(), wiring.key_ring(config), now_ms()
    found = {purpose.value: _status(ring, purpose, now) for purpose in Purpose}
    if as_json:
        click.echo(json.dumps({"file": str(path), "kek": _kek_id(ring), "purposes": found}))
    else:
        click.echo(f"{path}, KEK {_kek_id(ring)}")
        for name, status in found.items():
            click.echo(f"{name}: {status['in_use'] or _NONE.get(name, 'no active key')}")
            if status["overlaps"]:
                click.echo(f"  overlaps with {', '.join(status['overlaps'])}")
            for key in status["next"]:
                click.echo(f"  {key['key']} from {iso(key['active_from'])}")
            for state in (KeyState.DECRYPT_ONLY, KeyState.DESTROYED):
                if status[state.value]:
                    click.echo(f"  {state.value}: {', '.join(status[state.value])}")
    ctx.exit(0 if all(status["in_use"] or name in _NONE for name, status in found.items()) else 1)


FURTHEST_DAYS = 366
"""From now until the time of a new version, or of the end of an overlap."""
from_option = click.option(
    "--from", "since", metavar="TIME", help="RFC 3339, with its zone; default now. Not in the past."
)


@keys.command()
@click.argument("purpose", type=click.Choice([p.value for p in Purpose]))
@from_option
@key_option
@json_option
def rotate(purpose: str, since: str | None, key_file: Path | None, as_json: bool) -> None:
    """Add a version of the key of PURPOSE, for records whose Kafka time is TIME or later.

    The former version is decrypt-only then. A former token key overlaps until it is retired: events carry each token
    under both versions, so that whoever comes meanwhile stays one profile, with its id. `subjects` is the epoch, which
    wraps the keys of people: from TIME on workers wrap all of them anew, and what they sealed stays as it is. From
    `sources` the secrets are derived by which sources sign; those of before stay valid until that version is destroyed.

    Records go by their own time, so that one that is protected again comes out as it did. Hence all workers must have
    the new file before TIME: give a time ahead (366 days at most), or stop them meanwhile. Until TIME `destroy` takes
    the new version back.

    \b
    Examples:
      sealstream keys rotate rejects --from 2027-01-31T06:00:00Z
      sealstream keys rotate token --json
    """
    key, now = os.urandom(KEY_BYTES), now_ms()
    start = _start(since, now)

    def make(ring: KeyRing) -> KeyRing:
        return ring.rotated(Purpose(purpose), key, start, now)

    made = max((k for k in _change(key_file, make, as_json) if k.purpose == purpose), key=lambda k: k.version)
    if not as_json:
        click.echo(f"made {made.key_id}, active from {iso(made.active_from)}")
        _next(since)


@keys.command()
@click.argument("name")
@from_option
@key_option
@json_option
def retire(name: str, since: str | None, key_file: Path | None, as_json: bool) -> None:
    """Make the key NAME decrypt-only, if a later version is active.

    It still opens what it sealed, and protects records again whose time was its own. A token key's overlap ends: from
    TIME on, which must be after it began, no record has its tokens. Who did not come meanwhile is somebody new
    afterwards. As for `rotate`, all workers must have the new file before TIME, 366 days ahead at most.

    \b
    Example:
      sealstream keys retire token.1 --from 2027-04-30T06:00:00Z
    """
    now = now_ms()
    start = _start(since, now)
    _change(key_file, lambda ring: ring.retired(name, start, now), as_json)
    if not as_json:
        click.echo(f"{name} is decrypt-only")
        _next(since)


@keys.command()
@click.argument("name")
@click.option("--confirm", metavar="NAME", help="The key's name once more; asked for on a terminal.")
@key_option
@json_option
def destroy(name: str, confirm: str | None, key_file: Path | None, as_json: bool) -> None:
    """Destroy the key NAME, which must be decrypt-only. There is no way back but a backup of the file: destroy it, too.

    A version whose time is still to come has protected nothing: destroyed, the version before it goes on as if it had
    never been made. All workers must have the new file before that time, and producers the new public keys. Its number
    is not used again.

    Rejects that it sealed can never be replayed. Records of a token key's time get the tokens of another version when
    they are protected again, and identifiers that were last seen under it are no longer found by value. What was sealed
    to a producers key and is not protected never will be. The key's line stays in the file, without the key.

    A token or producers key is not destroyed while the protect leg has not committed all that stands on events.raw, for
    which Kafka is asked: records of its time may be among that.

    With an epoch (subjects.1) goes what backups of Kafka from before still hold of people who were erased, and of
    everybody else. It is refused while it still wraps a key of somebody, for which Kafka is read: workers wrap those
    under the new epoch by themselves. Only once every worker was restarted with the file that has the new epoch: one
    that was not would wrap the next person's key under the destroyed one, and nobody could open it.

    \b
    Examples:
      sealstream keys destroy token.1 --confirm token.1
      sealstream keys destroy subjects.1 --confirm subjects.1
    """
    if confirm is None:
        confirm = click.prompt("The key's name once more", err=True)
    if confirm != name:
        raise Misuse(f"not destroyed: --confirm must repeat the key's name, {name}")
    now = now_ms()

    def make(ring: KeyRing) -> KeyRing:
        without = ring.destroyed(name, now)
        key = next(k for k in ring.keys if k.key_id == name)
        if key.purpose is Purpose.SUBJECTS:
            _check_unused(ring, name, settings.load(key_file=key_file))
        elif key.purpose in (Purpose.TOKEN, Purpose.PRODUCERS) and not ring.pending(key, now):
            _check_protected(name, settings.load(key_file=key_file))
        return without

    _change(key_file, make, as_json)
    if not as_json:
        click.echo(f"destroyed {name}")
        click.echo("next: replace the file on every worker, restart them, and destroy its backups", err=True)


@keys.command()
@click.option("--kek", metavar="KEK", help="Who is to hold it, in the words of SEALSTREAM_KEK; default: as now.")
@key_option
@json_option
def rewrap(kek: str | None, key_file: Path | None, as_json: bool) -> None:
    """Replace the key-encryption key: make a new one, and wrap all keys of the file under it. They stay as they are.

    With --kek by another provider, or, as `file`, in clear in the file. Then set SEALSTREAM_KEK to the same.

    Keys of people must be under an epoch. It is refused while one is not, for which Kafka is read.

    \b
    Examples:
      sealstream keys rewrap
      sealstream keys rewrap --kek vault:transit/sealstream
    """
    from .. import wiring

    config, now = settings.load(key_file=key_file), now_ms()
    held_by = settings.load(key_file=key_file, kek=kek).kek if kek else config.kek

    def make(ring: KeyRing) -> KeyRing:
        if ring.in_use(Purpose.SUBJECTS, now) is None:
            raise Misuse("it wraps keys of people until an epoch is in use: `sealstream keys rotate subjects`")
        _check_unused(ring, KEK, config)
        return ring.under(wiring.new_kek(held_by))

    _change(key_file, make, as_json)
    if not as_json:
        click.echo("wrapped under a new key-encryption key")
        click.echo("next: replace the file on every worker, restart them, and destroy its backups", err=True)
        if held_by != config.kek:
            click.echo("with the file goes SEALSTREAM_KEK: set it to what --kek was, everywhere", err=True)


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

    found = wiring.key_ring(settings.load(key_file=key_file)).public_keys(now_ms())
    if not found:
        raise Misuse("the key ring has no active producers key: `sealstream keys rotate producers` makes one")
    if as_json:
        click.echo(write_public(found))
        return
    for k in found:
        click.echo(f"producers.{k.version}  id {k.key_id.hex()}  from {iso(k.active_from)}  {k.public.hex()}")


def _check_unused(ring: KeyRing, name: str, config: settings.Settings) -> None:
    """`Misuse` while keys of people are wrapped by `name`, of the ring's `epoch_names`."""
    from .. import wiring

    ids = {kek_id for kek_id, known in ring.epoch_names().items() if known == name}
    wraps = by_kek((key, value) for (_, key), value in wiring.subject_rows(config).items())
    left = sum(n for kek_id, n in wraps.items() if kek_id in ids)
    if left:
        called = "the key-encryption key" if name == KEK else name
        raise Misuse(f"{called} still wraps {left:,} keys of people; workers with the epoch in use are to go on first")


def _check_protected(name: str, config: settings.Settings) -> None:
    """`Misuse` unless the protect leg has committed, or soon commits, all that stands on events.raw by now."""
    from .. import wiring

    with wiring.positions(config) as at:
        if left := Settled(at, RAW).wait(COMMIT_SECONDS):
            raise Misuse(f"{left:,} records of {Topic.RAW.value} are yet to be protected, and may need {name}")


def _change(key_file: Path | None, make: Callable[[KeyRing], KeyRing], as_json: bool) -> tuple[RingKey, ...]:
    """Return the keys afterwards; with `as_json` they have been printed."""
    from .. import wiring

    config = settings.load(key_file=key_file)
    ring = wiring.change_ring(config, make)
    if as_json:
        click.echo(json.dumps({"file": str(config.keys_path()), "keys": [_told(k) for k in ring.keys]}))
    return ring.keys


def _next(since: str | None) -> None:
    when = "at once" if since is None else "before that time"
    click.echo(f"next: back the file up, copy it to every worker and restart them {when}", err=True)


def _told(key: RingKey) -> dict[str, Any]:
    told = {"key": key.key_id, "state": key.state.value, "active_from": key.active_from}
    return told if key.retired_from is None else {**told, "retired_from": key.retired_from}


def _status(ring: KeyRing, purpose: Purpose, now: int) -> dict[str, Any]:
    in_use = ring.in_use(purpose, now)
    mine = [k for k in ring.keys if k.purpose is purpose]
    states = {s.value: [k.key_id for k in mine if k.state is s] for s in (KeyState.DECRYPT_ONLY, KeyState.DESTROYED)}
    found: dict[str, Any] = {"in_use": None if in_use is None else in_use.key_id, "overlaps": []}
    if in_use is not None and purpose is Purpose.TOKEN:
        found["overlaps"] = [k.key_id for k in mine if k.version < in_use.version and k.kept_until > now]
    found["next"] = [_told(k) for k in mine if k.state is KeyState.ACTIVE and k is not in_use and k.active_from > now]
    return found | states


def _kek_id(ring: KeyRing) -> str | None:
    return ring.kek.kek_id if isinstance(ring.kek, LocalKek) else None


def _start(since: str | None, now: int) -> int:
    """Return ms since 1970 of `--from`; `Misuse` far ahead: what is said for then holds everything up until then."""
    start = now if since is None else time_of(since)
    if start > now + FURTHEST_DAYS * DAY:
        raise Misuse(f"--from: at most {FURTHEST_DAYS} days ahead")
    return start


def now_ms() -> int:
    return int(time.time() * 1000)


def time_of(text: str) -> int:
    """Return ms since 1970 of what `from_option` takes, or raise `Misuse`."""
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse("--from: a time as 2027-01-31T06:00:00Z") from None
    if time_.tzinfo is None:
        raise Misuse("--from: say which zone, as in 2027-01-31T06:00:00Z")
    return int(time_.timestamp() * 1000)
