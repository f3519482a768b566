"""Versions of the identity rules on `control`: the last one is in force, and each worker reads it at its start."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import msgspec

from ..errors import Misuse
from ..events import frame
from . import control

_KEY = b"identity/rules"


class Unreadable(Misuse):
    """What stands on `control` is no version of rules."""


class RulesVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of identity.toml and computed.toml. `version` counts from 1; 0: files, never applied. `at`: ms."""

    version: int
    rules: str
    computed: str
    digest: str
    at: int = 0
    reason: str = ""


def digest_of(rules: str, computed: str) -> str:
    """32 hex: the first half of SHA-256 over the framed texts."""
    return sha256(frame(rules.encode(), computed.encode())).hexdigest()[:32]


def last(bootstrap: str, security: Mapping[str, str], topic: str) -> RulesVersion | None:
    """Return the version in force; None: there is none, files count. Raises `Unreadable`, and as `Reader` does."""
    return of(control.standing(bootstrap, security, topic))


def of(standing: Mapping[bytes, bytes]) -> RulesVersion | None:
    """The same, of what stands on `control`."""
    value = standing.get(_KEY)
    if value is None:
        return None
    try:
        found = msgspec.json.decode(value, type=RulesVersion)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    if found is None or found.version < 1 or found.digest != digest_of(found.rules, found.computed):
        raise Unreadable("control: identity/rules does not read back; `sealstream identity apply RULES` writes it anew")
    return found


def put(bootstrap: str, security: Mapping[str, str], topic: str, version: RulesVersion) -> None:
    control.put(bootstrap, security, topic, _KEY, msgspec.json.encode(version))
