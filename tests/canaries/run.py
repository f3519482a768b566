"""People's events through a whole installation of its own, sealed and signed and then in clear, and a search of what it
leaves. The secret by which they are signed is searched for, too.

Kafka's files (records uncompressed), workers' and server's state, temporary files and working directory, the database
of profiles, logs, metrics, and the arguments and environment of every process.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
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
RAW = PREFIX + Topic.RAW
EVENTS, REJECTED = 5, 2
"""Of each person; the last two are rejected."""
SHOWN = {
    "events.protected": f"/{PREFIX}{Topic.PROTECTED}-",
    "profiles": f"/{PREFIX}{Topic.PROFILES}-",
    "database": "/serve/profiles.db",
}
"""Where what a schema has in clear must be found, or the search is blind there: its name, and what the path has."""
SECRET = "the source's secret"

BROKER = {"log.index.size.max.bytes": str(1 << 16), "compression.type": "uncompressed"}
"""Kafka reserves 10 MiB of nothing for each of its indexes, of which there are hundreds. What is compressed cannot be
searched."""
_ROOT = Path(__file__).parents[2]


class Found(msgspec.Struct, frozen=True):
    """What came of some people's events, and where their values stand."""

    profiles: int
    rejected: int
    raw: int
    """How many of their values stand in the files of `events.raw`."""
    elsewhere: list[Hit]
    shown: dict[str, int]
    """Of `SHOWN`: how many of the values that may be seen stand there."""


class Result(msgspec.Struct, frozen=True):
    people: int
    values: int
    scanned_bytes: int
    sealed: Found
    clear: Found
    """Of people who came after those of `sealed`, whose profiles and rejects are counted once more."""

    @property
    def ok(self) -> bool:
        """In clear all values stand in `events.raw`, or the search is blind; nowhere else, and sealed nowhere."""
        return all(
            (found.profiles, found.rejected) == (times * self.people, times * REJECTED * self.people)
            and found.shown == dict.fromkeys(SHOWN, self.people)
            and (found.raw, found.elsewhere) == (raw, [])
            for times, found, raw in ((1, self.sealed, 0), (2, self.clear, self.values))
        )


def run(directory: Path, seed: int, count: int, say: Callable[[str], None]) -> Result:
    """`count`: people, each with one value of every kind; as many again in clear. `directory` is empty.

    What is searched does not go by settings of this process: they are removed from its environment.
    """
    for name in [name for name in os.environ if name.startswith("SEALSTREAM_")]:
        del os.environ[name]
    sealed, clear = people(seed, count), people(seed + 1, count)
    port, serve_port = free_ports(2)
    with LocalBroker.started(BROKER, say) as broker:
        apply(broker.bootstrap, {}, specs(PARTITIONS, 1, prefix=PREFIX))
        pipeline = _pipeline(broker.bootstrap, directory, f"127.0.0.1:{serve_port}")
        told = pipeline.command("keys", "public", "--json")
        assert told.returncode == 0, told.stderr.decode()
        registered = pipeline.command("sources", "add", SIGNS)
        assert registered.returncode == 0, registered.stderr.decode()
        secret = registered.stdout.decode().strip()
        digits, what = secret[13:77], (SECRET, 0)
        worker = pipeline.worker(SEALSTREAM_HTTP=f"127.0.0.1:{port}")
        server = pipeline.launch(["-m", "pipeline", "serve"], state="serve")

        def look(persons: Sequence[Person]) -> tuple[Found, int]:
            pipeline.wait()
            profiles = pipeline.profiles()
            wait_for(lambda: _serves(serve_port, profiles), 60, "the database has every profile")
            say("searching")
            scanner = Scanner(
                values(persons) | values(persons, ["plan"]) | {digits: what}, {bytes.fromhex(digits): what}
            )
            hits, size = scanner.files(broker.directory, directory)
            pages = [
                (f"{name}: /metrics", _page(at, "metrics")) for name, at in (("worker", port), ("serve", serve_port))
            ]
            for name, text in [*pages, *_processes()]:
                hits |= scanner.scan(name, [text])
                size += len(text)
            return _found(hits, len(profiles), len(pipeline.read(Topic.REJECTED))), size

        with ending(worker), ending(server):
            say(f"{count} people with sealed events")
            config = {"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "compression.type": "none"}
            with Producer(config, source=SIGNS, keys=told.stdout, secret=secret, topic=RAW) as producer:
                for n, person in enumerate(sealed):
                    for event in _events(n, person):
                        producer.send(event, key=person.email)
            of_sealed, size = look(sealed)
            say(f"{count} people with events in clear")
            pipeline.produce(event for n, person in enumerate(clear) for event in _in_clear(n, person))
            of_clear, _ = look(clear)
    return Result(count, len(values(sealed)), size, of_sealed, of_clear)


def _pipeline(bootstrap: str, directory: Path, serve: str) -> Pipeline:
    """Its processes have a directory for temporary files and one to work in, both in what is searched."""
    for name in ("tmp", "work"):
        (directory / name).mkdir()
    return Pipeline(
        bootstrap,
        PREFIX,
        directory,
        cwd=directory / "work",
        TMPDIR=str(directory / "tmp"),
        PYTHONPATH=str(_ROOT),
        SEALSTREAM_COMPRESSION="none",
        SEALSTREAM_LOG_LEVEL="debug",
        SEALSTREAM_SERVE=serve,
    )


def _found(hits: set[Hit], profiles: int, rejected: int) -> Found:
    may = {hit for hit in hits if hit.kind == "plan"}
    raw = {hit for hit in hits - may if f"/{RAW}-" in hit.place}
    shown = {name: len({hit.number for hit in may if path in hit.place}) for name, path in SHOWN.items()}
    return Found(profiles, rejected, len({(hit.kind, hit.number) for hit in raw}), sorted(hits - may - raw), shown)


def _events(n: int, person: Person) -> Iterator[dict[str, Any]]:
    """As a browser, a shop and a careless program would send them."""
    who = {"userId": person.email, "anonymousId": person.card}
    traits = {"email": person.email, "phone": person.phone, "name": person.name}
    yield {
        **who,
        "type": "identify",
        "messageId": f"i-{n}",
        "traits": {**traits, "address": {"street": person.address}, "card": person.card, "plan": person.plan},
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


def _in_clear(n: int, person: Person) -> Iterator[DemoEvent]:
    key, headers = person.email.encode(), (("source-id", SOURCE.encode()),)
    for event in _events(n, person):
        yield DemoEvent(key, json.dumps(event).encode(), headers, int(time.time() * 1000))


def _page(port: int, name: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=5) as answer:
        return bytes(answer.read())


def _serves(port: int, profiles: Mapping[str, Any]) -> bool:
    """Whether each profile is served as it stands on the topic."""
    try:
        return all(json.loads(_page(port, f"v1/profiles/{name}")) == profile for name, profile in profiles.items())
    except OSError:  # an answer other than 200 included
        return False


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
