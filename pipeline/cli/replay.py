"""`sealstream replay`: rejected records back on `events.raw`, exactly as they were sent."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from .. import settings
from ..crypto.keyring import KeyRing
from ..crypto.rejects import Original, RejectBox
from ..crypto.seal import SealBroken
from ..errors import Misuse, SealstreamError, Transient
from ..events import Origin, RawRecord, Topic, event_id
from ..outcomes import Reason, RejectedRecord
from ..stages.authenticate import Authenticator

REPLAYED_FROM = "replayed-from"
Send = Callable[[Original, int], None]
"""Writes a record with a Kafka time in ms."""


@click.command()
@click.option(
    "--reason", "reasons", multiple=True, type=click.Choice([r.value for r in Reason]), help="Only these; repeatable."
)
@click.option(
    "--since-offset",
    "since",
    multiple=True,
    metavar="[P:]N",
    help="Begin at offset N of events.rejected (of partition P).",
)
@click.option("--limit", type=click.IntRange(min=1), help="Replay at most so many.")
@click.option("--dry-run", is_flag=True, help="Open and count, send nothing.")
@click.option(
    "--keys", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="Key file; default SEALSTREAM_KEY_FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def replay(
    ctx: click.Context,
    reasons: tuple[str, ...],
    since: tuple[str, ...],
    limit: int | None,
    dry_run: bool,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Send rejected records to events.raw again, with the key, value, headers and Kafka time that they had.

    Fix their cause first (a schema, a source), then replay. Each record gets one more header, `replayed-from`, with the
    origin that was rejected. What its source had signed is signed again, as of now; of what was `expired` only with
    --reason expired, since somebody may have sent it a second time. Nothing is deleted: the summary says at which
    offsets to go on the next time, also when an error ended it. Exit code 1 if a record does not open, as one whose key
    was destroyed.

    \b
    Examples:
      sealstream replay --reason unknown_schema --dry-run
      sealstream replay --reason unknown_schema --since-offset 0:120 --limit 500 --json
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    ring = wiring.key_ring(config)
    with wiring.reader(config, Topic.REJECTED) as found:
        starts = _starts(since, found.partitions)
    known = wiring.authenticator(config, ring)
    known.know(wiring.sources(config).values())
    with wiring.reader(config, Topic.REJECTED, starts) as found:
        run = Replay(ring, known, frozenset(reasons), limit, starts)
        failure, sure = _run(run, found, nullcontext(lambda *_: None) if dry_run else wiring.sender(config, Topic.RAW))
    if failure is None or run.replayed:
        _tell(run, dry_run, as_json, sure)
    if failure is not None:
        raise failure
    ctx.exit(1 if run.unopened else 0)


def _run(run: Replay, found: Any, sender: AbstractContextManager[Send]) -> tuple[BaseException | None, bool]:
    """Return what has ended it early, and whether all that was sent is written."""
    failure: BaseException | None = None
    try:
        with sender as send, _progress(found.total) as step:
            try:
                for record in found:
                    if not run.take(record, send):
                        break
                    step()
            except (SealstreamError, KeyboardInterrupt) as error:
                failure = error
    except Transient as error:
        return failure or error, False
    return failure, True


class Replay:
    """One run: what it looked at, sent, and could not open."""

    def __init__(
        self,
        ring: KeyRing,
        known: Authenticator,
        reasons: frozenset[str],
        limit: int | None,
        starts: Mapping[int, int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._known = known
        self._clock = clock
        self._reasons = reasons
        self._limit = limit
        self._boxes: dict[str, RejectBox] = {}
        self.seen = 0
        self.unopened = 0
        self.replayed: Counter[str] = Counter()
        self.began = dict(starts)
        self.next = dict(starts)
        """By partition."""

    def take(self, found: Any, send: Send) -> bool:
        """Look at one record (`adapters.reader.Found`); False once the limit is reached, with the record not taken."""
        if self._limit is not None and self.replayed.total() >= self._limit:
            return False
        self.began.setdefault(found.partition, found.offset)
        self._look(found.value or b"", send)
        self.seen += 1
        self.next[found.partition] = found.offset + 1
        return True

    def _look(self, value: bytes, send: Send) -> None:
        try:
            rejected = msgspec.json.decode(value, type=RejectedRecord)
            if self._reasons and rejected.reason not in self._reasons:
                return
            original = self._open(rejected)
            _sendable(original)
        except (msgspec.DecodeError, SealBroken, Misuse, ValueError):
            self.unopened += 1
            return
        original = self._signed(original, rejected)
        send(again(original, rejected.origin), rejected.received_at)
        self.replayed[rejected.reason.value] += 1

    def _signed(self, original: Original, rejected: RejectedRecord) -> Original:
        if rejected.reason is Reason.EXPIRED and Reason.EXPIRED not in self._reasons:
            return original
        record = RawRecord(0, rejected.received_at, original.key, original.value, original.headers)
        headers = self._known.signed_again(record, int(self._clock() * 1000))
        return original if headers is None else original._replace(headers=headers)

    def _open(self, rejected: RejectedRecord) -> Original:
        """`Misuse` if its key is not in the ring."""
        box = self._boxes.get(rejected.key_id)
        if box is None:
            box = self._boxes[rejected.key_id] = self._ring.reject_box_of(rejected.key_id)
        # the id that follows from the origin, not the one that stands there: so the origin is authenticated as well
        return box.open(event_id(rejected.origin), rejected.reason.value, rejected.sealed)


def _sendable(original: Original) -> None:
    """`ValueError` for header names that the Kafka client (librdkafka) cannot send: not UTF-8, or with a NUL."""
    for name, _ in original.headers:
        if "\0" in name:
            raise ValueError("NUL")
        name.encode()


def again(original: Original, origin: Origin) -> Original:
    """Return what to send: the original and one more header, `<topic>/<incarnation>/<partition>/<offset>`."""
    place = f"{origin.topic}/{origin.incarnation}/{origin.partition}/{origin.offset}"
    return original._replace(headers=(*original.headers, (REPLAYED_FROM, place.encode())))


def _starts(given: tuple[str, ...], partitions: tuple[int, ...]) -> dict[int, int]:
    """Return partition → offset of `--since-offset`; one without a partition holds for all."""
    starts: dict[int, int] = {}
    for text in given:
        partition, colon, offset = text.rpartition(":")
        if not (offset.isascii() and offset.isdigit()) or (colon and not (partition.isascii() and partition.isdigit())):
            raise Misuse("--since-offset takes an offset, or partition:offset")
        if colon and int(partition) not in partitions:
            raise Misuse(f"--since-offset: {Topic.REJECTED.value} has partitions 0 to {len(partitions) - 1}")
        starts |= {int(partition): int(offset)} if colon else dict.fromkeys(partitions, int(offset))
    return starts


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=total, label="rejected records", file=sys.stderr, update_min_steps=100) as bar:
        yield lambda: bar.update(1)


def _tell(run: Replay, dry_run: bool, as_json: bool, sure: bool) -> None:
    """`sure`: what was sent is written; else one has to begin again where this run began."""
    sent: Mapping[str, int] = dict(sorted(run.replayed.items()))
    following = dict(sorted((run.next if sure else run.began).items()))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "seen": run.seen,
                    "replayed": run.replayed.total(),
                    "by_reason": sent,
                    "unopened": run.unopened,
                    "dry_run": dry_run,
                    "next": {str(p): o for p, o in following.items()},
                }
            )
        )
        return
    verb = "would replay" if dry_run else "replayed" if sure else "replayed at most"
    click.echo(f"{verb} {run.replayed.total()} of {run.seen} rejected records")
    for reason, count in sent.items():
        click.echo(f"  {count:>8}  {reason}")
    if run.unopened:
        why = "damaged, sealed under other keys, too large to be kept, or with header names that no client can send"
        click.echo(f"{run.unopened} were left out: {why}", err=True)
    if following and not dry_run:
        options = " ".join(f"--since-offset {p}:{o}" for p, o in following.items())
        click.echo(f"next time go on with: {options}", err=True)
