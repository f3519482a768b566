"""`python -m tests.canaries`: no personal value is left anywhere; exit code 1 if one is."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import msgspec

from pipeline.errors import Transient
from tests.canaries.run import Found, Result, run
from tests.canaries.scan import Hit
from tests.canaries.values import KINDS

SHOWN = 20


@click.command()
@click.option("--values", default=1_000, show_default=True, type=click.IntRange(5), help="So many personal values.")
@click.option("--seed", default=1, show_default=True, help="Same seed, same values.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def main(values: int, seed: int, as_json: bool) -> None:
    """Names, mails, phones, addresses and card numbers by sealed producers through a broker, a worker and a server.
    Then a search of every file, log, metrics page, argument and environment for them, plain and encoded: there must be
    none. Then the same in clear: they must be in the files of events.raw, and nowhere else. What schemas allow in clear
    must be found both times where it is bound to be: events.protected, profiles, the database.

    \b
    Examples:
      python -m tests.canaries
      python -m tests.canaries --values 100 --json
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sealstream-canaries-") as directory:
        try:
            found = run(Path(directory), seed, -(-values // len(KINDS)), lambda line: click.echo(line, err=True))
        except Transient as error:
            click.echo(str(error), err=True)
            sys.exit(3)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(msgspec.json.encode({"ok": found.ok, "seconds": round(seconds), "result": found}).decode())
    else:
        click.echo(_text(found, seconds))
    sys.exit(not found.ok)


def _text(found: Result, seconds: float) -> str:
    lines = [
        f"{found.values} values of {found.people} people; {found.scanned_bytes:,} bytes searched, {seconds:.0f} s",
        *_told("sealed", found.sealed, found),
        *_told("in clear", found.clear, found),
        "nothing is left" if found.ok else "NOT PROVED",
    ]
    return "\n".join(lines)


def _told(name: str, one: Found, all_: Result) -> list[str]:
    shown = ", ".join(f"{place} {count}" for place, count in one.shown.items())
    return [
        f"{name}: {one.profiles} profiles, {one.rejected} rejects; {one.raw} of {all_.values} in events.raw, "
        f"{len(one.elsewhere)} hits elsewhere; of {all_.people} that may be seen: {shown}",
        *_places(one.elsewhere),
    ]


def _places(hits: list[Hit]) -> list[str]:
    counted = Counter(f"  {hit.place}: a {hit.kind}, {hit.form}" for hit in hits)
    return [f"{place} ({n})" for place, n in counted.most_common(SHOWN)]


if __name__ == "__main__":
    main()
