"""Measure a worker process on a real broker from outside: progress by offsets, CPU and memory by /proc.

*Whole*: from the start of the process, imports included. *Steady*: from the moment that half of the input (or the
share given) was done until the end. CPU is user + system of the process and its threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

PARTITIONS = 4
_TICK = os.sysconf("SC_CLK_TCK")


class Measured(NamedTuple):
    events: int
    seconds: float  # from the first output to the last
    events_per_second: float  # steady
    events_per_cpu_second: float  # steady
    events_per_cpu_second_whole: float
    peak_rss_bytes: int


class Broker:
    """What the benchmarks ask of a broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._groups: dict[str, Consumer] = {}

    def create(self, *topics: str, **config: str) -> None:
        new = [NewTopic(t, PARTITIONS, 1, config=config) for t in topics]
        for future in self._admin.create_topics(new).values():
            future.result(30)
        while not set(topics) <= self._admin.list_topics(timeout=10).topics.keys():
            time.sleep(0.1)

    def delete(self, prefix: str) -> None:
        """Delete the topics that begin with `prefix`."""
        assert prefix
        names = [t for t in self._admin.list_topics(timeout=10).topics if t.startswith(prefix)]
        for future in self._admin.delete_topics(names).values() if names else ():
            future.result(30)

    def end(self, *topics: str) -> int:
        """The sum of the end offsets: how many records were ever written."""
        wanted = {TopicPartition(t, p): OffsetSpec.latest() for t in topics for p in range(PARTITIONS)}
        return sum(f.result(30).offset for f in self._admin.list_offsets(wanted).values())

    def committed(self, group: str, topic: str) -> int:
        """By a consumer that never joins: the admin client's call for it crashes now and then during a rebalance."""
        if group not in self._groups:
            self._groups[group] = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        try:
            found = self._groups[group].committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=30)
        except KafkaException as error:  # the group is not there yet
            if error.args[0].name() in ("NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"):
                return 0
            raise
        return sum(max(0, tp.offset) for tp in found)

    def fill(self, topic: str, records: Iterable[tuple[bytes, bytes, list[tuple[str, bytes]]]]) -> int:
        """Write (key, value, headers); how many."""
        failed: list[object] = []
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "batch.size": 262_144,
                "queue.buffering.max.messages": 200_000,
            }
        )
        n = 0
        for n, (key, value, headers) in enumerate(records, 1):
            while True:
                try:
                    producer.produce(
                        topic, value, key, headers=headers, on_delivery=lambda e, _: failed.append(e) if e else None
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            if n % 1000 == 0:
                producer.poll(0)
        if producer.flush(60) or failed:
            raise RuntimeError("the broker did not take the workload")
        return n


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def apart(module: str, *arguments: object) -> Any:
    """Run `python -m bench.<module>`, whose memory is then its own, and return the JSON that it prints."""
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path).rstrip(os.pathsep)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[2:]} ended with {done.returncode}")
    return json.loads(done.stdout)


class Running:
    """A process with its output in a file; ends with the context, SIGTERM first."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        self._command, self._env, self._log, self._cwd = list(command), {**os.environ, **env}, log, cwd

    def __enter__(self) -> Running:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(self._command, env=self._env, stdout=out, stderr=out, cwd=self._cwd)
        self.pid = self._process.pid
        return self

    def check(self) -> None:
        """Raise if it has ended, with the end of its output."""
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._command[:3]} ended with {self._process.returncode}:\n{tail}")

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def throughput(
    running: Running,
    done: Callable[[], int],
    total: int,
    *,
    steady_from: float = 0.5,
    limit: float = 300.0,
    progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Watch `running` until `done()` reaches `total`, at most `limit` seconds."""
    started = time.monotonic()
    samples: list[tuple[float, int, float]] = []
    while not samples or samples[-1][1] < total:
        running.check()
        n = done()
        samples.append((time.monotonic() - started, n, cpu_seconds(running.pid)))
        progress(n)
        if samples[-1][0] > limit:
            raise RuntimeError(f"{n} of {total} events after {limit:.0f} s")
        time.sleep(0.1)
    rss = peak_rss_bytes(running.pid)
    end, _, cpu = samples[-1]
    first = next(s for s in samples if s[1] > 0)
    # The first sample after a step forward: where progress is seen in steps (commits), both ends lie on a step.
    half = next(s for s in samples if s[1] >= steady_from * total)
    events = total - half[1]
    return Measured(
        events=total,
        seconds=end - first[0],
        events_per_second=events / max(end - half[0], 1e-3),
        events_per_cpu_second=events / max(cpu - half[2], 1e-3),
        events_per_cpu_second_whole=total / max(cpu, 1e-3),
        peak_rss_bytes=rss,
    )
