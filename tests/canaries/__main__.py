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
from tests.canaries.run import Result, run
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
    none. Then the same in clear: they must be in the files of events.raw, and nowhere else.

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
        f"{found.values} values in {found.events} sealed events: {found.profiles} profiles, {found.rejected} rejects; "
        f"{found.scanned_bytes:,} bytes searched, {seconds:.0f} s",
        f"sealed: {len(found.sealed)} hits",
        *_places(found.sealed),
        f"in clear: {found.clear_raw} of {found.values} in events.raw, {len(found.clear_elsewhere)} hits elsewhere",
        *_places(found.clear_elsewhere),
        "nothing is left" if found.ok else "NOT PROVED",
    ]
    return "\n".join(lines)


def _places(hits: list[Hit]) -> list[str]:
    counted = Counter(f"  {hit.place}: a {hit.kind}, {hit.form}" for hit in hits)
    return [f"{place} ({n})" for place, n in counted.most_common(SHOWN)]


if __name__ == "__main__":
    main()
