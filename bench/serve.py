"""GET of a profile by identifier, while records keep arriving: `sealstream serve`, and beside it the partitions' owner.

100,000 profiles of five tokens stand on `profiles`; then changed ones come at a steady rate, a tenth of them with
another device. A client asks at a steady rate, whether the request before is answered or not, and checks each answer;
one that is late counts from when it was due. `nothing` is the same client and server on a path that looks nothing up:
what the machine and HTTP take of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec
from aiohttp import ClientConnectionError, ClientSession
from confluent_kafka import Producer

from bench.measure import Running, cpu_seconds, rss_bytes
from bench.serve_owner import half_of, token
from bench.setting import Setting, setting
from pipeline.adapters.keyfile import load
from pipeline.events import Profile, Topic

Say = Callable[[str], None]
ASKED_PER_SECOND = 200
SECONDS_TO_START = 300.0
OWNED_CUSTOMERS = 20_000


class Latency(NamedTuple):
    """Milliseconds."""

    asked: int
    p50: float
    p95: float
    p99: float


class Served(NamedTuple):
    profiles_per_second: float
    """While catching up, from the start of the process."""
    profiles_per_cpu_second: float
    arrived_per_second: float
    """Records, while identifiers were asked for."""
    identifier: Latency
    nothing: Latency
    rss_bytes: int
    cpu_share: float
    """Of one core, while records arrive and lookups are asked."""
    database_bytes: int


def projection(bootstrap: str, profiles: int, rate: int, seconds: int, seed: int, say: Say) -> Served:
    with setting(bootstrap, append_time=False) as s:
        say(f"writing {profiles:,} profiles")
        made = _Profiles(s, profiles, seed)
        s.broker.fill(s.topic(Topic.PROFILES), ((*made.record(n), []) for n in range(profiles)))
        command = [sys.executable, "-m", "pipeline", "serve", "--port", "0"]
        log = s.directory / "serve.log"
        started = time.monotonic()
        with Running(command, s.env, log) as process:
            say("catching up")
            base = f"http://127.0.0.1:{_port(log, process)}"
            asyncio.run(_await(f"{base}/readyz", process))
            caught_up, cpu_of_it = time.monotonic() - started, cpu_seconds(process.pid)
            with _arriving(s, made, rate) as arrived:
                say(f"{rate} records/s, {ASKED_PER_SECOND} lookups/s, {seconds} s")
                time.sleep(2)
                began, cpu, before = time.monotonic(), cpu_seconds(process.pid), arrived[0]
                rng = random.Random(seed)
                paths = (f"{base}/v1/profiles/email/{quote(made.email(rng.randrange(profiles)))}" for _ in iter(int, 1))
                identifier = asyncio.run(_ask(paths, seconds))
                took = time.monotonic() - began
                share, arriving = (cpu_seconds(process.pid) - cpu) / took, (arrived[0] - before) / took
                nothing = asyncio.run(_ask((f"{base}/healthz" for _ in iter(int, 1)), seconds))
            rss = rss_bytes(process.pid)
        size = sum(p.stat().st_size for p in Path(s.env["SEALSTREAM_STATE_DIR"]).glob("profiles.db*"))
        return Served(profiles / caught_up, profiles / cpu_of_it, arriving, identifier, nothing, rss, share, size)


def owner(rate: int, seconds: int, seed: int, say: Say) -> tuple[Latency, Latency]:
    """At `rate` events/s, and while a backlog is folded, as after a rebalance."""
    return _owner(rate, seconds, seed, say), _owner(0, seconds, seed, say)


def _owner(rate: int, seconds: int, seed: int, say: Say) -> Latency:
    say(f"the partitions' owner, {rate or 'a backlog of'} events/s")
    ports = [_free_port(), _free_port()]
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="sealstream-bench-") as made:
        for half in (0, 1):
            arguments = [half, ports[half], ports[1 - half], OWNED_CUSTOMERS, rate]
            command = [sys.executable, "-m", "bench.serve_owner", *map(str, arguments)]
            env = {"PYTHONPATH": str(Path(__file__).parents[1])}
            process = stack.enter_context(Running(command, env, Path(made) / f"owner-{half}.log"))
            asyncio.run(_await(f"http://127.0.0.1:{ports[half]}/{_of_half(half)}", process))
        rng = random.Random(seed)
        paths = (
            f"http://127.0.0.1:{rng.choice(ports)}/{token('anonymous_id', rng.randrange(OWNED_CUSTOMERS))}"
            for _ in iter(int, 1)
        )
        return asyncio.run(_ask(paths, seconds))


def _of_half(half: int) -> str:
    return next(t for t in (token("user_id", c) for c in range(OWNED_CUSTOMERS)) if half_of(t) == half)


class _Profiles:
    """Customer `n`'s record: the same tokens each time, but the last, and counts that grow."""

    def __init__(self, s: Setting, count: int, seed: int) -> None:
        version = load(Path(s.env["SEALSTREAM_KEY_FILE"])).tokenizer().at(2**62)
        self._email, self._user = version.maker("email"), version.maker("user_id")
        self._device = version.maker("anonymous_id")
        self._rng = random.Random(seed)
        self.count = count

    @staticmethod
    def email(n: int) -> str:
        return f"customer.{n}@example.com"

    def record(self, n: int) -> tuple[bytes, bytes]:
        ident = f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128):032x}"
        newest = self._rng.randrange(1_000) if self._rng.random() < 0.1 else 0
        tokens = {
            "anonymous_id": sorted(self._device(f"{n}-{d}") for d in (1, 2, 3 + newest)),
            "email": [self._email(self.email(n))],
            "user_id": [self._user(f"u{n}")],
        }
        events = {"Order Completed": self._rng.randrange(1_000), "Product Viewed": self._rng.randrange(10_000)}
        traits = {"locale": "en-GB", "plan": "free", "city": "Zürich"}
        seen = 1_767_225_600_000
        value = Profile(ident, tokens, seen, seen + n, events, traits, ["ios-app", "web-shop"])
        return ident.encode(), msgspec.json.encode(value)


@contextmanager
def _arriving(s: Setting, made: _Profiles, rate: int) -> Iterator[list[int]]:
    """Yield how many records the broker has taken."""
    stopping, arrived = threading.Event(), [0]

    def count(error: object, _: object) -> None:
        arrived[0] += error is None

    def send() -> None:
        producer = Producer({"bootstrap.servers": s.broker.bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
        rng, started, sent = random.Random(1), time.monotonic(), 0
        while not stopping.wait(0.01):
            for _ in range(int((time.monotonic() - started) * rate) - sent):
                key, value = made.record(rng.randrange(made.count))
                producer.produce(s.topic(Topic.PROFILES), value, key, on_delivery=count)
                sent += 1
            producer.poll(0)
        producer.flush(10)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield arrived
    finally:
        stopping.set()
        thread.join(20)


async def _ask(paths: Iterator[str], seconds: float) -> Latency:
    took: list[float] = []

    async def ask(path: str, due: float) -> None:
        async with session.get(path) as response:
            body = await response.read()
        took.append((time.perf_counter() - due) * 1000)
        if response.status != 200 or json.loads(body) is None:
            raise RuntimeError(f"answered {response.status}")

    async with ClientSession() as session, asyncio.TaskGroup() as asking:
        started = time.perf_counter()
        for n, path in zip(range(int(seconds * ASKED_PER_SECOND)), paths, strict=False):
            due = started + n / ASKED_PER_SECOND
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
                due = time.perf_counter()
            asking.create_task(ask(path, due))
    took.sort()
    return Latency(len(took), *(round(took[int(len(took) * share)], 2) for share in (0.5, 0.95, 0.99)))


async def _await(url: str, process: Running) -> None:
    until = time.monotonic() + SECONDS_TO_START
    async with ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except ClientConnectionError:
                pass
            process.check()
            if time.monotonic() > until:
                raise RuntimeError(f"not ready after {SECONDS_TO_START:.0f} s")
            await asyncio.sleep(0.2)


def _port(log: Path, process: Running) -> int:
    until = time.monotonic() + SECONDS_TO_START
    while (found := re.search(r'"port": (\d+)', log.read_text())) is None:
        process.check()
        if time.monotonic() > until:
            raise RuntimeError("it does not serve")
        time.sleep(0.1)
    return int(found[1])


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
