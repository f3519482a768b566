"""Households with known truth: who did each event, and the ways in which identifiers mislead. Same seed, same events.

People with one or two e-mail addresses, phones, apps and browsers whose cookies get lost; a tablet that a family
shares, a shop's kiosk, a common mailbox; typing errors, some of which hit somebody else's address; phone numbers that
a year later belong to another; second accounts; orders as a guest; sessions before anybody signs in; producers that
send junk. Fictional: example domains, and numbers that nobody has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipeline.demo.people import uuid

DAY = 86_400_000
YEAR = 365 * DAY
BEGIN = 1_704_067_200_000  # 2024-01-01T00:00:00Z
SPAN = 2 * YEAR

SIZES = (1, 1, 1, 2, 2, 3, 4, 5)
SESSIONS = 8  # of a person, on average
SIGNED_IN = 0.6  # of sessions
GUEST = 0.1
TABLET = 0.4  # of households of two and more
ON_TABLET = 0.2  # of their sessions
MAILBOX = 0.08  # of households of two and more
SECOND_ADDRESS = 0.25
SECOND_ACCOUNT = 0.03
PHONE = 0.7
HANDED_ON = 0.03  # of phone numbers
TYPO = 0.02  # of addresses that are typed
TYPO_HITS = 0.1  # of those: somebody else's address
COOKIE_LIFE = 240 * DAY  # on average
JUNK = 0.01  # of events
KIOSKS = (12, 40, 150, 400)
"""Visitors of the kiosks of 2,000 people; each signs in, and leaves."""

_JUNK = (
    ("userId", "null"),
    ("userId", "undefined"),
    ("anonymousId", "00000000-0000-0000-0000-000000000000"),
    ("anonymousId", "anonymous"),
    ("email", "test@test.com"),
)


class Sent(NamedTuple):
    person: int
    """Who did it."""
    time: int
    event: dict[str, Any]


@dataclass(slots=True)
class _Device:
    """A browser has no `device_id`. `cookies`: (from when, anonymous id), rising."""

    device_id: str | None
    advertising_id: str | None
    cookies: list[tuple[int, str]]

    def at(self, time: int) -> str:
        return [cookie for since, cookie in self.cookies if since <= time][-1]


@dataclass(slots=True)
class _Person:
    number: int
    accounts: list[str]
    emails: list[str]
    devices: list[_Device]
    phones: list[tuple[int, int, str]] = field(default_factory=list)  # from, until

    def phone(self, time: int) -> str | None:
        return next((number for since, until, number in self.phones if since <= time < until), None)


@dataclass(slots=True)
class _World:
    rng: random.Random
    people: list[_Person] = field(default_factory=list)
    households: list[tuple[list[_Person], _Device | None]] = field(default_factory=list)

    def number(self) -> str:
        return f"+4930{self.rng.randrange(10**7, 10**8)}"


def events(people: int, seed: int, *, accounts: bool = True) -> list[Sent]:
    """Return what `people` people do in two years, by time; without accounts they leave at most address and phone."""
    world = _World(random.Random(seed))
    _settle(world, people)
    _hand_numbers_on(world)
    found = [sent for person, tablet in _each(world) for sent in _sessions(world, person, tablet)]
    for visitors in KIOSKS:
        found += _kiosk(world, max(1, visitors * people // 2_000))
    if not accounts:
        for sent in found:
            sent.event.pop("userId", None)
    return sorted(found, key=lambda s: s.time)


def _settle(world: _World, people: int) -> None:
    rng = world.rng
    while len(world.people) < people:
        size = min(rng.choice(SIZES), people - len(world.people))
        members = [_person(world, len(world.people) + i) for i in range(size)]
        if size > 1 and rng.random() < MAILBOX:
            mailbox = f"family{len(world.households)}@example.net"
            for member in members[:2]:
                member.emails.append(mailbox)
        tablet = _device(rng, app=True) if size > 1 and rng.random() < TABLET else None
        world.people += members
        world.households.append((members, tablet))


def _person(world: _World, number: int) -> _Person:
    rng = world.rng
    accounts = [f"c-{number:06d}"] + [f"d-{number:06d}"] * (rng.random() < SECOND_ACCOUNT)
    emails = [f"p{number:05d}@example.com"] + [f"work.{number:05d}@example.org"] * (rng.random() < SECOND_ADDRESS)
    devices = [_device(rng, app=rng.random() < 0.5) for _ in range(rng.choice((1, 2, 2, 3)))]
    person = _Person(number, accounts, emails, devices)
    if rng.random() < PHONE:
        person.phones.append((BEGIN, BEGIN + SPAN, world.number()))
    return person


def _device(rng: random.Random, *, app: bool) -> _Device:
    cookies = [(BEGIN, uuid(rng))]
    while not app and (since := cookies[-1][0] + round(rng.expovariate(1 / COOKIE_LIFE))) < BEGIN + SPAN:
        cookies.append((since, uuid(rng)))
    return _Device(uuid(rng) if app else None, uuid(rng) if app and rng.random() < 0.5 else None, cookies)


def _hand_numbers_on(world: _World) -> None:
    """A number given up in the first year is somebody else's a year later; its former owner has another one."""
    rng = world.rng
    for person in [p for p in world.people if p.phones]:
        if rng.random() < HANDED_ON:
            _, _, number = person.phones[0]
            given_up = BEGIN + rng.randrange(YEAR // 5, YEAR * 4 // 5)
            person.phones = [(BEGIN, given_up, number), (given_up, BEGIN + SPAN, world.number())]
            heir = rng.choice(world.people)
            heir.phones = [(a, min(b, given_up + YEAR), n) for a, b, n in heir.phones if a < given_up + YEAR]
            heir.phones.append((given_up + YEAR, BEGIN + SPAN, number))


def _each(world: _World) -> Iterator[tuple[_Person, _Device | None]]:
    for members, tablet in world.households:
        for person in members:
            yield person, tablet


def _sessions(world: _World, person: _Person, tablet: _Device | None) -> Iterator[Sent]:
    rng = world.rng
    for _ in range(1 + round(rng.expovariate(1 / (SESSIONS - 1)))):
        device = tablet if tablet is not None and rng.random() < ON_TABLET else rng.choice(person.devices)
        at = BEGIN + rng.randrange(SPAN)
        yield from _session(world, person, device, at)


def _session(world: _World, person: _Person, device: _Device, at: int) -> Iterator[Sent]:
    """Looks around, then perhaps signs in, or orders as a guest."""
    rng = world.rng
    for _ in range(rng.randrange(1, 4)):
        at += rng.randrange(1_000, 60_000)
        yield _sent(rng, person, device, at)
    if rng.random() < SIGNED_IN:
        account = rng.choice(person.accounts)
        traits: dict[str, Any] = {"email": _typed(world, person)} if rng.random() < 0.5 else {}
        phone = person.phone(at)
        if phone and rng.random() < 0.4:
            traits["phone"] = phone
        yield _sent(rng, person, device, at + 1_000, {"type": "identify", "userId": account, "traits": traits})
        for _ in range(rng.randrange(1, 4)):
            at += rng.randrange(2_000, 60_000)
            yield _sent(rng, person, device, at, {"userId": account})
    elif rng.random() < GUEST / (1 - SIGNED_IN):
        yield _sent(rng, person, device, at + 1_000, {"context": {"traits": {"email": _typed(world, person)}}})


def _typed(world: _World, person: _Person) -> str:
    rng = world.rng
    address = rng.choice(person.emails)
    if rng.random() >= TYPO:
        return address
    if rng.random() < TYPO_HITS:
        return rng.choice(rng.choice(world.people).emails)
    at = rng.randrange(1, address.index("@"))
    return address[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + address[at:]


def _kiosk(world: _World, visitors: int) -> Iterator[Sent]:
    """Visitors one after the other: each looks around, and most sign in."""
    rng = world.rng
    kiosk = _device(rng, app=True)
    for person in rng.sample(world.people, min(visitors, len(world.people))):
        yield from _session(world, person, kiosk, BEGIN + rng.randrange(SPAN))


def _sent(rng: random.Random, person: _Person, device: _Device, at: int, more: dict[str, Any] | None = None) -> Sent:
    more = more or {}
    context: dict[str, Any] = {**more.get("context", {})}
    if device.device_id is not None:
        context["device"] = {"id": device.device_id}
        if device.advertising_id is not None:
            context["device"]["advertisingId"] = device.advertising_id
    event: dict[str, Any] = {"type": "track", "messageId": uuid(rng), "anonymousId": device.at(at), **more}
    event |= {"timestamp": datetime.fromtimestamp(at / 1_000, UTC).isoformat(), "context": context}
    if event["type"] == "track":
        event["event"] = "Something Done"
    if rng.random() < JUNK:
        name, value = rng.choice(_JUNK)
        if name == "email":
            context.setdefault("traits", {})["email"] = value
        else:
            event[name] = value
    return Sent(person.number, at, event)
