"""The scanner finds whatever is planted, wherever it lies.

Mutations seen red: one form left out (each); base64 at one alignment; nothing kept between chunks; file names;
breaks of lines left in, or \\n of JSON; bytes looked for as text.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.canaries import scan
from tests.canaries.scan import Scanner
from tests.canaries.values import KINDS, people, values

PEOPLE = people(7, 40)
VALUES = values(PEOPLE)
SCANNER = Scanner(VALUES)


def base64_after(n: int, encoding: str = "utf-8") -> Callable[[str], bytes]:
    return lambda v: base64.b64encode(b"\xff" * n + v.encode(encoding) + b"\xfe")


def lines_after(n: int) -> Callable[[str], bytes]:
    return lambda v: base64.encodebytes(bytes(n) + v.encode())


def lower(escaped: str) -> bytes:
    return re.sub("%..", lambda found: found[0].lower(), escaped).encode()


WRITTEN: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "lower": lambda v: v.lower().encode(),
    "upper": lambda v: v.upper().encode(),
    "utf-16": lambda v: v.encode("utf-16"),
    "utf-16-be": lambda v: v.encode("utf-16-be"),
    "utf-32": lambda v: v.encode("utf-32"),
    "utf-32-be": lambda v: v.encode("utf-32-be"),
    "hex": lambda v: v.encode().hex().encode(),
    "HEX": lambda v: v.encode().hex().upper().encode(),
    "url": lambda v: quote(v, safe="").encode(),
    "form": lambda v: quote_plus(v).encode(),
    "url twice": lambda v: quote(quote(v, safe=""), safe="").encode(),
    "url, lower case": lambda v: lower(quote(v, safe="")),
    "form, lower case": lambda v: lower(quote_plus(v)),
    "url twice, lower case": lambda v: quote(lower(quote(v, safe="")), safe="").encode(),
    "json": lambda v: json.dumps({"x": v}).encode(),
    "json, upper case": lambda v: re.sub(r"(?<=u)00e.|(?<=u)04..", lambda m: m[0].upper(), json.dumps(v)).encode(),
    "json, unicode": lambda v: json.dumps({"x": v}, ensure_ascii=False).encode(),
    "json in json": lambda v: json.dumps(json.dumps(v)).encode(),
    **{f"base64 after {n}": base64_after(n) for n in range(4)},
    **{f"base64 of utf-16 after {n}": base64_after(n, "utf-16") for n in range(3)},
    "base64 of utf-16-be": base64_after(1, "utf-16-be"),
    **{f"lines of base64 after {n}": lines_after(n) for n in range(30, 60)},
    "lines of base64 in json": lambda v: json.dumps(base64.encodebytes(bytes(45) + v.encode()).decode()).encode(),
    "lines of base64, CRLF": lambda v: base64.encodebytes(bytes(45) + v.encode()).replace(b"\n", b"\r\n"),
    "base64 of json, escaped": lambda v: base64.b64encode(json.dumps({"a": v}).encode()),
    "base64 of json": lambda v: base64.urlsafe_b64encode(json.dumps({"ab": v}, ensure_ascii=False).encode()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_each_kind_is_found_in_each_form(kind: str, written: Callable[[str], bytes]) -> None:
    for number in (0, 39):
        value = getattr(PEOPLE[number], kind)
        found = SCANNER.scan("here", [b"before\0", written(value), b"\0after"])
        assert {(h.kind, h.number) for h in found} == {(kind, number)}


@pytest.mark.parametrize("written", ["0{}", "0049{}", "49{}"])
def test_a_phone_number_is_found_as_people_type_it(written: str) -> None:
    found = SCANNER.scan("here", [written.format(PEOPLE[4].phone.removeprefix("+49")).encode()])
    assert {(h.kind, h.number) for h in found} == {("phone", 4)}


@pytest.mark.parametrize(
    "written", [bytes, lambda v: v.hex().encode(), lambda v: base64.b64encode(b"-" + v), base64.encodebytes]
)
def test_what_is_no_text_is_found(written: Callable[[bytes], bytes]) -> None:
    secret = bytes(range(200, 232))
    scanner = Scanner({}, {secret: ("secret", 0)})
    assert {hit.kind for hit in scanner.scan("here", [b"before", written(secret)])} == {"secret"}
    assert not scanner.scan("here", [written(secret[::-1])])


def test_what_lies_across_two_pieces_is_found() -> None:
    value = PEOPLE[3].email.encode()
    for at in range(1, len(value)):
        assert SCANNER.scan("here", [b"x" * 99 + value[:at], value[at:] + b"x" * 99])
    lines = base64.encodebytes(bytes(50) + value).replace(b"\n", b"\r\n")
    for at in range(1, len(lines)):
        assert SCANNER.scan("here", [lines[:at], lines[at:]])


def test_files_and_their_names_are_searched_and_nothing_else_is_a_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK", 1000)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(bytes(999) + PEOPLE[5].card.encode() + bytes(999))
    (tmp_path / PEOPLE[6].phone).touch()
    (tmp_path / "others").write_text(repr([(p.name, p.email, p.card) for p in people(8, 40)]))
    hits, size = SCANNER.files(tmp_path)
    assert {(h.kind, h.number) for h in hits} == {("card", 5), ("phone", 6)}
    assert size > 2_000


def test_a_hit_does_not_say_the_value() -> None:
    (hit,) = SCANNER.scan("here", [PEOPLE[0].email.encode()])
    assert not any(value in repr(hit) for value in VALUES)
    assert PEOPLE[0].name not in repr(PEOPLE)
