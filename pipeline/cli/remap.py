"""`sealstream identity remap`: stored profile ids → today's."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click
import msgspec

from .. import settings
from ..errors import Misuse
from ..events import Topic
from ..explain.standing import newest, today
from ..outcomes import UNDECODABLE
from .lines import batches


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--field", default="profile_id", show_default=True, help="Name of the field that holds the id.")
@click.option("--strict", is_flag=True, help="Exit code 1 if an id is unknown.")
@click.pass_context
def remap(ctx: click.Context, file: BinaryIO, field: str, strict: bool) -> None:
    """Rewrite the profile ids of JSON lines to those that the profiles have today.

    A profile that was merged into another keeps a record under its old id that says so; those records are read from the
    topic `profiles`, and followed. An id that is not there (erased, not yet, never) and a line without the field stay
    as they are, and are counted on stderr.

    \b
    Examples:
      sealstream identity remap orders.jsonl > orders-today.jsonl
      sealstream identity remap --field customer --strict < orders.jsonl
    """
    from .. import wiring

    with wiring.reader(settings.load(), Topic.PROFILES) as found:
        hidden = not sys.stderr.isatty()
        bar = click.progressbar(found, length=found.total, label="profiles", file=sys.stderr, hidden=hidden)
        with bar as records:
            remapped = Remap(records, field)
    out = sys.stdout.buffer
    for line in remapped.lines(line for batch in batches(file) for line in batch):
        out.write(line + b"\n")
    out.flush()
    click.echo(
        f"{remapped.changed} of {remapped.seen} ids changed, {remapped.unknown} unknown and left as they are", err=True
    )
    ctx.exit(1 if strict and remapped.unknown else 0)


class Remap:
    """What stands on `profiles`, and counts of what was asked of it."""

    def __init__(self, records: Iterable[Any], field: str) -> None:
        """`records`: of the topic (`adapters.reader.Found`), each partition's in offset order."""
        self._field = field
        self._today = today(newest(records))
        self.seen = 0
        self.changed = 0
        self.unknown = 0

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield JSON lines; of one whose id changes that value alone is another. `Misuse` for one that is no object."""
        for number, line in enumerate(lines, 1):
            try:
                row = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            except UNDECODABLE:
                raise Misuse(f"line {number} is not a JSON object") from None
            self.seen += 1
            ident = _text(row.get(self._field))
            today = None if ident is None else self._today.get(ident)
            if today is None:
                self.unknown += 1
            elif today != ident:
                self.changed += 1
                row[self._field] = msgspec.Raw(msgspec.json.encode(today))
                line = msgspec.json.encode(row)
            yield line


def _text(raw: msgspec.Raw | None) -> str | None:
    if raw is None:
        return None
    value = msgspec.json.decode(raw)
    return value if isinstance(value, str) else None
