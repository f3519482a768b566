"""The way not taken, to be measured beside `sealstream serve`: profiles asked of whoever owns the token's partition.

A process with half of the customers in the identify leg's own tables, on the event loop that also folds events, as it
is in a worker. It answers GET /{token}; what belongs to the other half it asks the other process for. To its favour: no
engine, no Kafka, no changelogs are at work, and a cluster's root is always where its tokens are, so that there is one
hop at the most.

    python -m bench.serve_owner HALF PORT OTHER_PORT CUSTOMERS RATE

RATE 0: events without a pause, as after a rebalance.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import ClientSession, web

from pipeline.adapters.memory_table import MemoryTable
from pipeline.events import Origin, ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.identify import IdentifyLeg
from pipeline.stages.compose import profile
from pipeline.stages.identity_rows import profile_id, unpack
from pipeline.stages.link import load_rules

BATCH = 4_000
"""Records of one fetch (`SEALSTREAM_MAX_BATCH_RECORDS`)."""
PACE = 0.005
RULES = Path(__file__).parents[1] / "schemas" / "identity.toml"


def token(kind: str, customer: int) -> str:
    return f"{kind}.1.{customer * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"


def half_of(asked: str) -> int:
    """Of a customer's tokens of either kind the same."""
    return int(asked[-1], 16) % 2


class Owner:
    def __init__(self, half: int, other: str) -> None:
        self._rules = load_rules(RULES.read_text())
        self._leg: Any = IdentifyLeg(self._rules).open(0, {t: MemoryTable() for t in IdentifyLeg.tables})
        self._half, self._other = half, other
        self._offset = 0
        self.session: ClientSession

    def fold(self, customers: list[int]) -> None:
        """One event of each, and everything that it causes."""
        records = []
        for customer in customers:
            self._offset += 1
            anchor = token("user_id", customer)
            event = ProtectedEvent(
                f"{self._offset:032x}",
                Origin(Topic.RAW, "", self._half, self._offset),
                "web",
                "track/1",
                "track",
                self._offset,
                self._offset,
                str(self._offset),
                anchor,
                "Product Viewed",
                {"userId": anchor, "anonymousId": token("anonymous_id", customer)},
                {"context": {"locale": "en-GB"}},
            )
            records.append(RawRecord(self._offset, self._offset, anchor.encode(), msgspec.json.encode(event)))
        batch = SourceBatch(Topic.PROTECTED, "", 0, records)
        while batch.records:
            self._leg.on_batch(batch)
            sent = self._leg.drain().phases[1][Topic.IDENTITY.value]
            messages = [RawRecord(i, out.timestamp, out.key, out.value) for i, out in enumerate(sent)]
            batch = SourceBatch(Topic.IDENTITY, "", 0, messages)

    async def answer(self, request: web.Request) -> web.Response:
        asked = request.match_info["token"]
        if half_of(asked) != self._half:
            async with self.session.get(f"{self._other}/{asked}") as response:
                return web.Response(body=await response.read(), status=response.status)
        resolver = self._leg._resolver
        row = resolver.row(asked)
        root = unpack(row.parent) if row.parent else asked
        row, cluster = resolver.row(root), resolver._cluster(root)
        part = (cluster.parts or resolver._divide(root, row, cluster))[asked]
        facts = resolver._facts(part, row.facts if part.has_root else None, cluster)
        if facts is None:
            return web.Response(status=404)
        ident = part.ident or profile_id(facts, facts.births[-1])
        return web.Response(body=profile(ident, part.said, facts, resolver._written(part, row), self._rules))


async def main(half: int, port: int, other: int, count: int, rate: int) -> None:
    owner = Owner(half, f"http://127.0.0.1:{other}")
    mine = [c for c in range(count) if half_of(token("user_id", c)) == half]
    for i in range(0, len(mine), BATCH):
        owner.fold(mine[i : i + BATCH])
    app = web.Application()
    app.router.add_get("/{token}", owner.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with ClientSession() as owner.session:
        started, done = time.monotonic(), 0
        while True:
            due = BATCH if rate == 0 else int((time.monotonic() - started) * rate / 2) - done
            if due:
                owner.fold([mine[(done + i) * 7_919 % len(mine)] for i in range(due)])
                done += due
            await asyncio.sleep(PACE if rate else 0)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
