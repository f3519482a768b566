"""What the commands of `sealstream identity` share: how identifiers are named and shown, and where events come from."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from .. import settings
from ..errors import Misuse
from ..events import Topic
from ..explain.evidence import Sighting, gather
from ..explain.names import tokens_of
from ..stages import dump
from ..stages.link import Rules
from ..stages.tokenize import Tokens

T = TypeVar("T")

file_argument = click.argument("file", required=False, type=click.File("rb"))
key_option = click.option(
    "--keys", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="Key file; default SEALSTREAM_KEY_FILE."
)
rules_option = click.option(
    "--rules",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: those in force on the broker; with FILE, identity.toml of the schemas.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, with whole tokens.")


def rules_of(config: settings.Settings, file: BinaryIO | None, given: Path | None) -> Rules:
    """Return the rules of `given`; else those in force, if the events are the broker's; else those of the schemas."""
    from .. import wiring

    return wiring.rules_in_force(config) if file is None and given is None else wiring.identity_rules(config, given)


def named(config: settings.Settings, rules: Rules, *texts: str) -> list[list[str]]:
    """Return the tokens that each text may stand for, the latest key version first (`explain.names`).

    Of `kind:-` the value is read from a prompt, or from standard input, a line each.
    """
    from .. import wiring

    @cache
    def tokens() -> Tokens:
        return wiring.tokens(config, rules)

    now = int(time.time() * 1000)
    return [tokens_of(_asked(text), tokens, now) for text in texts]


def _asked(text: str) -> str:
    kind, _, value = text.partition(":")
    if value != "-":
        return text
    if sys.stdin.isatty():
        return f"{kind}:{click.prompt(kind, hide_input=True)}"
    try:
        return f"{kind}:{click.get_binary_stream('stdin').readline().decode().rstrip()}"
    except UnicodeDecodeError:
        raise Misuse(f"{kind}: the value on standard input is not UTF-8") from None


def events(config: settings.Settings, file: BinaryIO | None) -> list[Sighting]:
    """Return what decides who is who: of a dump, or of what stands on `events.protected` now."""
    from .. import wiring

    if file is not None:
        return gather(_Sightings(_Lines(file), None))
    with wiring.reader(config, Topic.PROTECTED) as reader:
        return gather(_Sightings(reader, reader.total))


class _Sightings:
    """The events of a dump, or of records of `events.protected`, as often as they are iterated."""

    def __init__(self, found: Iterable[Any], total: int | None) -> None:
        self._found = found
        self._total = total

    def __iter__(self) -> Iterator[Sighting]:
        lines = (one if isinstance(one, bytes) else one.value or b"" for one in self._found)
        with progressbar(lines, "events", self._total) as bar:
            yield from dump.read(bar, Sighting)


class _Lines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        if self._begun:
            if not self._file.seekable():
                raise Misuse("the dump has erasures and is read twice: give it as a file")
            self._file.seek(0)
        self._begun = True
        yield from self._file


def progressbar(items: Iterable[T], label: str, total: int | None = None) -> AbstractContextManager[Iterable[T]]:
    hidden = not sys.stderr.isatty()
    return click.progressbar(items, length=total, label=label, file=sys.stderr, hidden=hidden, update_min_steps=100)


def bar_of(label: str) -> Callable[[list[T]], Iterator[T]]:
    def steps(items: list[T]) -> Iterator[T]:
        with progressbar(items, label) as bar:
            yield from bar

    return steps


def operator(given: str | None) -> str:
    """Return who decides: `given`, else the user of this system."""
    if given:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        raise Misuse("--operator: say who decides, this user has no name") from None
