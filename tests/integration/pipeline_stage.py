"""The whole pipeline on a broker: topics of its own, `sealstream worker` processes, and what came of the events."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from pipeline.adapters import keyfile
from pipeline.adapters.topic_specs import CHANGELOGS, SOURCES, changelog_name, group_name
from pipeline.crypto.keyring import KeyRing
from pipeline.events import Topic
from tests.integration.tools import Got, Worker, committed, ends_of, last_values, read_all, wait_for

MOST_PARTITIONS = 12


class Pipeline:
    def __init__(self, bootstrap: str, prefix: str, directory: Path, *, cwd: Path | None = None, **env: str) -> None:
        """`cwd`: where its processes work, here if None."""
        self.bootstrap, self.prefix, self.directory, self.cwd = bootstrap, prefix, directory, cwd
        self._made = itertools.count()
        self._workers: list[Worker] = []
        self.env = {
            "SEALSTREAM_KAFKA": bootstrap,
            "SEALSTREAM_TOPIC_PREFIX": prefix,
            "SEALSTREAM_KEY_FILE": str(directory / "keys.json"),
            "SEALSTREAM_HTTP": "off",
            "SEALSTREAM_LOG_FORMAT": "json",
            **env,
        }
        keyfile.create(directory / "keys.json", KeyRing.generate(os.urandom, int(time.time() * 1000)))

    def command(self, *args: str, stdin: bytes = b"", timeout: float = 600) -> subprocess.CompletedProcess[bytes]:
        """Run a `sealstream` command to its end, within `timeout` seconds."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *args],
            input=stdin,
            capture_output=True,
            env={**os.environ, **self.env},
            cwd=self.cwd,
            timeout=timeout,
            check=False,
        )

    def worker(self, legs: str = "protect,identify,watch", **env: str) -> Worker:
        return self.launch(["-m", "pipeline", "worker", "--legs", legs], **env)

    def launch(self, args: list[str], state: str | None = None, **env: str) -> Worker:
        """Start Python with these arguments; `state`: which state directory, one of its own if None."""
        i = next(self._made)
        directory = self.directory / (state or f"state-{i}")
        made = Worker(
            args,
            self.directory / f"worker-{i}.log",
            {**self.env, "SEALSTREAM_STATE_DIR": str(directory), **env},
            self.cwd,
        )
        self._workers.append(made)
        return made

    def produce(self, events: Iterable[Any]) -> int:
        """Write events that have `key`, `value`, `headers`, `timestamp_ms`; how many."""
        failed: list[object] = []
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "partitioner": "murmur2_random", "message.max.bytes": 12 << 20}
        )
        n = 0
        for n, e in enumerate(events, 1):
            producer.produce(
                self.prefix + Topic.RAW,
                e.value,
                e.key,
                headers=list(e.headers),
                timestamp=e.timestamp_ms,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            if n % 500 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        assert not failed
        return n

    def read(self, topic: str) -> list[Got]:
        return read_all(self.bootstrap, self.prefix + topic)

    def caught_up(self, *legs: str) -> bool:
        """Every leg, or these, have committed all of their input.

        Asked in this order: what a leg has committed, then the ends of what it reads. It may feed itself, and what
        it has committed was written on before; the other way round more may have come in between.
        """
        for leg in legs or SOURCES:
            names = [self.prefix + t for t in SOURCES[leg]]
            done = committed(self.bootstrap, group_name(leg, prefix=self.prefix), names, MOST_PARTITIONS)
            if any(done.get(place, 0) != end for place, end in ends_of(self.bootstrap, names).items()):
                return False
        return True

    def wait(self, seconds: float = 120, *legs: str) -> None:
        try:
            wait_for(lambda: self.caught_up(*legs), seconds, "every leg has committed all of its input")
        except AssertionError as error:
            for worker in self._workers:
                error.add_note(f"{worker.log_path.name}, running: {worker.running}\n{worker.log[-3_000:]}")
            raise

    def wait_filled(self, seconds: float = 60) -> None:
        """Every table has rows. Those of the watch leg come after its input is committed: when windows are closed."""
        wait_for(lambda: all(self.tables().values()), seconds, "no table is empty")

    def tables(self) -> dict[str, dict[bytes | None, bytes]]:
        """Each table as its changelog holds it."""
        names = {f"{leg}/{table}": changelog_name(leg, table, prefix=self.prefix) for leg, table in CHANGELOGS}
        return {name: last_values(read_all(self.bootstrap, topic)) for name, topic in names.items()}

    def recomputed(self) -> dict[str, Any]:
        """`sealstream identity recompute` over the dump of `events.protected`, by profile id."""
        dump = self.directory / "protected.jsonl"
        dump.write_bytes(b"".join((r.value or b"") + b"\n" for r in self.read(Topic.PROTECTED)))
        done = self.command("identity", "recompute", str(dump))
        assert done.returncode == 0, done.stderr.decode()
        return {p["profile_id"]: p for p in map(json.loads, done.stdout.splitlines())}

    def profiles(self) -> dict[str, Any]:
        """`profiles` as compaction leaves it, without those that were merged into others."""
        rows = {(k or b"").decode(): json.loads(v) for k, v in last_values(self.read(Topic.PROFILES)).items()}
        return {k: v for k, v in rows.items() if "merged_into" not in v}


def origin_of(record: dict[str, Any]) -> tuple[int, int]:
    origin = record["origin"]
    return origin["partition"], origin["offset"]


def account(pipeline: Pipeline) -> tuple[dict[tuple[int, int], bytes], dict[tuple[int, int], bytes]]:
    """Protected and rejected by origin, after checking that together they are the raw records, no one on both sides.

    A record may be there twice after a crash, but in equal bytes.
    """
    sides: list[dict[tuple[int, int], bytes]] = []
    for topic in (Topic.PROTECTED, Topic.REJECTED):
        side: dict[tuple[int, int], bytes] = {}
        for r in pipeline.read(topic):
            assert r.value is not None
            origin = origin_of(json.loads(r.value))
            assert side.setdefault(origin, r.value) == r.value, f"{topic}: {origin} is there in two forms"
        sides.append(side)
    protected, rejected = sides
    raw = {(r.partition, r.offset) for r in pipeline.read(Topic.RAW)}
    assert not protected.keys() & rejected.keys()
    assert protected.keys() | rejected.keys() == raw
    return protected, rejected
