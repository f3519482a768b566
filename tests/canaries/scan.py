"""Looks for all values in all forms at once (Aho-Corasick), in files of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ahocorasick

from tests.canaries.values import forms

CHUNK = 8 << 20


class Hit(NamedTuple):
    """Never the value itself: its number among all of them, and how it was written."""

    place: str
    kind: str
    form: str
    number: int


class Scanner:
    def __init__(self, values: Mapping[str, tuple[str, int]]) -> None:
        self._found = ahocorasick.Automaton()
        self._longest = 0
        for value, (kind, number) in values.items():
            for form, pattern in forms(value):
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
            hits |= {Hit(place, *what) for _, what in self._found.iter(data.decode("latin-1"))}
            before = data[-self._longest :]
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
