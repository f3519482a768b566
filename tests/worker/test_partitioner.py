"""Partitions are those of every Kafka client: aiokafka's own murmur2 is the reference."""

from __future__ import annotations

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from pipeline.worker import partitioner
from pipeline.worker.partitioner import Partitioner, murmur2_many

KNOWN = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
"""From Apache Kafka's own `UtilsTest.testMurmur2` (Apache-2.0)."""


def test_apache_kafkas_own_vectors() -> None:
    for key, expected in KNOWN.items():
        assert murmur2_many([key]).tolist() == [expected & 0xFFFFFFFF]


@given(st.integers(1, 70).flatmap(lambda n: st.lists(st.binary(min_size=n, max_size=n), min_size=1, max_size=20)))
def test_side_by_side_equals_one_by_one(keys: list[bytes]) -> None:
    assert murmur2_many(keys).tolist() == [murmur2(k) & 0xFFFFFFFF for k in keys]


@given(st.lists(st.binary(max_size=40), max_size=60))
def test_every_key_of_a_batch_gets_its_positive_hash(keys: list[bytes]) -> None:
    found = Partitioner().hashes(keys)
    assert {k: found[k] for k in keys} == {k: murmur2(k) & 0x7FFFFFFF for k in keys}


def test_what_is_remembered_is_bounded_and_stays_right() -> None:
    p = Partitioner()
    for start in range(0, 3 * partitioner.CACHED, partitioner.CACHED // 2):
        keys = [b"k%d" % i for i in range(start, start + partitioner.CACHED // 2)]
        found = p.hashes(keys)
        assert len(found) <= partitioner.CACHED
    assert found[keys[-1]] == murmur2(keys[-1]) & 0x7FFFFFFF
