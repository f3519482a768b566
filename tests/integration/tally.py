"""A worker with the smallest leg that shows every guarantee: it passes records on and counts them by key.

`python -m tests.integration.tally BOOTSTRAP PREFIX STATE_DIR [--die POINT:N | --stop POINT:N] [--raise-at N]
[--session SECONDS] [--no-lease]`

`--die` ends the process as by kill -9 at the N-th time it comes to a point: `output`, `changelog` (before that is
written), `rows` (while a changelog's records are being sent), `settled` (both durable, nothing acknowledged),
`recovery`, `revoked` and `assigned` (a partition, in a rebalance). Where it can it waits a moment before, in which
commits go on: whatever was acknowledged too early is then on record. `--stop` stops it there, until somebody sends
SIGCONT: a zombie. `--no-lease` lets it send all the same.
`STATE_DIR/opened-N` has the rows with which the leg began on partition N; `STATE_DIR/kept`, after a clean end, how many
things Faust's consumer kept in the largest of its collections.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pipeline.adapters.topic_specs import CHANGELOG, is_claim
from pipeline.events import SourceBatch, Topic
from pipeline.ports import STATE, Effects, Out, Table
from pipeline.telemetry.metrics import PrometheusMetrics
from pipeline.worker import engine, run
from pipeline.worker.book import OffsetBook
from pipeline.worker.fencing import Lease
from pipeline.worker.output import Output
from pipeline.worker.tables import PartitionTable
from pipeline.worker.transport import Consumer, Transport

TABLE = "tally"


class Row(msgspec.Struct, array_like=True):
    """How many records a key had, and by partition the offset after the last one counted."""

    count: int = 0
    counted: dict[int, int] = {}


class TallyPart:
    def __init__(self, table: Table, raise_at: int) -> None:
        self._table, self._raise_at = table, raise_at
        self._outs: list[Out] = []
        self._rows: dict[bytes, Row] = {}

    def on_batch(self, batch: SourceBatch) -> None:
        for r in batch.records:
            if r.offset == self._raise_at:
                raise RuntimeError("as the test asked for")
            assert r.key is not None
            assert r.value is not None
            self._outs.append(Out(r.key, b"%d:%d:" % (batch.partition, r.offset) + r.value, r.timestamp))
            row = self._rows.get(r.key)
            if row is None:
                stored = self._table.get(r.key)
                row = self._rows[r.key] = Row() if stored is None else msgspec.msgpack.decode(stored, type=Row)
            if r.offset >= row.counted.get(batch.partition, 0):
                row.count += 1
                row.counted[batch.partition] = r.offset + 1

    def on_tick(self, now: int, caught_up: bool) -> None:
        pass

    def repeat(self, table: str, keys: Collection[bytes]) -> None:
        pass

    def drain(self) -> Effects:
        outs, self._outs = self._outs, []
        rows, self._rows = self._rows, {}
        for key, row in rows.items():
            self._table.put(key, msgspec.msgpack.encode(row))
        return Effects(({Topic.PROTECTED: outs}, STATE), {("passed", ""): len(outs)})


class TallyLeg:
    name = "tally"
    pace = 0.005
    stretch = 1
    sources = (Topic.RAW,)
    tables = (TABLE,)

    def __init__(self, raise_at: int, opened: Path) -> None:
        self._raise_at, self._opened = raise_at, opened

    def open(self, partition: int, tables: dict[str, Table]) -> TallyPart:
        rows = dict(tables[TABLE].items())
        (self._opened / f"opened-{partition}").write_bytes(msgspec.msgpack.encode(rows))
        return TallyPart(tables[TABLE], self._raise_at)

    def check(self, table: str, key: bytes, value: bytes) -> None:
        pass


def always(*_: Any) -> bool:
    return True


def of_a_changelog(batches: Any) -> bool:
    return any(topic.endswith(CHANGELOG) and not is_claim(outs[0].key) for topic, _, outs in batches)


POINTS: dict[str, tuple[Any, str, Any]] = {
    "output": (Output, "write", always),
    "changelog": (engine.LegEngine, "_write_state", always),
    "rows": (Output, "write_to", of_a_changelog),
    "settled": (OffsetBook, "settle", always),
    "recovery": (PartitionTable, "recover", always),
    "revoked": (engine.LegEngine, "drain", always),
    "assigned": (engine.LegEngine, "_open", always),
}
MOMENT = 0.5
"""Seconds; several times `commit_seconds` below."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def strike_at(point: str, nth: int, strike: Callable[[], None] = kill, moment: float = MOMENT) -> None:
    """Have `strike` called once, at the `nth` time from now on that this process comes to the point."""
    owner, name, counts = POINTS[point]
    inner, left = getattr(owner, name), itertools.count(nth - 1, -1)
    struck = False

    def once() -> None:
        nonlocal struck
        if not struck:
            struck = True
            strike()

    def before(self: Any, *args: Any) -> Any:
        if counts(*args) and next(left) == 0:
            once()
        return inner(self, *args)

    async def soon_before(self: Any, *args: Any) -> Any:
        if not struck and counts(*args) and next(left) <= 0:  # nor does a later one come through in that moment
            await asyncio.sleep(moment)
            once()
        return await inner(self, *args)

    setattr(owner, name, soon_before if asyncio.iscoroutinefunction(inner) else before)


made: list[Consumer] = []


class Remembered(Consumer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        made.append(self)


def collections_of(consumer: Consumer) -> Iterator[Sized]:
    for held in list(vars(consumer).values()):
        if isinstance(held, dict):
            yield from (value for value in held.values() if isinstance(value, Sized))
        if isinstance(held, Sized):
            yield held


def _point(text: str) -> tuple[str, int]:
    point, nth = text.split(":")
    return point, int(nth)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("prefix")
    parser.add_argument("state_dir")
    parser.add_argument("--die", default="")
    parser.add_argument("--stop", default="")
    parser.add_argument("--no-lease", action="store_true")
    parser.add_argument("--raise-at", type=int, default=-1)
    parser.add_argument("--session", type=float, default=6.0)
    args = parser.parse_args()
    if args.die:
        strike_at(*_point(args.die))
    if args.stop:
        strike_at(*_point(args.stop), partial(os.kill, os.getpid(), signal.SIGSTOP))
    if args.no_lease:
        Lease.held = True  # type: ignore[assignment,method-assign]
    config = engine.EngineConfig(
        bootstrap=args.bootstrap,
        topic_prefix=args.prefix,
        state_dir=args.state_dir,
        session_timeout=args.session,
        checkpoint_records=1000,
        commit_seconds=0.05,
    )
    Transport.Consumer = Remembered
    directory = Path(args.state_dir)
    code = run.run({TallyLeg.name: lambda: TallyLeg(args.raise_at, directory)}, config, PrometheusMetrics())
    if code == 0:
        (directory / "kept").write_text(str(max(map(len, collections_of(*made)))))
    return code


if __name__ == "__main__":
    sys.exit(main())
