"""Which schema an event has: by its type and name, or by the fingerprint that Avro carries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from ..errors import Misuse
from .compile import NAME_CHARS, CompiledSchema, compile_schema
from .schema import TYPES, EventSchema, incompatible

_WORDS = re.compile(r"[\W_]+")


def plain_name(event: str) -> str:
    """Return an event's name as it is compared: `Order Completed`, `order_completed` and `order-completed` are one."""
    return _WORDS.sub(" ", event).strip().casefold()


class Registry:
    """All versions of all schemas. `Misuse` if a new version breaks readers of the old, or two claim an event."""

    def __init__(self, schemas: Iterable[EventSchema]) -> None:
        ordered = sorted(schemas, key=lambda s: (s.name, s.version))
        for old, new in pairwise(ordered):
            if old.name == new.name and new.avro.get("sealstream:compatibility", "backward") == "backward":
                found = incompatible(old, new)
                if found:
                    raise Misuse(f"schema {new.title} is not backward compatible: {'; '.join(found)}")
        self.schemas = tuple(compile_schema(s) for s in ordered)
        self.by_fingerprint: Mapping[bytes, CompiledSchema] = {c.fingerprint: c for c in self.schemas}
        self.generic: dict[str, CompiledSchema] = {}
        self._named: dict[str, CompiledSchema] = {}
        self._seen: dict[str, CompiledSchema | None] = {}
        for compiled in self.schemas:  # in order of versions: the latest stays
            self._claim(compiled)

    def _claim(self, compiled: CompiledSchema) -> None:
        s = compiled.schema
        claimed, key = (self._named, plain_name(s.event)) if s.event else (self.generic, s.type)
        other = claimed.get(key)
        if other is not None and other.schema.name != s.name:
            raise Misuse(f"schemas {other.title} and {compiled.title} are both of the same event")
        claimed[key] = compiled

    def missing(self) -> list[str]:
        """Return the types without a generic schema: their events would be rejected."""
        return [t for t in TYPES if t not in self.generic]

    def of(self, type_: str, event: str | None) -> CompiledSchema | None:
        """Return the latest schema of an event, the generic one of its type where it has no other."""
        if type_ != "track" or event is None:
            return self.generic.get(type_)
        try:
            found = self._seen[event]
        except KeyError:
            found = self._named.get(plain_name(event))
            if len(self._seen) < 10_000 and len(event) <= NAME_CHARS:
                self._seen[event] = found
        return found or self.generic.get("track")
