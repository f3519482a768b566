"""Event schemas: Avro records whose fields say how they are protected. What is not understood is refused.

Attributes (DESIGN §3): `protect`, `identifier`, `confluent:tags` of a field; `sealstream:type`, `sealstream:event` and
`sealstream:compatibility` of a record. A record-typed field without `protect` is a container of fields that have one
each; a field with one is treated as a whole. The envelope's fields come first in every event.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..errors import Misuse
from ..events import DECISIONS, ERASE, ORDERS
from .normalize import KINDS

TYPES = ("identify", "track", "page", "screen", "group", "alias", *sorted(DECISIONS), ERASE)
AS_IT_IS = "token"
"""In place of an identifier kind: the value (`left` or `right` of a decision, `subject` of an erasure) is a token."""
EXTRA = "$extra"
"""The path under which what a schema does not name is sealed, whole."""

PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""What a key of a map in clear must be whole. Keys are the producer's own words: any other is sealed with its value."""

MAX_SEALED = 64
"""Values of one event under its person's key, `EXTRA` included: × `crypto.subject_rows.SPAN` events at most 2^32."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NUMBERS = ("int", "long", "float", "double")  # each may become a later one
_PRIMITIVES = {"string", "boolean", *_NUMBERS}
# of the envelope an operator's events have what says when, and nothing that identifies anybody
_OF_DECISIONS = ("type", "messageId", "timestamp", "sentAt", "originalTimestamp")
_OF_ERASURES = ("type", "messageId")


class Protect(StrEnum):
    CLEAR = "clear"
    TOKEN = "token"  # noqa: S105 - a treatment, not a secret
    SEAL = "seal"
    TOKEN_SEAL = "token+seal"  # noqa: S105
    DROP = "drop"

    @property
    def tokens(self) -> bool:
        return self in (Protect.TOKEN, Protect.TOKEN_SEAL)

    @property
    def seals(self) -> bool:
        return self in (Protect.SEAL, Protect.TOKEN_SEAL)


@dataclass(frozen=True, slots=True)
class Type:
    """An Avro type that we understand. `kind`: a primitive, json, time, enum, array, map or record."""

    kind: str
    item: Type | None = None  # of an array or map
    fields: tuple[Field, ...] = ()  # of a record
    symbols: tuple[str, ...] = ()  # of an enum


@dataclass(frozen=True, slots=True)
class Field:
    """`protect` is None for a container, and inside what is protected as a whole."""

    name: str
    path: str
    type: Type
    optional: bool
    protect: Protect | None = None
    identifier: str = ""

    @property
    def container(self) -> bool:
        return self.protect is None


@dataclass(frozen=True, slots=True)
class EventSchema:
    """One version of an event's schema. `avro` is the complete Avro schema, envelope included."""

    name: str
    version: int
    type: str
    event: str
    fields: tuple[Field, ...]
    avro: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"


def parse(name: str, version: int, document: Any, envelope: Any) -> EventSchema:
    """Return the schema that `document` and `envelope` (Avro, as read from JSON) describe.

    Raises:
        Misuse: with the schema, the field's path and the rule that it breaks.
    """
    where = f"schema {name}/{version}"
    if not isinstance(document, dict) or document.get("type") != "record":
        raise Misuse(f"{where}: must be an Avro record")
    kind, event = document.get("sealstream:type"), document.get("sealstream:event", "")
    if kind not in TYPES:
        raise Misuse(f"{where}: sealstream:type must be one of {', '.join(TYPES)}")
    if not isinstance(event, str) or (event and kind != "track"):
        raise Misuse(f"{where}: sealstream:event is the name of a track event")
    if document.get("sealstream:compatibility", "backward") not in ("backward", "none"):
        raise Misuse(f"{where}: sealstream:compatibility must be backward or none")
    shared = envelope.get("fields", ())
    if kind in ORDERS:
        kept = _OF_ERASURES if kind == ERASE else _OF_DECISIONS
        shared = [f for f in shared if isinstance(f, dict) and f.get("name") in kept]
    avro = {**document, "fields": [*shared, *document.get("fields", ())]}
    fields = _fields(avro["fields"], "", where, protected=False)
    known = {f.name: f for f in fields}
    needed = ("type", "messageId", "event") if kind == "track" else ("type", "messageId")
    for required in needed:
        field = known.get(required)
        if field is None or field.type.kind != "string" or field.optional or field.protect is not Protect.CLEAR:
            raise Misuse(f"{where}: {required} must be a required string, protect: clear")
    if sum(f.protect is not None and f.protect.seals for f in _leaves(fields)) >= MAX_SEALED:
        raise Misuse(f"{where}: at most {MAX_SEALED - 1} fields can be sealed; seal a record as a whole")
    for time in ("timestamp", "sentAt"):
        if time in known and (known[time].type.kind != "time" or known[time].protect is not Protect.CLEAR):
            raise Misuse(f"{where}: {time} must be of the logical type timestamp-millis, protect: clear")
    if kind == ERASE:
        _check_erasure(known, where)
    else:
        _check_decision(kind, fields, where)
    return EventSchema(name, version, kind, event, fields, avro)


def _check_decision(kind: str, fields: Iterable[Field], where: str) -> None:
    two = [f for f in fields if f.name in ("left", "right") and not f.optional and f.identifier == AS_IT_IS]
    if kind in DECISIONS and (len(two) != 2 or any(f.protect is not Protect.TOKEN for f in two)):
        raise Misuse(f"{where}: left and right must be required strings, protect: token, identifier: {AS_IT_IS}")
    known = {f.identifier for f in _leaves(fields) if f not in two} - {""}
    if known and (kind in DECISIONS or AS_IT_IS in known):
        raise Misuse(
            f"{where}: identifier {AS_IT_IS} is of left and right of {' and '.join(sorted(DECISIONS))}, their only one"
        )


def _check_erasure(known: Mapping[str, Field], where: str) -> None:
    """Exactly these: with anything that is sealed a marker would need a key of the person that it erases."""
    wanted = {
        "type": ("string", Protect.CLEAR),
        "messageId": ("string", Protect.CLEAR),
        "timestamp": ("time", Protect.CLEAR),
        "subject": ("string", Protect.TOKEN),
        "erasure": ("string", Protect.CLEAR),
        "partitions": ("int", Protect.CLEAR),
    }
    found = {name: (f.type.kind, f.protect) for name, f in known.items() if not f.optional}
    if found != wanted or known.keys() != wanted.keys() or known["subject"].identifier != AS_IT_IS:
        raise Misuse(
            f"{where}: an erasure has, all of them required, timestamp, erasure (string) and partitions (int), "
            f"protect: clear, and subject, protect: token, identifier: {AS_IT_IS}"
        )


def _leaves(fields: Iterable[Field]) -> Iterable[Field]:
    for f in fields:
        if f.container:
            yield from _leaves(f.type.fields)
        else:
            yield f


def _fields(found: Any, parent: str, where: str, *, protected: bool) -> tuple[Field, ...]:
    if not isinstance(found, list) or not found:
        raise Misuse(f"{where}: {parent or 'the record'} has no fields")
    fields = tuple(_field(f, parent, where, protected=protected) for f in found)
    names = [f.name for f in fields]
    if len(set(names)) < len(names):
        raise Misuse(f"{where}: {parent or 'the record'} names a field twice")
    return fields


def _field(found: Any, parent: str, where: str, *, protected: bool) -> Field:
    """`protected`: a field above stands for the whole, so this one has no rule of its own."""
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not _NAME.match(name) or keyword.iskeyword(name):
        raise Misuse(f"{where}: a field of {parent or 'the record'} has no usable name")
    path = f"{parent}.{name}" if parent else name
    at = f"{where}: {path}"
    protect = found.get("protect")
    if protect is not None and protect not in list(Protect):
        raise Misuse(f"{at}: protect must be one of {', '.join(Protect)}")
    if protected and protect is not None:
        raise Misuse(f"{at}: a field above is protected as a whole, so this one can have no rule of its own")
    form, optional = _optional(found.get("type"), at)
    type_ = _type(form, path, where, protected=protected or protect is not None)
    if protect is None and not protected and type_.kind != "record":
        raise Misuse(f"{at}: has no protect rule; say clear, token, seal, token+seal or drop")
    tags = found.get("confluent:tags", [])
    if "PII" in tags and protect == Protect.CLEAR:
        raise Misuse(f"{at}: is tagged PII, so it cannot be clear")
    identifier = found.get("identifier", "")
    rule = None if protect is None else Protect(protect)
    tokens = rule is not None and rule.tokens
    if tokens and (identifier not in (*KINDS, AS_IT_IS) or type_.kind != "string"):
        raise Misuse(f"{at}: a token needs a string type and an identifier kind of {', '.join(KINDS)}")
    if identifier and not tokens:
        raise Misuse(f"{at}: has an identifier kind but makes no token")
    if optional and "default" not in found:
        raise Misuse(f'{at}: an optional field needs "default": null')
    return Field(name, path, type_, optional, rule, identifier)


def _optional(form: Any, at: str) -> tuple[Any, bool]:
    if not isinstance(form, list):
        return form, False
    rest = [f for f in form if f != "null"]
    if len(rest) != 1 or len(form) != 2:
        raise Misuse(f'{at}: the only union that is supported is ["null", …]')
    return rest[0], True


def _type(form: Any, path: str, where: str, *, protected: bool) -> Type:
    if isinstance(form, str):
        form = {"type": form}
    if not isinstance(form, dict):
        raise Misuse(f"{where}: {path}: has no type")
    kind, logical = form.get("type"), form.get("logicalType")
    if kind == "record":
        return Type("record", fields=_fields(form.get("fields"), path, where, protected=protected))
    if kind in ("array", "map"):
        inner, optional = _optional(form.get("items" if kind == "array" else "values"), f"{where}: {path}")
        if optional:
            raise Misuse(f"{where}: {path}: null is not supported inside of arrays and maps")
        return Type(kind, item=_type(inner, path, where, protected=True))
    if kind == "enum":
        symbols = form.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise Misuse(f"{where}: {path}: an enum needs symbols")
        return Type("enum", symbols=tuple(symbols))
    if kind == "string" and logical == "json":
        return Type("json")
    if kind == "long" and logical == "timestamp-millis":
        return Type("time")
    if kind in _PRIMITIVES:
        return Type(kind)
    raise Misuse(f"{where}: {path}: this Avro type is not supported; docs: schemas/README.md")


def incompatible(old: EventSchema, new: EventSchema) -> list[str]:
    """Return why `new` cannot stand in for `old`: each with the field's path. Empty: it is backward compatible."""
    return list(_differences(old.fields, new.fields))


def _differences(old: Iterable[Field], new: Iterable[Field]) -> Iterable[str]:
    before, after = {f.name: f for f in old}, {f.name: f for f in new}
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            yield f"{was.path}: was removed"
        else:
            yield from _difference(was, now)
    for name, now in after.items():
        if name not in before and not now.optional:
            yield f"{now.path}: is new, so it must be optional"


def _difference(was: Field, now: Field) -> Iterable[str]:
    if was.optional and not now.optional:
        yield f"{now.path}: was optional"
    if now.protect is Protect.CLEAR and was.protect is not Protect.CLEAR:
        yield f"{now.path}: was protected and cannot become clear"
    if was.identifier and was.identifier != now.identifier:
        yield f"{now.path}: its identifier kind was another"
    yield from _retyped(now.path, was.type, now.type)


def _retyped(path: str, was: Type, now: Type) -> Iterable[str]:
    widened = was.kind in _NUMBERS and now.kind in _NUMBERS[_NUMBERS.index(was.kind) :]
    if was.kind != now.kind and not widened:
        yield f"{path}: its type was {was.kind}"
    elif was.kind == "record":
        yield from _differences(was.fields, now.fields)
    elif was.item is not None and now.item is not None:
        yield from _retyped(path, was.item, now.item)
    elif set(was.symbols) - set(now.symbols):
        yield f"{path}: lost symbols"
