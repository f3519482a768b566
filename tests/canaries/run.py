"""People's events through a whole installation of its own, sealed and signed and then in clear, and a search of what it
leaves. The secret by which they are signed is searched for, too.

Kafka's files (records uncompressed), workers' and server's state, the database of profiles, logs, metrics, and the
arguments and environment of every process.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.adapters.brokers.local import LocalBroker
from pipeline.adapters.brokers.process import free_ports
from pipeline.adapters.topics import apply, specs
from pipeline.client import Producer
from pipeline.demo.story import DemoEvent
from pipeline.events import Topic
from tests.canaries.scan import Hit, Scanner
from tests.canaries.values import Person, people, values
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import ending, wait_for

PREFIX, SIGNS, SOURCE, PARTITIONS = "canaries.", "app", "shop", 4
EVENTS = 5
"""Of each person; the last two are rejected."""


SMALL = {"log.index.size.max.bytes": str(1 << 16)}
"""Kafka reserves 10 MiB of nothing for each of its indexes, of which there are hundreds."""


class Result(msgspec.Struct, frozen=True):
    values: int
    events: int
    profiles: int
    rejected: int
    scanned_bytes: int
    sealed: list[Hit]
    """Where a value of the sealed events stands: nowhere, if all is well."""
    clear_raw: int
    """How many values of the events in clear stand in the files of `events.raw`: all, or the search is blind."""
    clear_elsewhere: list[Hit]

    @property
    def ok(self) -> bool:
        return not self.sealed and not self.clear_elsewhere and self.clear_raw == self.values


def run(directory: Path, seed: int, count: int, say: Callable[[str], None]) -> Result:
    """`count`: people, each with one value of every kind; as many again in clear. `directory` is empty."""
    sealed, clear = people(seed, count), people(seed + 1, count)
    port, serve_port = free_ports(2)
    with LocalBroker.started(SMALL, say) as broker:
        apply(broker.bootstrap, {}, specs(PARTITIONS, 1, prefix=PREFIX))
        env = {"SEALSTREAM_LOG_LEVEL": "debug", "SEALSTREAM_SERVE": f"127.0.0.1:{serve_port}"}
        pipeline = Pipeline(broker.bootstrap, PREFIX, directory, **env)
        told = pipeline.command("keys", "public", "--json")
        assert told.returncode == 0, told.stderr.decode()
        registered = pipeline.command("sources", "add", SIGNS)
        assert registered.returncode == 0, registered.stderr.decode()
        secret = registered.stdout.decode().strip()
        worker = pipeline.worker(SEALSTREAM_HTTP=f"127.0.0.1:{port}")
        server = pipeline.launch(["-m", "pipeline", "serve"], state="serve")
        pages: dict[str, bytes] = {}

        def look(persons: Sequence[Person]) -> tuple[set[Hit], int]:
            scanner = Scanner({**values(list(persons)), secret[13:77]: ("the source's secret", 0)})
            hits, size = scanner.files(broker.directory, directory)
            for name, text in [*pages.items(), *_processes()]:
                hits |= scanner.scan(name, [text])
                size += len(text)
            return hits, size

        with ending(worker), ending(server):
            say(f"{count} people with sealed events")
            config = {"bootstrap.servers": broker.bootstrap, "linger.ms": 20}
            topic = PREFIX + Topic.RAW
            with Producer(config, source=SIGNS, keys=told.stdout, secret=secret, topic=topic) as producer:
                for n, person in enumerate(sealed):
                    for event in _events(n, person):
                        producer.send(event, key=person.email)
            pipeline.wait()
            profiles = len(pipeline.profiles())
            wait_for(lambda: _read(serve_port) >= profiles, 60, "the database has every profile")
            for name, at in (("worker", port), ("serve", serve_port)):
                pages[f"{name}: /metrics"] = _page(at, "metrics")
            rejected = len(pipeline.read(Topic.REJECTED))
            say("searching")
            found, size = look(sealed)
            say(f"{count} people with events in clear")
            pipeline.produce(_in_clear(n, person) for n, person in enumerate(clear))
            pipeline.wait()
            pages["worker: /metrics"] = _page(port, "metrics")
            in_clear, _ = look(clear)
    raw = {hit for hit in in_clear if f"/{topic}-" in hit.place}
    return Result(
        len(values(sealed)),
        EVENTS * count,
        profiles,
        rejected,
        size,
        sorted(found),
        len({(hit.kind, hit.number) for hit in raw}),
        sorted(in_clear - raw),
    )


def _events(n: int, person: Person) -> Iterator[dict[str, Any]]:
    """As a browser, a shop and a careless program would send them."""
    who = {"userId": person.email, "anonymousId": person.card}
    traits = {"email": person.email, "phone": person.phone, "name": person.name}
    yield {
        **who,
        "type": "identify",
        "messageId": f"i-{n}",
        "traits": {**traits, "address": {"street": person.address}, "card": person.card},
    }
    yield {
        **who,
        "type": "track",
        "event": "Order Completed",
        "messageId": f"t-{n}",
        "properties": {"order_id": f"o-{n}", "total": 12.5, "note": f"{person.name}, {person.address}, {person.card}"},
        "context": {"ip": person.phone, "userAgent": person.name, "traits": traits},
    }
    yield {
        "type": "page",
        "messageId": f"p-{n}",
        "anonymousId": person.card,
        "properties": {"url": f"https://shop.example/?mail={person.email}", "title": person.name},
    }
    yield {**who, "type": person.name, "messageId": f"x-{n}", person.email: person.phone, "address": person.address}
    yield {**who, "type": "identify", "messageId": person.card, "traits": [person.name, person.phone, person.address]}


def _in_clear(n: int, person: Person) -> DemoEvent:
    event, *_ = _events(n, person)
    return DemoEvent(b"", json.dumps(event).encode(), (("source-id", SOURCE.encode()),), int(time.time() * 1000))


def _page(port: int, name: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
        return bytes(answer.read())


def _read(port: int) -> int:
    """How many records the server has put into its database."""
    try:
        lines = _page(port, "metrics").decode().splitlines()
    except OSError:
        return -1
    name = 'sealstream_events_total{leg="serve",outcome="read"} '
    return next((int(float(line.removeprefix(name))) for line in lines if line.startswith(name)), 0)


def _processes() -> Iterator[tuple[str, bytes]]:
    """Arguments and environment of this process and all that it has started, directly or not."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # has ended
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    for pid in sorted(mine):
        for name in ("cmdline", "environ"):
            try:
                yield f"process {pid}: {name}", Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
