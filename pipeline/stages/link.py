"""Rules of identity: which identifiers join events to one profile, and what a profile may show.

In: the text of `schemas/identity.toml`. Rejects: none. What is blocked never becomes a token (`stages.block`); who
belongs together under the limits is `stages.partition`'s part.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..errors import Misuse
from .block import Blocked, check
from .computed import Computed, load_computed
from .schema import PLAIN_KEY

_PURPOSE_RULE = "up to 64 letters, digits, `_` and `-`, a letter first"
MAX_WINDOW = 4096
"""Of `Duplicates`: 32 KiB in each row."""
_KIND = re.compile(r"[a-z][a-z0-9_]*\Z")
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([hd])\Z")
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?\Z")
_KEY = re.compile(r"""\s*["']?([^\s"'=#\[{][^"'=]*?)["']?\s*=""")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+)`\Z")
HOUR = 3_600_000


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    priority: int
    links: bool = True
    limit: int = 0
    """At most so many per profile; 0: no limit."""
    window: str = ""
    """The limit holds within any span of so many hours or days ("7d") of first sightings; "": in all."""
    shared: int = 0
    """More distinct neighbours of an equal or stronger kind than this make it shared; 0: `Limits.shared_neighbours`."""

    @property
    def window_ms(self) -> int:
        """0: in all."""
        return span_ms(self.window) if self.window else 0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shared_neighbours: int = 10
    cluster_tokens: int = 1000
    """Identifiers of a profile at most."""
    component_tokens: int = 20_000
    """Identifiers that are worked on together at most: profiles, and what hangs together with them by conflicts."""


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clear: tuple[str, ...] = ()
    max_bytes: int = 2048


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    event_names: int = 100
    traits: int = 100
    sources: int = 100
    conflicts: int = 100
    consents: int = 50
    groups: int = 50
    members: int = 500
    computed_values: int = 20


class Duplicates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    window: int = 32
    """Events remembered per anchor token, by source, messageId and name; 0: none."""


Section = Literal["events", "traits", "sources", "computed", "groups"]


class Consent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    withhold: dict[str, tuple[Section, ...]] = {}
    """By purpose: what a profile does not show while it is denied."""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    kinds: dict[str, Kind]
    limits: Limits = Limits()
    traits: Traits = Traits()
    bounds: Bounds = Bounds()
    blocked: Blocked = Blocked()
    duplicates: Duplicates = Duplicates()
    consent: Consent = Consent()
    computed: dict[str, Computed] = {}
    """By the trait's name; declared in a file of their own."""

    def links(self, kind: str) -> bool:
        """Whether an identifier of `kind` joins what it occurs with; an unknown kind does not."""
        found = self.kinds.get(kind)
        return found is not None and found.links

    def shared_at(self, kind: str) -> int:
        """An identifier of `kind` with more distinct neighbours than this is shared."""
        return self.kinds[kind].shared or self.limits.shared_neighbours


def span_ms(text: str) -> int:
    """`7d`, `12h` in ms; `ValueError` for anything else."""
    found = _WINDOW.match(text)
    if found is None:
        raise ValueError
    return int(found[1]) * (HOUR if found[2] == "h" else 24 * HOUR)


def digest(rules: Rules) -> int:
    """31 bits that tell apart the rules that decide what profiles come out, given what is kept of the events."""
    kept = msgspec.structs.replace(rules, blocked=Blocked())
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(kept, order="sorted")).digest()[:4], "big") >> 1


def load_rules(text: str, computed: str = "") -> Rules:
    """Read the rules, `computed`: of computed.toml. `Misuse` names the key, or the line, that is wrong."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise Misuse(f"identity rules: not TOML: {e}") from None
    if "computed" in found:
        raise Misuse("identity rules: computed: is declared in computed.toml, beside these rules")
    try:
        rules = msgspec.convert(found, Rules)
        _check(rules, found)
    except msgspec.ValidationError as e:
        raise Misuse(_with_line(f"identity rules: {_where(str(e), found)}", text)) from None
    except Misuse as e:
        raise Misuse(_with_line(str(e), text)) from None
    if computed:
        made = load_computed(computed, rules.bounds.computed_values, rules.duplicates.window)
        rules = msgspec.structs.replace(rules, computed=made)
    return rules


def _where(message: str, rules: Mapping[str, Any]) -> str:
    """msgspec's "… - at `$.kinds[...].limit`" as "kinds.email.limit: …", of the first kind that it is true of."""
    what, _, path = message.partition(" - at `$")
    path = path.strip(".`")
    if path.startswith("kinds[...]"):
        path = path.replace("[...]", f".{_wrong_kind(rules['kinds'])}", 1)
    unknown = _UNKNOWN.match(what)
    if unknown:
        path, what = f"{path}.{unknown[1]}".strip("."), "there is no such key"
    path = path.replace("[...]", ".<name>")
    return f"{path}: {what}" if path else what


def _wrong_kind(kinds: Mapping[str, Any]) -> str:
    for name, kind in kinds.items():
        try:
            msgspec.convert(kind, Kind)
        except msgspec.ValidationError:
            return name
    return "<name>"


def _with_line(message: str, text: str) -> str:
    """Put the line in where the key that the message names, or the table that it is of, is written."""
    begin, key, *what = message.split(": ", 2)
    lines, at = _lines(text), key.partition("[")[0]
    while at and at not in lines:
        at = at.rpartition(".")[0]
    return ": ".join((begin, f"line {lines[at]}", key, *what)) if at and what else message


def _lines(text: str) -> dict[str, int]:
    """Dotted key → number of the line where it begins, as far as TOML is written plainly."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1].strip()
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault(f"{table}.{key[1]}".strip("."), number)
    return found


def _check(rules: Rules, found: Mapping[str, Any]) -> None:
    if rules.version != 1:
        raise Misuse("identity rules: version: this sealstream reads version 1")
    if not any(kind.links for kind in rules.kinds.values()):
        raise Misuse("identity rules: kinds: at least one kind must link")
    priorities: dict[int, str] = {}
    for name, kind in rules.kinds.items():
        if not _KIND.match(name):
            raise Misuse(f"identity rules: kinds.{name}: a kind is lower-case letters, digits and underscores")
        if kind.priority < 1:
            raise Misuse(f"identity rules: kinds.{name}.priority: 1 is the strongest, got {kind.priority}")
        if kind.limit < 0:
            raise Misuse(f"identity rules: kinds.{name}.limit: must be 0 (none) or more, got {kind.limit}")
        if kind.shared < 0:
            raise Misuse(f"identity rules: kinds.{name}.shared: must be 0 (the default) or more, got {kind.shared}")
        if kind.window and not kind.limit:
            raise Misuse(f"identity rules: kinds.{name}.window: says nothing without a limit")
        if kind.window and not _WINDOW.match(kind.window):
            raise Misuse(f'identity rules: kinds.{name}.window: hours or days, such as "12h" or "7d"')
        if kind.priority in priorities:
            raise Misuse(
                f"identity rules: kinds.{name}.priority: {kind.priority} is that of {priorities[kind.priority]} already"
            )
        priorities[kind.priority] = name
    for i, path in enumerate(rules.traits.clear):
        parts = path.split(".")
        if not all(parts) or len(parts) < 2 or "*" in parts[:-1]:
            raise Misuse(f'identity rules: traits.clear[{i}]: a dotted path of two names or more, "*" only at its end')
    for table in ("limits", "bounds"):
        for name, value in found.get(table, {}).items():
            if value < 1:
                raise Misuse(f"identity rules: {table}.{name}: must be at least 1, got {value}")
    if rules.traits.max_bytes < 1:
        raise Misuse("identity rules: traits.max_bytes: must be at least 1")
    if rules.limits.component_tokens < rules.limits.cluster_tokens:
        raise Misuse("identity rules: limits.component_tokens: must be at least limits.cluster_tokens")
    check(rules.blocked, rules.kinds)
    if not 0 <= rules.duplicates.window <= MAX_WINDOW:
        raise Misuse(
            f"identity rules: duplicates.window: must be 0 (none) to {MAX_WINDOW}, got {rules.duplicates.window}"
        )
    for purpose in rules.consent.withhold:
        if not PLAIN_KEY.fullmatch(purpose):
            raise Misuse(f"identity rules: consent.withhold.{purpose}: a purpose is {_PURPOSE_RULE}")
