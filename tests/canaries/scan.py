"""Looks for all values in all forms at once (Aho-Corasick), in files of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ahocorasick

from tests.canaries.forms import forms, forms_of_bytes

CHUNK = 8 << 20
_BREAKS = b"\r", b"\n", rb"\r", rb"\n"
"""As MIME has them in base64, also in JSON; what has any is looked at with and without them."""


class Hit(NamedTuple):
    """Never the value itself: its number among all of them, and how it was written."""

    place: str
    kind: str
    form: str
    number: int


class Scanner:
    def __init__(self, values: Mapping[str, tuple[str, int]], of_bytes: Mapping[bytes, tuple[str, int]] = {}) -> None:
        self._found = ahocorasick.Automaton()
        self._longest = 0
        written = [(forms(value), *what) for value, what in values.items()]
        written += [(forms_of_bytes(value), *what) for value, what in of_bytes.items()]
        for patterns, kind, number in written:
            for form, pattern in patterns:
                text = pattern.decode("latin-1")
                self._longest = max(self._longest, len(text))
                if text not in self._found:
                    self._found.add_word(text, (kind, form, number))
        self._found.make_automaton()

    def scan(self, place: str, chunks: Iterable[bytes]) -> set[Hit]:
        hits = set()
        before = b""
        for chunk in chunks:
            data = before + chunk
            unbroken = data
            for line_break in _BREAKS:
                unbroken = unbroken.replace(line_break, b"")
            for text in {data, unbroken}:
                hits |= {Hit(place, *what) for _, what in self._found.iter(text.decode("latin-1"))}
            before = data[-2 * self._longest :]
        return hits

    def files(self, *roots: Path) -> tuple[set[Hit], int]:
        """Every file under `roots`, and how many bytes that were. Names count as well."""
        hits: set[Hit] = set()
        size = 0
        for root in roots:
            for path in sorted(root.rglob("*")):
                name = str(path.relative_to(root))
                hits |= self.scan(f"{root.name}: a file's name", [name.encode("utf-8", "surrogateescape")])
                if path.is_file() and not path.is_symlink():
                    size += path.stat().st_size
                    hits |= self.scan(f"{root.name}/{name}", _chunks(path))
        return hits, size


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
