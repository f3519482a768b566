"""Lean records are aiokafka's records, and a header name that is not UTF-8 does not stop the consumer."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.worker.records import KeptRecords, LeanRecords

Row = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)
ROWS = st.lists(
    st.tuples(st.integers(0, 2**41), st.none() | st.binary(max_size=9), st.none() | st.binary(max_size=9), HEADERS),
    min_size=1,
    max_size=20,
)


def batch(rows: list[Row], base: int = 0) -> bytearray:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    for i, (timestamp, key, value, headers) in enumerate(rows):
        builder.append(i, timestamp, key, value, headers)
    made = bytearray(builder.build())
    made[0:8] = struct.pack(">q", base)
    return made


def with_crc(made: bytearray) -> bytearray:
    made[17:21] = struct.pack(">I", calc_crc32c(bytes(made[21:])))
    return made


def read(buffer: bytes, start: int = 0) -> list[Any]:
    return list(LeanRecords(TopicPartition("t", 0), KeptRecords(buffer), [], start, None, None, True, 0))


def seen(records: list[Any]) -> list[tuple[int, Row]]:
    return [(r.offset, (r.timestamp, r.key, r.value, list(r.headers))) for r in records]


@given(ROWS)
def test_records_come_as_they_were_written(rows: list[Row]) -> None:
    assert seen(read(bytes(batch(rows)))) == list(enumerate(rows))


@given(ROWS, ROWS, st.integers(0, 25))
def test_reading_begins_where_the_consumer_stands(first: list[Row], second: list[Row], start: int) -> None:
    buffer = bytes(batch(first) + batch(second, base=len(first)))
    assert seen(read(buffer, start)) == list(enumerate(first + second))[start:]


def test_a_header_name_that_is_not_utf8_is_kept_as_surrogates() -> None:
    rows: list[Row] = [
        (1, b"k", b"before", []),
        (2, b"k", b"hit", [("name", b"v")]),
        (3, b"k", b"after", []),
    ]
    made = batch(rows)
    at = made.index(b"name")
    made[at : at + 4] = b"\xff\xfena"
    found = read(bytes(with_crc(made)))
    assert [r.value for r in found] == [b"before", b"hit", b"after"]
    assert found[1].headers[0][0].encode("utf-8", "surrogateescape") == b"\xff\xfena"
    assert bytes(found[1].headers[0][1]) == b"v"


def test_a_batch_after_a_lenient_one_is_read_as_well() -> None:
    made = batch([(2, b"k", b"hit", [("name", b"v")])])
    at = made.index(b"name")
    made[at : at + 4] = b"\xff\xff\xff\xff"
    buffer = bytes(with_crc(made) + batch([(3, b"k", b"next", [])], base=1))
    assert [(r.offset, r.value) for r in read(buffer)] == [(0, b"hit"), (1, b"next")]


def test_a_flipped_bit_is_refused() -> None:
    made = batch([(1, b"k", b"value", [])])
    made[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(made))
