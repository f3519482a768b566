"""Records as aiokafka's parser makes them, without a Python object built around each (3.6 → 1.4 µs per event read).

aiokafka hands out a `ConsumerRecord` per record through two Python frames. `DefaultRecord`, its compiled record, has
all that a stage reads (`events.Record`), so `LeanRecords` hands out that one. It also reads what the compiled parser
refuses: a record header whose name is not UTF-8 would stop the consumer at that offset for good, and anyone who may
write to the topic can send one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

import aiokafka.consumer.fetcher as fetcher
import msgspec
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from ..adapters.topic_specs import CHANGELOG


class Written(msgspec.Struct, frozen=True, gc=False):
    """A record of a changelog, and the id of the producer that wrote it (-1: one that is not idempotent)."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    producer_id: int

    def __repr__(self) -> str:
        return f"Written(offset={self.offset}, producer_id={self.producer_id}, …)"


class KeptRecords:
    """aiokafka's parser of a fetched buffer, with the buffer."""

    __slots__ = ("_records", "buffer", "has_next", "next_batch", "size_in_bytes")

    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer
        self._records = records = MemoryRecords(buffer)
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


class LeanRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch; isolation level read_uncommitted, no deserializers."""

    next_fetch_offset: int

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._records_iterator
        return iterator

    def _unpack_records(self) -> Iterator[Any]:
        records = self._records
        entries: Callable[[Any], Iterable[Any]] = _with_writer if self._tp.topic.endswith(CHANGELOG) else iter
        while records.has_next():
            batch = records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if batch.is_control_batch:
                self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)
                continue
            try:
                for record in entries(batch):
                    offset = record.offset
                    if offset >= self.next_fetch_offset:
                        self.next_fetch_offset = offset + 1
                        yield record
            except (UnicodeDecodeError, CorruptRecordException):
                for record in entries(self._lenient(batch.base_offset)):
                    if record.offset >= self.next_fetch_offset:
                        self.next_fetch_offset = record.offset + 1
                        yield record
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _lenient(self, base_offset: int) -> LenientBatch:
        """The batch by aiokafka's Python parser, header names with undecodable bytes as surrogates.

        Iterating over it raises `CorruptRecordException` if it is not the header names that are wrong.
        """
        buffer, at = self._records.buffer, 0
        while True:
            offset, length = struct.unpack_from(">qi", buffer, at)
            if offset == base_offset:
                return LenientBatch(buffer[at : at + 12 + length])
            at += 12 + length


def _with_writer(batch: Any) -> Iterator[Written]:
    for r in batch:
        yield Written(r.offset, r.timestamp, r.key, r.value, batch.producer_id)


class _LenientBuffer(bytearray):
    """Decodes its slices with `surrogateescape`."""

    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        found = super().__getitem__(at)
        return _LenientBuffer(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, "surrogateescape")


class LenientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    _buffer: bytearray

    def __iter__(self) -> LenientBatch:
        self._maybe_uncompress()
        self._buffer = _LenientBuffer(self._buffer)
        return self


def install() -> None:
    """Make aiokafka's consumers of this process hand out lean records; `requirements.check` guards the versions."""
    fetcher.MemoryRecords = KeptRecords
    fetcher.PartitionRecords = LeanRecords
