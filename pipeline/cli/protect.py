"""`sealstream protect`: the protect leg on standard input, without a broker. Scripted against: DESIGN §8."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from .. import settings
from ..events import Origin, RawRecord, SourceBatch, Topic
from ..ports import PartitionLeg
from . import lines


class _Place(msgspec.Struct, frozen=True):
    origin: Origin


class _Reject(msgspec.Struct, frozen=True):
    origin: Origin
    reason: str
    stage: str
    path: str = ""
    rule: str = ""


class _RejectedLine(msgspec.Struct, frozen=True):
    origin: Origin
    rejected: dict[str, str]


class _ProtectedLine(msgspec.Struct, frozen=True):
    origin: Origin
    protected: msgspec.Raw


@click.command()
@click.option("--base64", "as_base64", is_flag=True, help="Each input line is the base64 of a record's exact bytes.")
@click.option(
    "--keys", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="Key file; default SEALSTREAM_KEY_FILE."
)
@click.option(
    "--time", "at", type=int, help="Kafka time of the records in ms since 1970; default now, the same for all."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if anything was rejected.")
@click.pass_context
def protect(ctx: click.Context, as_base64: bool, key_file: Path | None, at: int | None, strict: bool) -> int:
    """Protect the events on standard input, one JSON line each, without a broker.

    For each input line, in order, one JSON line: {"origin":…,"protected":{…}} or
    {"origin":…,"rejected":{"reason":…,"path":…,"rule":…,"stage":…}}. The origin's offset is the line's number from 0.
    An empty line is an empty value. Without a key file a throw-away key ring is used: its tokens join within this run
    only. The persons' keys are thrown away at the end in any case, so sealed values do not open later.

    \b
    Examples:
      sealstream protect < events.jsonl > records.jsonl
      base64 -w0 event.avro | sealstream protect --base64 --strict
    """
    from .. import wiring

    config = settings.load(key_file=key_file)
    if config.key_file is None:
        click.echo("sealstream: no key file, using a throw-away key ring (tokens join within this run only)", err=True)
        ring = wiring.throw_away_ring()
    else:
        ring = wiring.key_ring(config)
    part = wiring.in_memory(wiring.protect_leg(config, ring))
    now = int(time.time() * 1000) if at is None else at
    source, sink = click.get_binary_stream("stdin"), click.get_binary_stream("stdout")
    offset = rejects = 0
    for batch in lines.batches(source):
        values = lines.decoded(batch, offset) if as_base64 else batch
        records = [RawRecord(offset + i, now, None, value) for i, value in enumerate(values)]
        answer, rejected = answers(part, SourceBatch(Topic.RAW.value, "", 0, records))
        sink.write(answer)
        sink.flush()
        offset += len(records)
        rejects += rejected
    if rejects:
        click.echo(f"sealstream: {rejects} of {offset} rejected", err=True)
    ctx.exit(1 if strict and rejects else 0)


def answers(part: PartitionLeg, batch: SourceBatch) -> tuple[bytes, int]:
    """Return the batch's output lines, in the order of its records, and how many of them are rejects."""
    part.on_batch(batch)
    found: dict[int, bytes] = {}
    rejects = 0
    encode: Any = msgspec.json.encode
    for phase in part.drain().phases:
        if isinstance(phase, str):
            continue
        for out in phase.get(Topic.PROTECTED.value, ()):
            assert out.value is not None
            origin = msgspec.json.decode(out.value, type=_Place).origin
            found[origin.offset] = encode(_ProtectedLine(origin, msgspec.Raw(out.value)))
        for out in phase.get(Topic.REJECTED.value, ()):
            assert out.value is not None
            r = msgspec.json.decode(out.value, type=_Reject)
            reject = {"reason": r.reason, "path": r.path, "rule": r.rule, "stage": r.stage}
            found[r.origin.offset] = encode(_RejectedLine(r.origin, reject))
            rejects += 1
    ordered = [found.pop(record.offset) for record in batch.records]
    assert not found, "records came out that did not go in"
    return b"\n".join(ordered) + b"\n", rejects
