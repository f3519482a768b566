"""`sealstream erase` and `export`: what a person may ask for."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
from msgspec import structs

from .. import settings
from ..adapters.reader import Found, Reader
from ..adapters.settled import Settled
from ..errors import Misuse, Transient
from ..events import Topic, iso
from ..explain.names import short
from ..rights.audit import Action, Audited, Place, check_ticket, time_after
from ..rights.person import Person, by_id, by_tokens
from ..rights.run import Left
from ..rights.topics import Topics
from ..stages.profile_records import ID
from . import identifiers
from .identifiers import json_option, key_option, progressbar

ticket_option = click.option(
    "--ticket", help="Where it was asked for: a reference without personal data. Kept for ever."
)
operator_option = click.option("--operator", help="Who does it. Default: the user of this system.")
wait_option = click.option(
    "--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS", help="For the workers."
)
Named = str | Sequence[str]
"""A profile id, or the tokens that an identifier may have."""


@click.command()
@click.argument("subject", required=False)
@ticket_option
@operator_option
@click.option("--again", metavar="ID", help="Look again at an erasure, and send what has not arrived.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option
@key_option
@json_option
@click.pass_context
def erase(
    ctx: click.Context,
    subject: str | None,
    ticket: str | None,
    operator: str | None,
    again: str | None,
    yes: bool,
    wait: float,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Make what is stored of a person unreadable, for good.

    SUBJECT is a profile id, a token, or kind:value (kind:- asks for the value). The whole profile is erased: the keys
    of all its identifiers are destroyed in every partition, what the identify leg knows of them is deleted, and the
    profile gets a tombstone. Whoever comes back later is somebody new. It stands in access.audit with what was left,
    place by place, and until when.

    What had come when it begins is waited for, so that no identifier of the person is missed. Exit code 0: nothing is
    readable as the present state any more; 1: something is. `--again` asks the same later, and goes on with what was
    interrupted.

    \b
    Examples:
      sealstream erase email:- --ticket DSR-4711
      sealstream erase --again 5d0f…(32 hex) --json
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    if (subject is None) == (again is None):
        raise Misuse("give a SUBJECT, or --again with the id of an erasure")
    with wiring.rights(config, _records) as topics:
        if again is not None:
            record = topics.audited(again)
        else:
            assert subject is not None
            ticket, actor = check_ticket(ticket or ""), identifiers.operator(operator)
            record = _to_erase(topics, _named(config, subject), ticket, actor, yes=yes, wait=wait)
        with wiring.erasing(config, record, topics) as erasing:
            if again is None:
                topics.audit(record)
                click.echo(f"if this ends early, `sealstream erase --again {record.id}` goes on", err=True)
            wanted = erasing.wanted if again is None else erasing.unsent(wait)
            erasing.send(wanted, lambda: str(uuid.uuid4()), _now())
            left = erasing.wait(wait, _tell, _now())
        if left.done:
            topics.audit(structs.replace(record, action=Action.ERASED, time=_now(), places=left.places))
    if as_json:
        click.echo(msgspec.json.encode(left))
    else:
        _report(record, left)
    ctx.exit(0 if left.done else 1)


@click.command()
@click.argument("subject")
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="A new file, mode 0600; - for standard output."
)
@ticket_option
@operator_option
@wait_option
@key_option
def export(
    subject: str, to: Path, ticket: str | None, operator: str | None, wait: float, key_file: Path | None
) -> None:
    """Write down what is held of a person, opened: the profile, and each event with its sealed values.

    SUBJECT is a profile id, a token, or kind:value (kind:- asks for the value). JSON lines: the person, a line for each
    event on events.protected, and what was counted. It is personal data in clear: give it to that person, then delete
    it. It stands in access.audit who has exported whom.

    \b
    Example:
      sealstream export email:- --ticket DSR-4712 --to ann.jsonl
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    with wiring.rights(config, _records) as topics:
        ticket, actor = check_ticket(ticket or ""), identifiers.operator(operator)
        named = _named(config, subject)
        if behind := _settle(topics, wait):
            click.echo(f"the workers have {behind:,} records to do: what is in these is missing here", err=True)
        person = _person(topics, named)
        record = _asked(Action.EXPORT, actor, ticket, person, _now())
        held = wiring.held(config, person, topics)
        with topics.read(Topic.PROTECTED) as reader, _private(to) as out:
            topics.audit(record)
            for line in held.lines(_records("events", reader)):
                out.write(line + b"\n")
    click.echo(f"{held.events:,} events, {held.opened:,} values opened, {held.unreadable:,} unreadable", err=True)


def _to_erase(topics: Topics, named: Named, ticket: str, actor: str, *, yes: bool, wait: float) -> Audited:
    """Find the person, ask, and return what is to be written down."""
    if behind := _settle(topics, wait):
        raise Transient(
            f"the workers have {behind:,} records to do, whose identifiers would be missed; nothing was erased. "
            "Is a worker running? --wait waits longer"
        )
    while True:
        ends = dict(enumerate(topics.ends(Topic.PROFILES)))
        person = _person(topics, named)
        now = time_after(topics.erasures_of(person.tokens), _now())
        record = _asked(Action.ERASE, actor, ticket, person, now, topics.ends(Topic.PROTECTED))
        if not yes:
            _confirm(record)
        with topics.read(Topic.PROFILES, ends) as later:
            if not person.grown_by(later):
                return record
        click.echo("more has come of this person meanwhile", err=True)


def _asked(action: Action, actor: str, ticket: str, person: Person, now: int, ends: tuple[int, ...] = ()) -> Audited:
    first, also = person.profile_id, tuple(person.profiles)[1:]
    return Audited(uuid.uuid4().hex, now, action, actor, ticket, first, person.tokens, ends, also=also)


def _settle(topics: Topics, wait: float) -> int:
    """Wait until profiles show all that had come; return how many records are still to be done after `wait` seconds."""
    return Settled(topics.positions).wait(wait, lambda behind: _tell(f"waiting for the workers: {behind:,} records"))


def _named(config: settings.Settings, subject: str) -> Named:
    from .. import wiring

    if ID.match(subject):
        return subject
    (tokens,) = identifiers.named(config, wiring.rules_in_force(config), subject)
    return tokens


def _person(topics: Topics, named: Named) -> Person:
    with topics.read(Topic.PROFILES) as profiles:
        return by_id(profiles, named) if isinstance(named, str) else by_tokens(profiles, named)


def _confirm(record: Audited) -> None:
    if not sys.stdin.isatty():
        raise Misuse("nobody can be asked here: give --yes")
    click.echo(f"profile {record.profiles}: {', '.join(map(short, record.tokens))}", err=True)
    click.confirm("Erase it? There is no way back", abort=True, err=True)


def _now() -> int:
    return int(time.time() * 1000)


def _records(what: str, reader: Reader) -> Iterator[Found]:
    with progressbar(reader, what, reader.total) as bar:
        yield from bar


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{what}  \r", err=True, nl=False)


@contextmanager
def _private(to: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, which is not there if writing it fails; or standard output."""
    if str(to) == "-":
        yield sys.stdout.buffer
        return
    try:
        fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misuse(f"--to: cannot be made ({error.strerror})") from None
    try:
        with os.fdopen(fd, "wb") as out:
            yield out
    except BaseException:
        to.unlink(missing_ok=True)
        raise


def _report(record: Audited, left: Left) -> None:
    came = left.markers - left.missing
    click.echo(f"erasure {record.id}, profile {record.profiles}: {came} of {left.markers} markers")
    for place in left.places:
        click.echo(f"  {place.name:18}{_left(place)}{f'  ({place.note})' if place.note else ''}")
    if left.missing:
        click.echo("some markers have not come out of the protect leg: is a worker running? See events.rejected, too")
    if not left.done:
        click.echo(f"not done: `sealstream erase --again {record.id}` looks again")


def _left(place: Place) -> str:
    if place.live:
        return f"{place.live:,} readable"
    if place.copies is None:
        return "for ever" if place.until is None else f"until {iso(place.until)}"
    return f"none; {place.copies:,} overwritten ones until Kafka compacts" if place.copies else "none"
