"""Event schemas from files: `events/<name>/<version>.avsc`, and `events/_envelope.avsc` that comes first in each."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import Misuse
from ..stages.registry import Registry
from ..stages.schema import EventSchema, parse

ENVELOPE = "_envelope.avsc"


def directory(given: Path | None) -> Path:
    """Return the directory of all schemas: the one given, the checkout's, or the installed one."""
    if given is not None:
        return given
    checkout = Path(__file__).resolve().parents[2] / "schemas"
    return checkout if checkout.is_dir() else Path(str(files("pipeline") / "_schemas"))


def load(given: Path | None) -> Registry:
    """Read and compile every schema; `Misuse` with the schema, the field and the rule for the first that is wrong."""
    return Registry(read(given))


def read(given: Path | None) -> list[EventSchema]:
    """Return every schema, parsed, by name and version."""
    events = directory(given) / "events"
    if not events.is_dir():
        raise Misuse(f"no event schemas: {events} is not a directory (SEALSTREAM_SCHEMA_DIR)")
    envelope = _json(events / ENVELOPE)
    found = []
    for path in sorted(events.glob("*/*.avsc")):
        if not path.stem.isdecimal() or not path.stem.isascii() or int(path.stem) < 1:
            raise Misuse(f"{path}: a schema's file is called by its version: 1.avsc, 2.avsc, …")
        found.append(parse(path.parent.name, int(path.stem), _json(path), envelope))
    if not found:
        raise Misuse(f"no event schemas in {events}")
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misuse(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise Misuse(f"{path}: is not JSON in UTF-8") from None
