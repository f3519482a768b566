"""`sealstream identity link` and `cut`: an operator's decision, sent as an event like any other."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import click

from .. import settings
from ..errors import Misuse
from ..events import Topic
from ..explain.names import short
from . import identifiers
from .identifiers import json_option, key_option

_WILL = {
    "link": "will be one person, whatever the limits, unless they are cut",
    "cut": "will not be one person, whatever connects them",
}
Decide = Callable[..., None]


def _options(command: Decide) -> Decide:
    for add in reversed(
        [
            click.argument("left", metavar="A"),
            click.argument("right", metavar="B"),
            click.option("--reason", required=True, help="Why; sealed in the event."),
            click.option("--operator", help="Who decides; sealed. Default: the user of this system."),
            key_option,
            json_option,
        ]
    ):
        command = add(command)
    return command


@click.command()
@_options
def link(left: str, right: str, reason: str, operator: str | None, key_file: Path | None, as_json: bool) -> None:
    """Decide that two identifiers are one person, whatever the limits say.

    A and B are tokens, or kind:value (kind:- reads the value from a prompt or standard input), whose value is made a
    token with the key ring and is not sent. The decision is an event on events.raw, from the source `operator`; a later
    decision about the same two undoes it.

    \b
    Example:
      sealstream identity link user_id:c-10001 user_id:c-20001 --reason "ticket 4711: two accounts of one person"
    """
    _decide("link", left, right, reason, operator, key_file, as_json)


@click.command()
@_options
def cut(left: str, right: str, reason: str, operator: str | None, key_file: Path | None, as_json: bool) -> None:
    """Decide that two identifiers are not one person, whatever connects them.

    A and B as for `link`. The profile that has both splits.

    \b
    Example:
      sealstream identity cut user_id:c-10001 device_id:- --reason "ticket 4712: sold the phone"
    """
    _decide("cut", left, right, reason, operator, key_file, as_json)


def _decide(
    kind: str, left: str, right: str, reason: str, operator: str | None, key_file: Path | None, as_json: bool
) -> None:
    from .. import wiring

    config = settings.load(key_file=key_file)
    one, other = (tokens[0] for tokens in identifiers.named(config, wiring.rules_in_force(config), left, right))
    if one == other:
        raise Misuse("A and B are the same identifier")
    if not reason.strip():
        raise Misuse("--reason: say why")
    now, message_id = int(time.time() * 1000), str(uuid.uuid4())
    event = {
        "type": kind,
        "messageId": message_id,
        "timestamp": now,
        "left": one,
        "right": other,
        "reason": reason,
        "operator": identifiers.operator(operator),
    }
    try:
        value = json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Misuse("--reason and --operator must be UTF-8") from None
    with wiring.sender(config, Topic.RAW) as send:
        send(wiring.operators_records(config, now)(value, now, one.encode()), now)
    if as_json:
        told = {"sent": kind, "message_id": message_id, "time": now, "left": one, "right": other, "will": _WILL[kind]}
        click.echo(json.dumps(told))
    else:
        click.echo(f"sent {kind} {message_id}: {short(one)} and {short(other)} {_WILL[kind]}")
