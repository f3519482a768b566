"""What `sealstream verify` needs by number of events: CPU, memory and disk, without a broker.

    python -m bench.verify [EVENTS]          # default 1,000,000

Protected events of about 600 bytes, 50 to a person with a user id, an e-mail address and 3 devices; 4 partitions of
everything; one event in a hundred is rejected. The identify leg makes profiles and tables of them first, in a process
of its own; then `verify` reads the same events from a generator, and must find nothing.
"""

from __future__ import annotations

import hashlib
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec

from bench.folding import Folding
from pipeline.adapters import schema_files
from pipeline.adapters.partitioner import partitions
from pipeline.adapters.reader import Found
from pipeline.adapters.topic_specs import EVIDENCE, SUBJECT_KEYS, TOKENS
from pipeline.crypto.subject_rows import row_key
from pipeline.events import EventIds, Origin, ProtectedEvent, SubjectRef, Topic
from pipeline.outcomes import Reason, RejectedRecord, Stage
from pipeline.ports import Out
from pipeline.stages.link import Rules, load_rules
from pipeline.verify.log import Log, Snapshot
from pipeline.verify.run import LOGS, verify

PARTITIONS = 4
PER_PERSON = 50
BEGIN_MS = 1_767_225_600_000
BATCH = 4_000
T = TypeVar("T")
Row = tuple[int, bytes, bytes]
"""Partition, key, value."""


class Made:
    """The topics before identity, made again each time they are read. Event i: raw partition i % 4, offset i // 4."""

    def __init__(self, count: int) -> None:
        self.count = count

    def _templates(self) -> Iterator[tuple[int, list[tuple[bytes, list[bytes]]]]]:
        """Per group of four people: the first event's number, and for each (anchor, templates of the events)."""
        for first in range(0, self.count, 4 * PER_PERSON):
            yield first, [_person(first // PER_PERSON + p) for p in range(4)]

    def _events(self, rejected: bool) -> Iterator[tuple[int, bytes, bytes]]:
        """(raw partition, key, value), by the number of the event."""
        ids = [EventIds(Topic.RAW, "", p) for p in range(4)]
        for first, people in self._templates():
            for i in range(first, min(first + 4 * PER_PERSON, self.count)):
                if (i % 100 == 99) == rejected:
                    anchor, templates = people[i % 4]
                    ident = ids[i % 4].of(i // 4).hex().encode()
                    key = b"events.raw//%d/%d" % (i % 4, i // 4) if rejected else anchor
                    template = _REJECTED if rejected else templates[i % len(templates)]
                    yield i % 4, key, template % {b"id": ident, b"p": i % 4, b"o": i // 4, b"at": BEGIN_MS + i}

    def outputs(self, rejected: bool) -> Iterator[Found]:
        """Found on the partition of the key."""
        ends = [0] * PARTITIONS
        batch: list[tuple[int, bytes, bytes]] = []

        def placed() -> Iterator[Found]:
            at = partitions([key for _, key, _ in batch], PARTITIONS)
            for (_, key, value), p in zip(batch, at, strict=True):
                yield Found(p, ends[p], BEGIN_MS, key, value, ())
                ends[p] += 1

        for event in self._events(rejected):
            batch.append(event)
            if len(batch) >= BATCH:
                yield from placed()
                batch.clear()
        yield from placed()

    def raw(self) -> Iterator[Found]:
        for i in range(self.count):
            yield Found(i % 4, i // 4, BEGIN_MS, None, None, ())

    def resolved(self) -> Iterator[Found]:
        for found in self.outputs(False):
            value = (found.value or b"").replace(b"{", b'{"profile_id":"%b",' % (b"0" * 32), 1)
            yield Found(found.partition, found.offset, BEGIN_MS, b"0" * 32, value, ())

    def keys(self) -> Iterator[Found]:
        for n in range(self.count // PER_PERSON + 4):
            yield Found(n % 4, n // 4, BEGIN_MS, row_key(token("user_id", n), bytes(8)), b"x" * 60, ())


def token(kind: str, number: int) -> str:
    return f"{kind}.1.{hashlib.sha256(f'{kind} {number}'.encode()).hexdigest()[:32]}"


def _person(number: int) -> tuple[bytes, list[bytes]]:
    user = token("user_id", number)
    templates = []
    for device in range(3):
        event = ProtectedEvent(
            "%(id)b",
            Origin("events.raw", "", 0, 0),
            "shop",
            "order_completed/1",
            "track",
            -1,
            -2,
            "m-%(id)b",
            user,
            ("Viewed", "Bought", "Paid")[device],
            {
                "userId": user,
                "anonymousId": token("anonymous_id", 3 * number + device),
                "context.traits.email": token("email", number),
            },
            {"properties": {"revenue": 9.5, "currency": "EUR"}},
            SubjectRef(user, bytes(8).hex()),
            {"context.ip": b"s" * 30, "properties.products": b"s" * 60},
        )
        templates.append(_template(msgspec.json.encode(event)))
    return user.encode(), templates


def _template(value: bytes) -> bytes:
    value = value.replace(b'"partition":0,"offset":0', b'"partition":%(p)d,"offset":%(o)d')
    return value.replace(b'"time":-1', b'"time":%(at)d').replace(b'"received_at":-2', b'"received_at":%(at)d')


_REJECTED = _template(
    msgspec.json.encode(
        RejectedRecord(
            "%(id)b", Origin("events.raw", "", 0, 0), "shop", Stage.DECODE, Reason.BAD_JSON, -2, "0" * 16, b"s" * 300
        )
    )
)


def rules() -> Rules:
    return load_rules((schema_files.directory(None) / "identity.toml").read_text(encoding="utf-8"))


def identify(count: int, to: Path) -> None:
    """Write what the identify leg makes of the events: rows of profiles, tokens and evidence."""
    profiles: dict[bytes, bytes] = {}

    def keep(out: Out) -> None:
        profiles[out.key] = out.value or b""

    folding = Folding(rules(), PARTITIONS, BEGIN_MS, keep)
    events = ((found.key or b"", found.value or b"") for found in Made(count).outputs(False))
    while batch := list(islice(events, BATCH)):
        folding.take(batch)
    at = partitions(list(profiles), PARTITIONS)
    _dump(to / "profiles", ((p, key, value) for p, (key, value) in zip(at, profiles.items(), strict=True)))
    for name, table in ((TOKENS, "tokens"), (EVIDENCE, "evidence")):
        rows = ((p, key, value) for p in range(PARTITIONS) for key, value in folding.tables[p][table].items())
        _dump(to / name.replace("/", "-"), rows)


def _dump(path: Path, rows: Iterable[Row]) -> None:
    with path.open("wb") as file:
        for row in rows:
            pickle.dump(row, file)


class Dumped:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Found]:
        ends = [0] * PARTITIONS
        with self._path.open("rb") as file:
            while file.peek(1):
                p, key, value = pickle.load(file)
                yield Found(p, ends[p], BEGIN_MS, key, value, ())
                ends[p] += 1


class Again:
    """Calls for an iterator each time."""

    def __init__(self, call: Callable[[], Iterator[Found]]) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Found]:
        return self._call()


def measure(count: int, dumps: Path, directory: Path) -> None:
    """Verify, and print what it took. The generators' own CPU is told apart by running them alone."""
    made = Made(count)
    records: dict[str, Iterable[Found]] = {
        Topic.RAW: Again(made.raw),
        Topic.PROTECTED: Again(lambda: made.outputs(False)),
        Topic.REJECTED: Again(lambda: made.outputs(True)),
        Topic.RESOLVED: Again(made.resolved),
        Topic.PROFILES: Dumped(dumps / "profiles"),
        SUBJECT_KEYS: Again(made.keys),
        TOKENS: Dumped(dumps / TOKENS.replace("/", "-")),
        EVIDENCE: Dumped(dumps / EVIDENCE.replace("/", "-")),
    }
    began = time.process_time()
    for name in (*LOGS, Topic.PROTECTED):
        for _ in records[name]:
            pass
    generating = time.process_time() - began
    bounds = {p: (0, (count + 3 - p) // 4) for p in range(PARTITIONS)}
    logs = {name: Log(name, "", bounds, records[name]) for name in LOGS}
    disk = 0

    def progress(what: str, total: int, items: Iterable[T]) -> Iterable[T]:
        nonlocal disk
        disk = max(disk, sum(f.stat().st_size for f in directory.rglob("*") if f.is_file()))
        return items

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    report = verify(
        Snapshot(logs, {p: end for p, (_, end) in bounds.items()}, {}, True),
        rules(),
        progress=progress,
        directory=directory,
    )
    cpu = time.process_time() - began - generating
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{count:,} events, {report.profiles:,} profiles, {report.tokens:,} tokens: {cpu:.0f} s of CPU, "
        f"{peak / 1024:.0f} MiB at most ({before / 1024:.0f} before), {disk / (1 << 20):.0f} MiB of disk, "
        f"{len(report.findings)} findings",
        flush=True,
    )
    for finding in report.findings:
        print(finding, flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    processes = get_context("spawn")
    with TemporaryDirectory() as dumps, TemporaryDirectory() as directory:
        for target, args in ((identify, (count, Path(dumps))), (measure, (count, Path(dumps), Path(directory)))):
            process = processes.Process(target=target, args=args)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
