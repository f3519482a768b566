"""The workload of the benchmarks: 560-byte events, 3 tokens, 4 sealed fields, 1 % invalid. Same seed, same bytes.

Customers with 3 devices each, a few of them busy and a long tail; track and identify events in Segment's vocabulary,
keyed by anonymousId. Fictional: example.com, and phone numbers of 10 digits behind +4930 that nobody checks.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

CUSTOMERS, DEVICES = 20_000, 3
BEGIN_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
Raw = tuple[bytes, bytes, list[tuple[str, bytes]]]
"""Key, value, headers."""

_SHOP = [
    (f"SKU-{i:04d}", f"{material} {thing}", round(4.99 + 3.37 * i, 2))
    for i, (material, thing) in enumerate(
        (m, t)
        for m in ("Oak", "Linen", "Steel", "Cotton", "Glass")
        for t in ("Lamp", "Chair", "Kettle", "Shirt", "Vase", "Desk")
    )
]
_NAMES = ("Product Viewed", "Product Added", "Checkout Started", "Order Completed")
_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Safari/604.1",
)
_FIRST = ("Ada", "Ben", "Chloe", "Dario", "Élodie", "Femi", "Greta", "Hana", "Igor", "Zoë")


def events(n: int, seed: int = 7, customers: int = CUSTOMERS, devices: int = DEVICES) -> Iterator[Raw]:
    """Yield `n` events with times that rise by 0 to 39 ms."""
    rng = random.Random(seed)
    people = _people(seed, customers, devices)
    now = BEGIN_MS
    for i in range(n):
        now += rng.randrange(40)
        customer = int(rng.random() ** 1.5 * customers)
        yield _sent(rng, i, customer, rng.choice(people[customer]), now)


def first_pass(customers: int, devices: int, seed: int = 7) -> Iterator[Raw]:
    """Yield one event of each device of each customer, signed in, so that each edge is seen once."""
    rng = random.Random(seed + 1)
    people = _people(seed, customers, devices)
    order = [(c, d) for c in range(customers) for d in range(devices)]
    rng.shuffle(order)
    for i, (customer, device) in enumerate(order):
        anonymous = people[customer][device]
        yield anonymous.encode(), _bytes(_event(rng, i, customer, anonymous, BEGIN_MS - len(order) + i)), []


def live(n: int, seed: int = 7, customers: int = CUSTOMERS, devices: int = DEVICES) -> Iterator[Raw]:
    """Yield `n` valid events that happen when they are asked for."""
    rng = random.Random(seed)
    people = _people(seed, customers, devices)
    for i in range(n):
        customer = int(rng.random() ** 1.5 * customers)
        anonymous = rng.choice(people[customer])
        yield anonymous.encode(), _bytes(_event(rng, i, customer, anonymous, int(time.time() * 1000))), []


def _people(seed: int, customers: int, devices: int) -> list[list[str]]:
    rng = random.Random(seed)
    return [[_uuid(rng) for _ in range(devices)] for _ in range(customers)]


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _event(rng: random.Random, i: int, customer: int, anonymous: str, now: int) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "track",
        "messageId": _uuid(rng),
        "anonymousId": anonymous,
        "userId": f"user-{customer:06d}",
        "timestamp": datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "context": {
            "ip": f"10.{customer >> 8 & 255}.{customer & 255}.{rng.randrange(1, 255)}",
            "locale": "en-GB",
            "userAgent": _AGENTS[i & 1],
            "traits": {"email": f"User.{customer:05d}@Example{customer % 7}.com", "phone": f"+4930{customer:07d}"},
        },
    }
    if rng.random() < 0.15:
        event["type"] = "identify"
        event["traits"] = {
            "firstName": rng.choice(_FIRST),
            "plan": rng.choice(("free", "plus", "pro")),
            "logins": rng.randrange(500),
            "newsletter": rng.random() < 0.4,
            "company": {"name": f"Company {customer % 900}", "employees": rng.randrange(1, 9000)},
        }
        event["context"]["page"] = {"path": "/account/settings", "title": "Your account"}
        return event
    name = _NAMES[min(3, int(rng.expovariate(1.1)))]
    lines: list[dict[str, Any]] = [
        {"productId": sku, "name": title, "price": price, "quantity": rng.randrange(1, 4)}
        for sku, title, price in rng.sample(_SHOP, 2 if name == "Order Completed" else 1)
    ]
    revenue = round(sum(line["price"] * line["quantity"] for line in lines), 2)
    event["event"] = name
    event["properties"] = {"revenue": revenue, "currency": "EUR", "products": lines}
    return event


def _sent(rng: random.Random, i: int, customer: int, anonymous: str, now: int) -> Raw:
    """One event as it is sent: one in ten not signed in, one in a hundred broken in one of four ways."""
    event = _event(rng, i, customer, anonymous, now)
    if rng.random() < 0.10:
        del event["userId"], event["context"]["traits"]["phone"]
    fault = rng.random()
    if fault < 0.0025:
        del event["messageId"]
    elif fault < 0.005:
        del event["timestamp"]
    elif fault < 0.0075:
        event["anonymousId"] = 42
    value = _bytes(event)
    if 0.0075 <= fault < 0.01:
        value = value[: rng.randrange(20, len(value) - 1)]
    return anonymous.encode(), value, []


def _bytes(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
