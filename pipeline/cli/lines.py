"""Lines of a byte stream in batches of bounded size, as they arrive: whoever writes slowly is answered at once."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import Misuse

CHUNK_BYTES = 1 << 20
BATCH_LINES = 2_000
BATCH_BYTES = 8 << 20
MAX_LINE_BYTES = 256 << 20


def batches(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield non-empty lists of lines without their `\\n`; nothing else ends a line, and the last may lack it.

    A batch holds at most `BATCH_LINES` lines and `BATCH_BYTES` plus one line. `Misuse` for a line beyond
    `MAX_LINE_BYTES`, by its number from 1: no Kafka record is as long.
    """
    open_parts: list[bytes] = []
    open_bytes = 0
    done = 0
    while chunk := _read(stream):
        *ends, rest = chunk.split(b"\n")
        if ends:
            ends[0] = b"".join((*open_parts, ends[0]))
            open_parts, open_bytes = [], 0
            yield from _bounded(ends)
            done += len(ends)
        open_parts.append(rest)
        open_bytes += len(rest)
        if open_bytes > MAX_LINE_BYTES:
            raise Misuse(f"line {done + 1} is longer than {MAX_LINE_BYTES >> 20} MiB")
    if open_bytes:
        yield [b"".join(open_parts)]


def decoded(lines: list[bytes], first: int) -> list[bytes]:
    """Return the bytes whose base64 (RFC 4648 §4) the lines are; `Misuse` with the line's number from 1 otherwise."""
    values = []
    for number, line in enumerate(lines, first + 1):
        try:
            values.append(base64.b64decode(line.removesuffix(b"\r"), validate=True))
        except (binascii.Error, ValueError):
            raise Misuse(f"line {number} is not base64") from None
    return values


def _read(stream: BinaryIO) -> bytes:
    read1 = getattr(stream, "read1", None)
    return bytes(read1(CHUNK_BYTES) if read1 is not None else stream.read(CHUNK_BYTES))


def _bounded(lines: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if batch and (len(batch) >= BATCH_LINES or size + len(line) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch
