"""Event schemas → msgspec types and the plan by which their fields are taken out. Done once, at load.

Every record becomes a struct that refuses fields it does not name, so that nothing passes because somebody forgot it;
`Shape.split` then takes those out, to be sealed whole. Blanked fields are `UNSET`, which the encoder leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from ..crypto.seal import SealPath
from ..errors import Misuse
from .extract import Extract, extractor
from .schema import EXTRA, PLAIN_KEY, EventSchema, Field, Protect, Type

_INT32 = msgspec.Meta(ge=-(2**31), le=2**31 - 1)
_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_YEARS_1_TO_9999 = msgspec.Meta(ge=-62_135_596_800_000, le=253_402_300_799_999)
_PlainKey = Annotated[str, msgspec.Meta(pattern=rf"^{PLAIN_KEY.pattern}\Z")]
_SIGNS = re.compile(r"[.\[\\]")
_ESCAPED = r"\\\g<0>"
NAME_CHARS = 256
"""`messageId` and `event` are kept in clear and used as keys: bounded."""

_PRIMITIVES: Mapping[str, Any] = {
    "string": str,
    "boolean": bool,
    "int": Annotated[int, _INT32],
    "long": Annotated[int, _INT64],
    "float": float,
    "double": float,
    "json": msgspec.Raw,
    "time": datetime | Annotated[int, _YEARS_1_TO_9999],
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Which names a record has, or what an array or map holds; what `split` and `from_avro` go by."""

    fields: Mapping[str, Shape] | None = None
    items: Shape | None = None
    json: bool = False
    plain: bool = False
    """Of a map in clear: its keys are `PLAIN_KEY`s."""

    def split(self, value: Any, path: str, extra: dict[str, Any]) -> Any:
        """Return `value` with the names that are known or plain keys; put the others into `extra` by their path.

        A `.`, `[` or `\\` in a name that is not known has a `\\` before it, so that no two have the same path.
        """
        if isinstance(value, dict):
            if self.fields is not None:
                known = {}
                for name, inner in value.items():
                    shape = self.fields.get(name)
                    if shape is None:
                        name = _SIGNS.sub(_ESCAPED, name)
                    at = f"{path}.{name}" if path else name
                    if shape is None:
                        extra[at] = inner
                    else:
                        known[name] = shape.split(inner, at, extra)
                return known
            if self.items is not None:
                kept = {}
                for key, inner in value.items():
                    if self.plain and not PLAIN_KEY.fullmatch(key):
                        extra[f"{path}.{_SIGNS.sub(_ESCAPED, key)}"] = inner
                    else:
                        kept[key] = self.items.split(inner, f"{path}.{key}", extra)
                return kept
        elif isinstance(value, list) and self.items is not None:
            return [self.items.split(v, f"{path}[{i}]", extra) for i, v in enumerate(value)]
        return value

    def from_avro(self, value: Any) -> Any:
        """Return what fastavro read as what JSON would have been. `ValueError` for what JSON cannot say."""
        if isinstance(value, dict):
            if self.fields is not None:
                return {k: self.fields[k].from_avro(v) for k, v in value.items() if v is not None}
            return {k: self.items.from_avro(v) for k, v in value.items()} if self.items else value
        if isinstance(value, list):
            return [self.items.from_avro(v) for v in value] if self.items else value
        if self.json and isinstance(value, str):
            msgspec.json.decode(value)
            return msgspec.Raw(value.encode())
        if isinstance(value, float) and value - value != 0.0:
            raise ValueError("not a finite number")
        return value


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """A schema at work. `decode`: JSON bytes → a struct; `extract`: takes out of it what may not stay."""

    schema: EventSchema
    title: str
    fingerprint: bytes  # CRC-64-AVRO of the parsing canonical form, as single-object encoding carries it
    avro_writer: Any  # parsed by fastavro, without logical types
    decode: Callable[[bytes], Any] = field(repr=False)
    extract: Extract = field(repr=False)
    shape: Shape
    extra: SealPath
    timed: tuple[bool, bool]
    """Has it `timestamp`, `sentAt`?"""


def compile_schema(schema: EventSchema) -> CompiledSchema:
    """Return the compiled schema; `Misuse` for what fastavro does not take as Avro."""
    try:
        parsed = parse_schema(_without_logical_types(schema.avro), _write_hint=False)
        crc = bytes.fromhex(fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO"))
    except Exception as error:  # fastavro's parse errors have no common class
        raise Misuse(f"schema {schema.title}: is not Avro ({type(error).__name__})") from None
    type_ = _struct(schema.title, schema.fields, root=True)
    names = {f.name for f in schema.fields}
    return CompiledSchema(
        schema,
        schema.title,
        crc[::-1],
        parsed,
        msgspec.json.Decoder(type_).decode,
        extractor(schema),
        _shape(Type("record", fields=schema.fields)),
        SealPath(schema.title, EXTRA),
        ("timestamp" in names, "sentAt" in names),
    )


def _struct(name: str, fields: Iterable[Field], *, root: bool = False, plain: bool = False) -> Any:
    """`plain`: it is part of a field that stays in clear."""
    members: list[Any] = []
    for f in fields:
        type_ = _python_type(f.type, f"{name}.{f.name}", plain=plain or f.protect is Protect.CLEAR)
        if root and f.name in ("messageId", "event") and f.type.kind == "string":
            type_ = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS)]
        if not f.optional:
            members.append((f.name, type_))
        else:  # a union with Raw takes nothing but null; alone it takes null as well
            members.append((f.name, type_ if type_ is msgspec.Raw else type_ | None, None))
    options: dict[str, Any] = {"kw_only": True, "omit_defaults": True, "forbid_unknown_fields": True, "gc": False}
    return msgspec.defstruct(re.sub(r"\W", "_", name), members, **options)


def _python_type(type_: Type, name: str, *, plain: bool) -> Any:
    if type_.kind == "record":
        return _struct(name, type_.fields, plain=plain)
    if type_.kind == "enum":
        return Literal[type_.symbols]
    if type_.item is not None:
        inner = _python_type(type_.item, name, plain=plain)
        if type_.kind == "array":
            return list[inner]  # type: ignore[valid-type]
        key: Any = _PlainKey if plain else str
        return dict[key, inner]  # type: ignore[valid-type]
    return _PRIMITIVES[type_.kind]


def _shape(type_: Type, *, plain: bool = False) -> Shape:
    if type_.kind == "record":
        return Shape(fields={f.name: _shape(f.type, plain=plain or f.protect is Protect.CLEAR) for f in type_.fields})
    items = _shape(type_.item, plain=plain) if type_.item else None
    return Shape(items=items, json=type_.kind == "json", plain=plain and type_.kind == "map")


def _without_logical_types(form: Any) -> Any:
    """Avro's canonical form has none either; with them fastavro would make dates that we only undo."""
    if isinstance(form, dict):
        return {k: _without_logical_types(v) for k, v in form.items() if k not in ("logicalType", "default")}
    return [_without_logical_types(v) for v in form] if isinstance(form, list) else form
