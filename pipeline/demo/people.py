"""Fictional people: example domains (RFC 2606), numbers and addresses of nobody (Ofcom, NANPA, RFC 5737)."""

from __future__ import annotations

from random import Random
from uuid import UUID

import msgspec

_FIRST = (
    *("Ada", "Amara", "Anouk", "Bilal", "Björn", "Chloé", "Dario", "Élodie", "Femi", "Greta", "Hana", "Igor", "Jürgen"),
    *("Kaito", "Leïla", "Márta", "Nils", "Oona", "Paweł", "Quinn", "Rosa", "Søren", "Tomás", "Ulla", "Yusuf", "Zoë"),
)
_LAST = (
    *("Abara", "Bergström", "Çelik", "Dvořák", "Eskola", "Fontaine", "García", "Holm", "Ivanova", "Jansen", "Kovács"),
    *("López", "Müller", "Nakata", "Okafor", "Petit", "Rossi", "Šimko", "Tanaka", "Varga", "Weiß", "Zieliński"),
)
_DOMAINS = ("example.com", "example.org", "example.net")
_AREAS = ("212", "303", "305", "312", "404", "415", "503", "617", "702", "808")
_CITIES = (("Zürich", "Bahnhofstr."), ("Lyon", "Rue Mercière"), ("Gdańsk", "Długa"), ("Leeds", "Briggate"))
AGENTS = (
    ("web-shop", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("ios-app", "Shop/4.2 (iPhone; iOS 17.5)"),
    ("android-app", "Shop/4.2 (Android 15; FP5)"),
)


class Device(msgspec.Struct, frozen=True):
    """`source`: what its events come through. `ahead_ms`: how far its clock is off."""

    anonymous_id: str
    source: str
    agent: str
    ip: str
    ahead_ms: int


class Person(msgspec.Struct, frozen=True):
    user_id: str
    name: tuple[str, str]
    email: str
    phone: str
    street: str
    city: str
    plan: str
    devices: tuple[Device, ...]

    def __repr__(self) -> str:
        return "Person(…)"


def people(rng: Random, count: int) -> list[Person]:
    """Return `count` people with one to four devices; the first has three, and the next two share one."""
    found: list[Person] = []
    for number in range(count):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        city, street = rng.choice(_CITIES)
        number_of_devices = 3 if number == 0 else rng.choice((1, 1, 2, 2, 2, 3, 4))
        devices = tuple(_device(rng, i if number == 0 else rng.randrange(3)) for i in range(number_of_devices))
        if number == 2:
            devices = (found[1].devices[0], *devices)
        area, last_two = _AREAS[number // 100 % len(_AREAS)], number % 100
        phone = f"+1 ({area}) 555-01{last_two:02d}" if number % 3 else f"+44 20 7946 0{number % 1000:03d}"
        found.append(
            Person(
                user_id=f"c-{10_000 + number}",
                name=(first, last),
                email=f"{first}.{last}.{number}@{rng.choice(_DOMAINS)}",
                phone=phone,
                street=f"{street} {rng.randrange(1, 99)}",
                city=city,
                plan=rng.choice(("free", "plus", "pro")),
                devices=devices,
            )
        )
    return found


def _device(rng: Random, kind: int) -> Device:
    source, agent = AGENTS[kind]
    ahead = rng.choice((-1, 1)) * rng.randrange(1, 48) * 3_600_000 if rng.random() < 0.03 else 0
    network = rng.choice(("192.0.2", "198.51.100", "203.0.113"))
    return Device(uuid(rng), source, agent, f"{network}.{rng.randrange(1, 255)}", ahead)


def uuid(rng: Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
