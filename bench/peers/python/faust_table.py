"""Peer: a plain keyed fold of `events.protected` in a Faust table, by its guide: in memory, with a changelog.

The fold of `bench.Identify` in Java: a profile per anchor token, no identity.
"""

from __future__ import annotations

import sys

import faust
from leg import BOOTSTRAP, GROUP, IN

app = faust.App(
    GROUP,
    broker=f"kafka://{BOOTSTRAP}",
    store="memory://",
    topic_disable_leader=True,
    topic_replication_factor=1,
    topic_partitions=4,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
)
source = app.topic(IN, key_type=str, value_type=dict, key_serializer="raw", value_serializer="json")
profiles = app.Table("profiles", default=dict, partitions=4)


@app.agent(source)
async def identify(stream):
    async for key, event in stream.items():
        profile = profiles[key]
        kind, clear = event["type"], event.get("clear") or {}
        profile["events"] = profile.get("events", 0) + 1
        profile[kind] = profile.get(kind, 0) + 1
        revenue = (clear.get("properties") or {}).get("revenue")
        if revenue is not None:
            profile["revenue"] = profile.get("revenue", 0.0) + revenue
        profile["lastSeen"] = event["time"]
        profile.setdefault("firstSeen", event["time"])
        if traits := clear.get("traits"):
            profile.setdefault("traits", {}).update(traits)
        profiles[key] = profile


if __name__ == "__main__":
    sys.argv = ["peer", "worker", "-l", "warn", "--without-web"]
    app.main()
