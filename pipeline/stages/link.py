"""Rules of identity: which identifiers join events to one profile, and what a profile may show.

In: the text of `schemas/identity.toml`. Rejects: none (blocked literals never become tokens: they are refused by the
protect leg). Limits are read and checked here; a cluster's constrained partition will apply them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..errors import Misuse
from .computed import Computed, load_computed
from .schema import PLAIN_KEY

_PURPOSE_RULE = "up to 64 letters, digits, `_` and `-`, a letter first"
MAX_WINDOW = 4096
"""Of `Duplicates`: 32 KiB in each row."""
_KIND = re.compile(r"[a-z][a-z0-9_]*\Z")


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    priority: int
    links: bool = True
    limit: int = 0
    """At most so many per profile; 0: no limit. Not enforced yet."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Not enforced yet."""

    shared_neighbours: int = 50
    cluster_tokens: int = 1000


class Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clear: tuple[str, ...] = ()
    max_bytes: int = 2048


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    event_names: int = 100
    traits: int = 100
    sources: int = 100
    consents: int = 50
    groups: int = 50
    computed_values: int = 20


class Duplicates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    window: int = 64
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
    duplicates: Duplicates = Duplicates()
    consent: Consent = Consent()
    computed: dict[str, Computed] = {}
    """By the trait's name; declared in a file of their own."""

    def links(self, kind: str) -> bool:
        """Whether an identifier of `kind` joins what it occurs with; an unknown kind does not."""
        found = self.kinds.get(kind)
        return found is not None and found.links


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
    except msgspec.ValidationError as e:
        raise Misuse(f"identity rules: {_where(str(e))}") from None
    _check(rules, found)
    if computed:
        made = load_computed(computed, rules.bounds.computed_values, rules.duplicates.window)
        rules = msgspec.structs.replace(rules, computed=made)
    return rules


def _where(message: str) -> str:
    """msgspec's "… - at `$.kinds[...].limit`" as "kinds.….limit: …"."""
    what, found, path = message.partition(" - at `$")
    return f"{path.strip('.`').replace('[...]', '.<name>')}: {what}" if found else message


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
    if not 0 <= rules.duplicates.window <= MAX_WINDOW:
        raise Misuse(
            f"identity rules: duplicates.window: must be 0 (none) to {MAX_WINDOW}, got {rules.duplicates.window}"
        )
    for purpose in rules.consent.withhold:
        if not PLAIN_KEY.fullmatch(purpose):
            raise Misuse(f"identity rules: consent.withhold.{purpose}: a purpose is {_PURPOSE_RULE}")
