"""Write the function that takes out of an event what may not stay in it. Done once per schema, at load.

The function is straight-line Python made from the schema, as `attrs` and `dataclasses` make their methods: a loop over
a description of the fields took 2 µs an event longer. Only field names get into its text, which `stages.schema` has
checked to be plain identifiers; everything else that it needs is handed over by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ..crypto.seal import SealPath
from .normalize import KINDS, MAX_CHARS
from .schema import AS_IT_IS, EventSchema, Field, Protect

Secret = tuple[SealPath, bytes]
"""A place, and the JSON that is to be sealed for it."""
Maker = Callable[[str], str | None]
"""Value → token, `BLOCKED`, or None if the value has no normal form."""
Makers = Mapping[str, Maker]
"""By identifier kind."""
BLOCKED: Final = ""
"""In place of the token of a value that is nobody's."""
Dropped = Counter[tuple[str, str]]
"""Identifiers of which no token was made, by (`blocked_identifier` | `unusable_identifier`, kind)."""
Extract = Callable[[Any, Makers, Dropped], tuple[dict[str, str], str | None, list[Secret]]]
"""(event, makers, dropped) → (path → token, the strongest token, secrets). The event keeps what is clear.

`Unusable` if an identifier has no normal form and its token was all that would have remained of it. A blocked one
says nothing of anybody, so nothing is lost with it. Tokens that came as such rank nowhere.
"""

_RANK: Mapping[str, int | None] = {kind: rank for rank, kind in enumerate(KINDS)} | {AS_IT_IS: None}


class Unusable(Exception):
    """The identifier at `path` makes no token, and is not sealed. Never leaves `tokenize`."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__()
        self.path, self.kind = path, kind


@dataclass(slots=True)
class _Writer:
    """What was written so far. `tokens`: (rank, variable) of each identifier; `places`: what the names P0, P1 … are."""

    title: str
    places: list[SealPath]
    tokens: list[tuple[int | None, str]]
    containers: int = 0

    def body(self, fields: Iterable[Field], owner: str, *, gone: bool) -> Iterator[str]:
        """Yield the lines for the fields of `owner`. `gone`: it leaves as a whole, so nothing in it is blanked."""
        for f in fields:
            if f.container:
                if any(g.protect is not Protect.CLEAR for g in _leaves(f)):
                    yield from self._container(f, owner, gone=gone)
            elif f.protect is not Protect.CLEAR:
                yield from self._field(f, owner, gone=gone)

    def _container(self, f: Field, owner: str, *, gone: bool) -> Iterator[str]:
        name = f"c{self.containers}"
        self.containers += 1
        nothing_clear = not any(g.protect is Protect.CLEAR for g in _leaves(f))
        yield f"{name} = {owner}.{f.name}"
        yield f"if {name} is not None:"
        if nothing_clear and not gone:
            yield f"    {owner}.{f.name} = UNSET"
        for line in self.body(f.type.fields, name, gone=gone or nothing_clear):
            yield f"    {line}"

    def _field(self, f: Field, owner: str, *, gone: bool) -> Iterator[str]:
        assert f.protect is not None
        yield f"v = {owner}.{f.name}"
        yield "if v is not None:"
        if not gone:
            yield f"    {owner}.{f.name} = UNSET"
        if f.identifier:
            token = f"t{len(self.tokens)}"
            self.tokens.append((_RANK[f.identifier], token))
            yield "    if v:"
            yield f"        {token} = makers[{f.identifier!r}](v) if len(v) <= {MAX_CHARS} else None"  # makers remember
            yield f"        if {token}:"
            yield f"            tokens[{f.path!r}] = {token}"
            yield f"        elif {token} is None:"
            yield f"            dropped['unusable_identifier', {f.identifier!r}] += 1"
            if not f.protect.seals:
                yield f"            raise Unusable({f.path!r}, {f.identifier!r})"
            yield "        else:"
            yield f"            dropped['blocked_identifier', {f.identifier!r}] += 1"
        if f.protect.seals:
            yield f"    secrets.append((P{len(self.places)}, encode(v)))"
            self.places.append(SealPath(self.title, f.path))
        elif gone and not f.identifier:
            yield "    pass"


def _leaves(container: Field) -> Iterator[Field]:
    for f in container.type.fields:
        if f.container:
            yield from _leaves(f)
        else:
            yield f


def source(schema: EventSchema) -> tuple[str, dict[str, Any]]:
    """Return the function's text and the names that it uses."""
    writer = _Writer(schema.title, [], [])
    lines = list(writer.body(schema.fields, "event", gone=False))
    strongest_first = [name for _, name in sorted((rank, name) for rank, name in writer.tokens if rank is not None)]
    head = ["tokens, secrets = {}, []"]
    unranked = [name for rank, name in writer.tokens if rank is None]
    if writer.tokens:
        head.append(f"{' = '.join(strongest_first + unranked)} = None")
    tail = [f"return tokens, {' or '.join([*strongest_first, 'None'])}, secrets"]
    text = "def extract(event, makers, dropped):\n" + "\n".join(f"    {line}" for line in [*head, *lines, *tail])
    names: dict[str, Any] = {f"P{i}": place for i, place in enumerate(writer.places)}
    names |= {"UNSET": msgspec.UNSET, "Unusable": Unusable, "encode": msgspec.json.Encoder().encode}
    return text, names


def extractor(schema: EventSchema) -> Extract:
    """Return the schema's extract function."""
    text, names = source(schema)
    exec(compile(text, f"<extract {schema.title}>", "exec"), names)  # noqa: S102 - see the module's docstring
    made: Extract = names["extract"]
    return made
