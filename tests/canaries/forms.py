"""The ways in which something may write a value down."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_ESCAPED = re.compile(r"(?<=%)[0-9A-F]{2}|(?<=\\u)[0-9a-f]{4}")


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """Each way of writing a text: its name, and the bytes to look for. Without the breaks of lines in long ones.

    No value has a slash, which some of them write as it is and some do not.
    """
    plain = value.encode()
    yield "plain", plain
    yield "lower case", value.lower().encode()
    yield "upper case", value.upper().encode()
    for encoding in WIDE:
        yield encoding, value.encode(encoding)
    yield from _hex(plain)
    for name, text in (("url", quote(value)), ("form", quote_plus(value))):
        for cased in (text, _ESCAPED.sub(lambda found: found[0].lower(), text)):
            yield name, cased.encode()
            yield name, cased.replace("%", "%25").encode()
    escaped = json.dumps(value)[1:-1]
    yield "json", escaped.encode()
    yield "json", _ESCAPED.sub(lambda found: found[0].upper(), escaped).encode()
    yield "json in json", json.dumps(escaped)[1:-1].encode()
    yield from _base64("base64", plain)
    yield from _base64("base64 of json", escaped.encode())
    for encoding in WIDE[:2]:
        yield from _base64(f"base64 of {encoding}", value.encode(encoding))
    digits = value.removeprefix("+")
    if digits != value:  # a phone number as somebody types it, and as a number
        yield "national", b"0" + digits[2:].encode()
        yield "digits", digits.encode()


def forms_of_bytes(value: bytes) -> Iterator[tuple[str, bytes]]:
    """The same for what is no text."""
    yield "plain", value
    yield from _hex(value)
    yield from _base64("base64", value)


def _hex(plain: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", plain.hex().encode()
    yield "HEX", plain.hex().upper().encode()


def _base64(name: str, plain: bytes) -> Iterator[tuple[str, bytes]]:
    """What base64 makes of `plain` wherever it begins in a group of three, but for what neighbours change."""
    for shift in range(3):
        first = (shift * 8 + 5) // 6
        last = (shift + len(plain)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield name, encode(b"\0" * shift + plain)[first:last]
