"""What profiles take of a worker's memory, and how long two large clusters need to become one. Without a broker.

    python -m bench.profiles (memory PROFILES | merges IDENTIFIERS)

prints one JSON object: a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
from msgspec import structs

from bench.costs import own_peak_rss_bytes
from bench.folding import Folding, Keyed
from bench.measure import rss_bytes
from bench.verify import BATCH, BEGIN_MS, PARTITIONS, rules, token
from pipeline.events import EventIds, Origin, ProtectedEvent, Topic
from pipeline.stages.link import Limits, Rules

DEVICES = 3
IDENTIFIERS = DEVICES + 2
"""Of a profile: its user id, its e-mail address, its devices."""
WIDE = 100_000
_IDS = EventIds(Topic.RAW, "", 0)


def event(offset: int, user: int, device: int, email: int | None = None) -> Keyed:
    """As the protect leg gives it: `user` on `device`."""
    anchor = token("user_id", user)
    tokens = {"userId": anchor, "anonymousId": token("anonymous_id", device)}
    if email is not None:
        tokens["context.traits.email"] = token("email", email)
    clear = {"context": {"locale": "en-GB"}, "properties": {"revenue": 9.5, "currency": "EUR"}}
    made = ProtectedEvent(
        _IDS.of(offset).hex(),
        Origin(Topic.RAW, "", 0, offset),
        "web-shop",
        "track/1",
        "track",
        BEGIN_MS + offset,
        BEGIN_MS + offset,
        f"m-{offset}",
        anchor,
        ("Product Viewed", "Order Completed")[offset % 2],
        tokens,
        clear,
    )
    return anchor.encode(), msgspec.json.encode(made)


def first_pass(profiles: int) -> Iterator[Keyed]:
    """Yield each device of each profile once, and no profile's next one before all others' first."""
    for device in range(DEVICES):
        for n in range(profiles):
            yield event(device * profiles + n, n, n * DEVICES + device, email=n)


def memory(profiles: int) -> dict[str, float]:
    """What the tables hold after the first pass, and what they and the caches have taken of this process's memory."""
    before = _rss()
    world = Folding(rules(), PARTITIONS, BEGIN_MS)
    events = first_pass(profiles)
    while batch := list(islice(events, BATCH)):
        world.take(batch)
    grown = _rss() - before
    tables = [table for by_name in world.tables for table in by_name.values()]
    return {
        "rows": sum(map(len, tables)),
        "row_bytes": sum(len(key) + len(value) for table in tables for key, value in table.items()),
        "rss_bytes": grown,
        "rss_bytes_each_profile": round(grown / profiles),
        "rss_bytes_each_identifier": round(grown / (profiles * IDENTIFIERS)),
        "peak_rss_bytes": own_peak_rss_bytes(),
        "cpu_seconds": round(world.cpu_seconds, 1),
    }


def merges(identifiers: int, rounds: int = 5) -> dict[str, float]:
    """CPU ms of the leg, from the event that joins two clusters of so many identifiers to the last message it causes.

    With rules that let them become one profile, and with ours, by which they hang together as several.
    """
    ours = rules()
    return {"one_profile": _merge(wide(ours), identifiers, rounds), "our_rules": _merge(ours, identifiers, rounds)}


def wide(given: Rules) -> Rules:
    """Without any limit that would bind."""
    kinds = {name: structs.replace(kind, limit=0) for name, kind in given.kinds.items()}
    return structs.replace(given, kinds=kinds, limits=Limits(cluster_tokens=WIDE, component_tokens=WIDE))


def _merge(by: Rules, identifiers: int, rounds: int) -> float:
    took = []
    for _ in range(rounds):
        world = clusters(by, identifiers)
        gc.collect()
        before = world.cpu_seconds
        world.take([joining(identifiers)])
        took.append((world.cpu_seconds - before) * 1000)
    return round(statistics.median(took), 1)


def clusters(by: Rules, identifiers: int) -> Folding:
    """Two users with one device less than so many identifiers each."""
    world = Folding(by, PARTITIONS, BEGIN_MS)
    devices = identifiers - 1
    world.take(event(n, n // devices, n) for n in range(2 * devices))
    return world


def joining(identifiers: int) -> Keyed:
    """The first user on the second one's first device."""
    devices = identifiers - 1
    return event(2 * devices, 0, devices)


def _rss() -> int:
    gc.collect()
    return rss_bytes(os.getpid())


if __name__ == "__main__":
    gc.set_threshold(400_000, 20, 100)  # as in a worker
    measure: dict[str, Callable[[int], dict[str, float]]] = {"memory": memory, "merges": merges}
    print(json.dumps(measure[sys.argv[1]](int(sys.argv[2]))))
