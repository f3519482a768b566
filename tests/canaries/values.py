"""Personal values that occur nowhere else, and the ways in which something may write them down."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from random import Random
from urllib.parse import quote, quote_plus

import msgspec

KINDS = ("name", "email", "phone", "address", "card")
_LETTERS = "bcdfghjklmnpqrstvwxz"
_STREETS = ("Straße", "Allée", "Lane", "улица")


class Person(msgspec.Struct, frozen=True):
    """One of each kind. Unlike anything that occurs by chance: 10 random letters or 11 random digits at least."""

    name: str
    email: str
    phone: str
    address: str
    card: str

    def __repr__(self) -> str:
        return "Person(…)"


def people(seed: int, count: int) -> list[Person]:
    rng = Random(seed)

    def word(length: int) -> str:
        return "".join(rng.choice(_LETTERS) for _ in range(length))

    def digits(length: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(length))

    return [
        Person(
            f"Zoë {word(6).capitalize()} O'{word(8).capitalize()}",
            f"{word(8)}.{word(8)}@{word(6)}.example",
            f"+49151{rng.randrange(2, 9)}{digits(7)}",
            f"{digits(5)} {word(9).capitalize()}{rng.choice(_STREETS)} {digits(3)}",
            f"4{digits(15)}",
        )
        for _ in range(count)
    ]


def values(persons: list[Person]) -> dict[str, tuple[str, int]]:
    """Value → its kind, and whose it is."""
    return {getattr(p, kind): (kind, n) for n, p in enumerate(persons) for kind in KINDS}


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """Each way of writing a value: its name, and the bytes to look for."""
    plain = value.encode()
    yield "plain", plain
    yield "lower case", value.lower().encode()
    yield "upper case", value.upper().encode()
    for encoding in ("utf-16-le", "utf-16-be"):
        yield encoding, value.encode(encoding)
    yield "hex", plain.hex().encode()
    yield "HEX", plain.hex().upper().encode()
    for name, text in (("url", quote(value, safe="")), ("url path", quote(value)), ("form", quote_plus(value))):
        yield name, text.encode()
        yield name, text.replace("%", "%25").encode()
    escaped = json.dumps(value)[1:-1]
    yield "json", escaped.encode()
    yield "json in json", json.dumps(escaped)[1:-1].encode()
    yield "json", escaped.replace("/", "\\/").encode()
    for shift in range(3):
        yield from _base64(plain, shift)
    digits = value.removeprefix("+")
    if digits != value:  # a phone number as somebody types it, and as a number
        yield "national", b"0" + digits[2:].encode()
        yield "digits", digits.encode()


def _base64(plain: bytes, shift: int) -> Iterator[tuple[str, bytes]]:
    """What base64 makes of `plain` that begins `shift` bytes after a group of three, but for what neighbours change."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(b"\0" * shift + plain)
        first = (shift * 8 + 5) // 6
        last = (shift + len(plain)) * 8 // 6
        yield "base64", text[first:last]
