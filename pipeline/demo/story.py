"""Three simulated hours of a shop: what its customers' devices and its help desk send, as it arrives.

Everything is steady but two things, which the watch leg must find: near the end `android-app` sends one event at
twenty times its rate (`WILD`), and `help-desk` falls silent (`SILENT`). One in a hundred events is broken, some device
clocks are hours off, some events are Avro. Same arguments, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from .people import AGENTS, Device, Person, people, uuid

SPAN_MS = 180 * 60_000
WILD, WILD_EVENT = "android-app", "Product Viewed"
WILD_FROM_MS, WILD_TO_MS = 14 * 60_000, 2 * 60_000
"""Before the end."""
WILD_TIMES = 20
SILENT, SILENT_FROM_MS = "help-desk", 25 * 60_000
INVALID = 0.01
AVRO = 0.02
_SHARES = {"web-shop": 0.34, "ios-app": 0.26, WILD: 0.12, SILENT: 0.12, "billing": 0.08, "mail": 0.08}
_GOODS = [
    (f"SKU-{i:03d}", f"{material} {thing}", round(9.5 + 3.25 * i, 2))
    for i, (material, thing) in enumerate(
        (m, t) for m in ("Oak", "Linen", "Steel", "Glass") for t in ("Lamp", "Chair", "Kettle", "Vase", "Desk")
    )
]
AvroEncoder = Callable[[str, dict[str, Any]], bytes]
"""(schema name, event) → Avro single-object encoding."""


class DemoEvent(msgspec.Struct, frozen=True):
    """A raw record to be produced; `timestamp_ms` is when the broker would have got it."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    def __repr__(self) -> str:
        return f"DemoEvent({self.timestamp_ms})"


def heroine(seed: int, customers: int) -> Person:
    """Return the customer whom the demo follows: she signs in on three devices."""
    return people(Random(seed), customers)[0]


def events(seed: int, count: int, customers: int, end_ms: int, avro: AvroEncoder | None = None) -> Iterator[DemoEvent]:
    """Yield exactly `count` events of `customers` people, by arrival, over the three hours before `end_ms`."""
    everybody = people(Random(seed), customers)
    rng = Random(seed + 1)
    known: set[str] = set()
    times = _times(rng, count)
    for i, (at, source, wild) in enumerate(times):
        person = everybody[0] if i % 97 == 5 else rng.choice(everybody)
        device = _device_for(rng, person, source)
        now = end_ms - SPAN_MS + at
        event = _wild(rng, device) if wild else _next(rng, person, device, source, known)
        _envelope(rng, event, person, device, source, now)
        yield DemoEvent(
            device.anonymous_id.encode(),
            _value(rng, event, avro),
            (("source-id", source.encode()),),
            now,
        )


def _times(rng: Random, count: int) -> list[tuple[int, str, bool]]:
    """Return (ms from the beginning, source, wild?) in order: a constant rate per source but for the two faults."""
    rates: list[tuple[str, int, int, float, bool]] = []
    for source, share in _SHARES.items():
        rates.append((source, 0, SPAN_MS - (SILENT_FROM_MS if source == SILENT else 0), share, False))
    rates.append((WILD, SPAN_MS - WILD_FROM_MS, SPAN_MS - WILD_TO_MS, _SHARES[WILD] * (WILD_TIMES - 1), True))
    weights = [(end - begin) * share for _, begin, end, share, _ in rates]
    found = []
    left, rest = count, sum(weights)
    for (source, begin, end, _, wild), weight in zip(rates, weights, strict=True):
        n = left if weight == rest else round(left * weight / rest)
        left, rest = left - n, rest - weight
        # one in each of n equal slots: steadier than chance, as a crowd of people is
        slot = (end - begin) / n if n else 0
        found += [(begin + int((i + rng.random()) * slot), source, wild) for i in range(n)]
    return sorted(found)


def _device_for(rng: Random, person: Person, source: str) -> Device:
    fitting = [d for d in person.devices if d.source == source]
    return rng.choice(fitting or person.devices)


def _next(rng: Random, person: Person, device: Device, source: str, known: set[str]) -> dict[str, Any]:
    """Return what somebody does next. `known`: on which devices who has signed in."""
    if source == SILENT:
        return _track(
            "Support Ticket Opened",
            ticket_id=uuid(rng)[:8],
            channel=rng.choice(("mail", "chat")),
            category=rng.choice(("delivery", "billing", "returns")),
            subject=f"Question of {person.name[0]}",
        )
    if source == "billing":
        if rng.random() < 0.5:
            return _track("Payment Method Added", method="card", brand="visa", last4=f"{rng.randrange(10_000):04d}")
        if rng.random() < 0.3:
            return _track("Subscription Cancelled", plan=person.plan, reason="price", months=rng.randrange(1, 40))
        return {"type": "group", "groupId": f"plan-{person.plan}", "traits": {"plan": person.plan}}
    if source == "mail":
        if rng.random() < 0.6:
            return _track("Email Unsubscribed", list_name="News", reason=rng.choice(("too_many", "not_mine")))
        return _track("Newsletter Opened", campaign=f"c-{rng.randrange(12)}")
    sign_in = f"{person.user_id} {device.anonymous_id}"
    if sign_in not in known and rng.random() < 0.35:
        known.add(sign_in)
        return {
            "type": "identify",
            "traits": {
                "email": person.email.upper() if rng.random() < 0.1 else person.email,
                "phone": person.phone,
                "firstName": person.name[0],
                "lastName": person.name[1],
                "address": {"street": person.street, "city": person.city},
                "plan": person.plan,
                "newsletter": rng.random() < 0.5,
            },
        }
    return _browse(rng, person, device, signed_in=sign_in in known)


def _browse(rng: Random, person: Person, device: Device, *, signed_in: bool) -> dict[str, Any]:
    dice = rng.random()
    sku, title, price = rng.choice(_GOODS)
    if dice < 0.30:
        return _wild(rng, device)
    if dice < 0.45 and device.source == "web-shop":
        path = f"/shop/{sku.lower()}"
        return {"type": "page", "name": "Product", "properties": {"path": path, "url": f"https://shop.example{path}"}}
    if dice < 0.45:
        return {"type": "screen", "name": "Product", "properties": {"name": title}}
    if dice < 0.55:
        return _track("Checkout Started", currency="EUR", value=price)
    if dice < 0.57:
        return _track("Login Failed", method="password", reason="bad_password", attempt=rng.randrange(1, 4))
    if not signed_in or dice < 0.70:
        return _track("Wishlist Shared", sku=sku, with_name=rng.choice(("a friend", "family")))
    if dice < 0.90:
        line = {"product_id": sku, "name": title, "price": price, "quantity": rng.randrange(1, 4)}
        total = round(price * line["quantity"], 2)  # type: ignore[operator]
        return _track("Order Completed", order_id=uuid(rng)[:8], total=total, currency="EUR", products=[line])
    if dice < 0.98:
        return _track("Login Succeeded", method=rng.choice(("password", "passkey")), new_device=False)
    if dice < 0.99:
        return _track("Password Changed", method="settings", forced=False)
    return {"type": "alias", "previousId": device.anonymous_id}


def _wild(rng: Random, device: Device) -> dict[str, Any]:
    sku, title, price = rng.choice(_GOODS)
    return _track(WILD_EVENT, product_id=sku, name=title, price=price, currency="EUR", position=rng.randrange(20))


def _track(name: str, /, **properties: Any) -> dict[str, Any]:
    return {"type": "track", "event": name, "properties": properties}


def _envelope(rng: Random, event: dict[str, Any], person: Person, device: Device, source: str, now: int) -> None:
    """Add who, where and when. Who has not signed in (or not yet) is known by the device alone."""
    server = source not in {name for name, _ in AGENTS}
    delay = rng.randrange(5, 900)
    known = server or event["type"] in ("identify", "alias") or rng.random() < 0.45
    event["messageId"] = uuid(rng)
    event["timestamp"] = _iso(now - delay + device.ahead_ms - rng.randrange(3_000))
    event["sentAt"] = _iso(now - delay + device.ahead_ms)
    if known:
        event["userId"] = person.user_id
    if server:
        event["context"] = {"library": {"name": source, "version": "1.8.0"}}
        return
    event["anonymousId"] = device.anonymous_id
    event["context"] = {
        "ip": device.ip,
        "userAgent": device.agent,
        "locale": "en-GB",
        "library": {"name": device.source, "version": "4.2.0"},
    }


def _value(rng: Random, event: dict[str, Any], avro: AvroEncoder | None) -> bytes:
    fault = rng.random()
    if fault < INVALID:
        return _broken(rng, event)
    if fault < INVALID + AVRO and avro is not None and event.get("event") == WILD_EVENT:
        return avro("product_viewed", event)
    return _json(event)


def _broken(rng: Random, event: dict[str, Any]) -> bytes:
    """Return the event as a producer's mistake would have it."""
    mistake = rng.randrange(9)
    if mistake == 0:
        return _json(event)[: rng.randrange(20, 60)]
    if mistake == 1:
        return b""
    if mistake == 2:
        return _json([event])
    if mistake == 3:
        return _json(event).replace(b'"type"', b'"typ\xff"', 1)
    if mistake == 4:
        del event["messageId"]
    elif mistake == 5:
        event["anonymousId"] = 42
    elif mistake == 6:
        event["timestamp"] = "yesterday"
    elif mistake == 7:
        event["type"] = "purchase"
    else:
        for name in ("userId", "anonymousId", "groupId", "previousId", "traits"):
            event.pop(name, None)
        event.update(type="track", event="Wishlist Shared")
    return _json(event)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
