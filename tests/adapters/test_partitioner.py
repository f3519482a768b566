"""Partitions are those of every Kafka client: aiokafka's own murmur2 is the reference."""

from __future__ import annotations

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.partitioner import murmur2_many, partitions

KNOWN = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
"""From Apache Kafka's own `UtilsTest.testMurmur2` (Apache-2.0)."""


def test_apache_kafkas_own_vectors() -> None:
    for key, expected in KNOWN.items():
        assert murmur2_many([key]).tolist() == [expected & 0xFFFFFFFF]


@given(st.integers(1, 70).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), min_size=1, max_size=20)))
def test_side_by_side_equals_one_by_one(keys: list[bytes]) -> None:
    assert murmur2_many(keys).tolist() == [murmur2(k) & 0xFFFFFFFF for k in keys]


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 12))
def test_every_key_of_a_batch_goes_where_kafkas_clients_would_send_it(keys: list[bytes], count: int) -> None:
    assert partitions(keys, count) == [(murmur2(k) & 0x7FFFFFFF) % count for k in keys]


def test_many_keys_of_few_lengths_keep_their_order() -> None:
    keys = [b"user.%d" % i for i in range(3_000)]
    assert partitions(keys, 7) == [(murmur2(k) & 0x7FFFFFFF) % 7 for k in keys]
