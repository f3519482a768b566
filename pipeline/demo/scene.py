"""The demo's scene: topics and keys of its own on a broker, a worker as a process of its own, and a watch on both."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from fastavro import schemaless_writer

from ..adapters.positions import Positions
from ..adapters.topic_specs import SOURCES
from ..adapters.topics import admin_config
from ..errors import Fatal, Transient
from ..events import Topic
from ..settings import Settings
from ..stages.compile import CompiledSchema
from .story import DemoEvent

STILL_SECONDS = 4.0
"""Legs also work by the clock, once a second: they have ended when nothing has moved for so long."""


@contextmanager
def worker(env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sealstream worker`, supervised, and stop it as an operator would; its log goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "worker", "--supervise"],
            stdout=out,
            stderr=out,
            env={**os.environ, **env},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def produce(config: Settings, events: Iterable[DemoEvent], step: Callable[[], None]) -> int:
    """Write the events to `events.raw`; how many. `Transient` if not all of them were taken."""
    failed: list[object] = []
    producer = Producer(
        {
            **admin_config(config.bootstrap(), config.security()),
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 20,
        }
    )
    n = 0
    for event in events:
        n += 1
        producer.produce(
            config.topic_prefix + Topic.RAW,
            event.value,
            event.key,
            headers=list(event.headers),
            timestamp=event.timestamp_ms,
            on_delivery=lambda error, _: failed.append(error) if error is not None else None,
        )
        producer.poll(0)
        step()
    if producer.flush(30) or failed:
        raise Transient("the broker did not take every event; try again")
    return n


def await_work(
    positions: Positions, process: subprocess.Popen[bytes], total: int, seconds: float, tell: Callable[[int], None]
) -> float:
    """Wait until every leg has done all of it; return when the last raw event was protected or rejected (monotonic).

    Raises:
        Fatal: the worker ended, or did not finish in `seconds`.
    """
    until = time.monotonic() + seconds
    protected_at = still_since = 0.0
    ends: list[int] = []
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Fatal(f"the worker ended with exit code {process.returncode}")
        n = _end(positions, Topic.PROTECTED) + _end(positions, Topic.REJECTED)
        tell(n)
        if n >= total:
            protected_at = protected_at or time.monotonic()
            now = [_end(positions, topic) for topic in (*SOURCES["watch"], *SOURCES["identify"])]
            if now != ends or any(positions.behind().values()):
                ends, still_since = now, time.monotonic()
            elif time.monotonic() - still_since > STILL_SECONDS:
                return protected_at
        time.sleep(0.2)
    raise Fatal(f"the worker did not finish within {seconds:.0f} s")


def _end(positions: Positions, topic: str) -> int:
    """How many records the topic has been given."""
    return sum(end for _, end in positions.bounds(topic).values())


def avro_encoder(schemas: Mapping[str, CompiledSchema]) -> Callable[[str, dict[str, Any]], bytes]:
    """Return the encoder: (schema name, event as JSON has it) → Avro single-object encoding."""

    def encode(name: str, event: dict[str, Any]) -> bytes:
        schema = schemas[name]
        written = dict(event)
        for field in ("timestamp", "sentAt"):
            if isinstance(written.get(field), str):
                written[field] = round(datetime.fromisoformat(written[field]).timestamp() * 1000)
        out = io.BytesIO()
        schemaless_writer(out, schema.avro_writer, written)
        return b"\xc3\x01" + schema.fingerprint + out.getvalue()

    return encode
