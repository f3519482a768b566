"""The normal form of an identifier, by its kind: equal people, equal forms, whatever their producers' habits.

In: a value as it was sent. Out: its normal form, or None if it has none ("unusable": no token is made of it).
Nothing is guessed: a phone number without its country has none, since the country is not known here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

import phonenumbers

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
MAX_CHARS = 1024
"""A longer identifier is none: the rest of what it may be is not an identifier either."""

Normalize = Callable[[str], str | None]


def opaque(value: str) -> str | None:
    """Ids that somebody gave out: NFC, outer white space cut, case kept; a UUID in lower case."""
    found = unicodedata.normalize("NFC", value).strip()
    return (found.lower() if _UUID.match(found) else found) or None


def email(value: str) -> str | None:
    """NFKC and case folded on both sides of the @; dots and tags kept, since they matter to some hosts.

    Only what cannot be an address at all is refused: not one @, an empty side, white space or controls inside.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value.strip()).casefold())
    local, at, domain = folded.rpartition("@")
    if not at or not local or not domain or "@" in local or not folded.isprintable() or " " in folded:
        return None
    return f"{local}@{domain.rstrip('.')}" if domain.rstrip(".") else None


def phone(value: str) -> str | None:
    """E.164 by `phonenumbers`; needs the country: `+…`, or the international prefix 00."""
    text = unicodedata.normalize("NFKC", value).strip()
    if text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def advertising(value: str) -> str | None:
    """IDFA and GAID are UUIDs in different cases; all zeros is what a device says that wants no advertising."""
    found = opaque(value)
    return None if found is None or not found.strip("0-") else found.lower()


KINDS: Mapping[str, Normalize] = {
    "user_id": opaque,
    "email": email,
    "phone": phone,
    "external_id": opaque,
    "advertising_id": advertising,
    "device_id": opaque,
    "push_token": opaque,
    "anonymous_id": opaque,
    "group_id": opaque,
}
"""Identifier kinds, strongest first: an event's anchor is its first identifier in this order."""


def normal(kind: str, value: str) -> str | None:
    """Return the normal form of `value` as an identifier of `kind`, or None."""
    if len(value) > MAX_CHARS:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return KINDS[kind](value)
