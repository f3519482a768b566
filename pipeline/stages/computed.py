"""Computed traits: what a profile counts, sums and remembers of its events, as `schemas/computed.toml` declares it.

In: the text of that file. Rejects: none; `Misuse` names the trait, the key and the rule.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ..errors import Misuse
from .registry import plain_name

MAX_TRAITS = 50
MAX_DAYS = 366
MAX_VALUE = 256
"""Bytes of a value as canonical JSON; a longer one is ignored."""
MAX_TOKEN_BYTES = 256 * 1024
"""What all of them together may need per token at the worst, so that its row stays far below a record of Kafka."""

_AMOUNT = 100
"""Bytes of one in `Row.counted`."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_PERIOD = re.compile(r"([1-9][0-9]{0,3})d\Z", re.ASCII)


class Op(StrEnum):
    COUNT = "count"
    SUM = "sum"
    FIRST = "first"
    LAST = "last"
    MOST_FREQUENT = "most_frequent"

    @property
    def extreme(self) -> bool:
        """Is it one event's value, so that an event that was sent twice changes nothing?"""
        return self in (Op.FIRST, Op.LAST)


class Computed(msgspec.Struct, frozen=True):
    """A computed trait. `event`: the name (or type) of the events that it looks at, as `plain_name` compares them.

    `path`: where the value stands in an event's clear part. `days`: of the profile's last days, that of its `last_seen`
    included, only the events of so many count; 0: all do. `key`: what its state goes by: another definition under the
    same name begins anew, rather than to go on with sums of something else.
    """

    key: str
    op: Op
    event: str
    path: tuple[str, ...] = ()
    days: int = 0

    def bytes_per_token(self, values: int, window: int) -> int:
        """The most that its state takes. `values`: the bound of distinct ones; `window`: of `Duplicates`."""
        days = max(1, self.days)
        match self.op:
            case Op.COUNT:
                return 12 * days + window * _AMOUNT
            case Op.SUM:
                return 30 * days + window * (_AMOUNT + 20)
            case Op.FIRST:
                return (MAX_VALUE + 40) * days
            case Op.LAST:
                return MAX_VALUE + 40
            case Op.MOST_FREQUENT:
                return values * (MAX_VALUE + 12 * days) + window * (_AMOUNT + MAX_VALUE)


class _Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: Op
    event: str
    path: str = ""
    period: str = ""


def load_computed(text: str, values: int, window: int) -> dict[str, Computed]:
    """Read the declarations. `values`, `window`: the bounds of the rules that they are used with."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise _wrong("", f"not TOML: {e}") from None
    if found.get("version") != 1:
        raise _wrong("version", "this sealstream reads version 1")
    unknown = sorted(found.keys() - {"version", "computed"})
    if unknown:
        raise _wrong(unknown[0], "is not known here; a trait is a table [computed.<name>]")
    tables = found.get("computed", {})
    if not isinstance(tables, dict):
        raise _wrong("computed", "must hold a table for each trait")
    if len(tables) > MAX_TRAITS:
        raise _wrong("computed", f"at most {MAX_TRAITS} traits, got {len(tables)}")
    made = {name: _computed(name, table) for name, table in sorted(tables.items())}
    needed = {name: trait.bytes_per_token(values, window) for name, trait in made.items()}
    if sum(needed.values()) > MAX_TOKEN_BYTES:
        raise _wrong(
            f"computed.{max(needed, key=lambda name: needed[name])}",
            f"all may need {sum(needed.values())} bytes per token, more than {MAX_TOKEN_BYTES}, and this one the most; "
            "shorten its period, or duplicates.window",
        )
    return made


def _computed(name: str, table: Any) -> Computed:
    at = f"computed.{name}"
    if not _NAME.match(name):
        raise _wrong(at, "a name is up to 64 lower-case letters, digits and underscores, a letter first")
    try:
        declared = msgspec.convert(table, _Declared)
    except msgspec.ValidationError as e:
        what, _, where = str(e).partition(" - at `$")
        raise _wrong(f"{at}{where.rstrip('`')}", what) from None
    event = plain_name(declared.event)
    if not event:
        raise _wrong(f"{at}.event", "must be the name or the type of an event")
    path = tuple(declared.path.split(".")) if declared.path else ()
    if declared.op is Op.COUNT and path:
        raise _wrong(f"{at}.path", "count counts events and takes no path")
    if declared.op is not Op.COUNT and not path:
        raise _wrong(f"{at}.path", f"{declared.op} needs the path of a value")
    if not all(path):
        raise _wrong(f"{at}.path", "must be names with dots between them")
    days = _days(at, declared.period)
    content = f"{declared.op}\0{event}\0{declared.path}\0{days}"
    return Computed(f"{name}~{hashlib.sha256(content.encode()).hexdigest()[:8]}", declared.op, event, path, days)


def _days(at: str, period: str) -> int:
    if not period:
        return 0
    found = _PERIOD.match(period)
    if found is None or int(found[1]) > MAX_DAYS:
        raise _wrong(f"{at}.period", f'must be whole days, "1d" to "{MAX_DAYS}d"')
    return int(found[1])


def _wrong(at: str, what: str) -> Misuse:
    return Misuse(f"computed traits: {at}: {what}" if at else f"computed traits: {what}")


def by_event(computed: Mapping[str, Computed]) -> dict[str, tuple[Computed, ...]]:
    """The traits that look at an event, by its plain name."""
    found: dict[str, tuple[Computed, ...]] = {}
    for trait in computed.values():
        found[trait.event] = (*found.get(trait.event, ()), trait)
    return found
