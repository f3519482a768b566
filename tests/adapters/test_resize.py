"""Rows of a topic that has grown move to their partitions, each once, whatever state an interruption has left.

Mutations seen red: a tombstone before the row is in its new place; evidence by member instead of root; a key's first
value instead of its last; rows that differ not compared; tombstones not heeded (then it never ends).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from pipeline.adapters.resize import MOVED_TO, Home, Plan, Resize, Rows
from pipeline.adapters.topics import Spec, apply
from pipeline.errors import Fatal, Misuse
from pipeline.stages.identity_rows import evidence_homes, evidence_key, pack, pack_members
from tests.flow.identity_world import partition_of
from tests.integration.tools import Got, read_all

pytestmark = pytest.mark.broker


def by_key(_: Iterable[bytes]) -> Home:
    return lambda key: key


def live(records: Iterable[Got]) -> dict[tuple[int, bytes], bytes]:
    """What stands in each partition after compaction."""
    rows: dict[tuple[int, bytes], bytes] = {}
    for r in records:
        assert r.key is not None
        if r.value is None:
            rows.pop((r.partition, r.key), None)
        else:
            rows[r.partition, r.key] = r.value
    return rows


class Stage:
    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap, self.topic = bootstrap, topic
        self.control = topic + ".control"
        self.count = 4

    def write(self, *records: tuple[int, bytes, bytes | None]) -> None:
        """(partition, key, value)"""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for partition, key, value in records:
            producer.produce(self.topic, value, key, partition)
        assert producer.flush(30) == 0

    def keyed(self, *records: tuple[bytes, bytes | None]) -> None:
        self.write(*((partition_of(key, self.count), key, value) for key, value in records))

    def resize(
        self,
        to: int,
        homes: Callable[[Iterable[bytes]], Home] = by_key,
        progress: Callable[[str, int, int], None] = lambda *_: None,
        records: int = 1_000_000,
    ) -> Resize:
        rows_of = (Rows(self.topic, homes),)
        plan = Plan(control=self.control, changelogs=(self.topic,), outputs=(), rows=rows_of, sources=())
        return Resize(self.bootstrap, {}, plan, to, lambda _: (), progress, records)

    def live(self) -> dict[tuple[int, bytes], bytes]:
        return live(read_all(self.bootstrap, self.topic))


@pytest.fixture
def stage(kafka: str, kafka_admin: AdminClient) -> Iterator[Stage]:
    topic = f"resize{uuid.uuid4().hex[:8]}"
    apply(kafka, None, [Spec(topic, 4, 1), Spec(topic + ".control", 1, 1)])
    yield Stage(kafka, topic)
    kafka_admin.delete_topics([topic, topic + ".control"])


KEYS = [b"key-%d" % i for i in range(200)]


@pytest.mark.parametrize("to", [5, 6, 12])
def test_each_row_has_its_last_value_at_its_home_and_nowhere_else(stage: Stage, to: int) -> None:
    stage.keyed(*((k, b"old") for k in KEYS), *((k, b"new " + k) for k in KEYS), (KEYS[0], None), (KEYS[1], None))
    stage.keyed((KEYS[1], b"again"))
    report = stage.resize(to, records=150).run()
    expected = {(partition_of(k, to), k): b"new " + k for k in KEYS[2:]}
    expected[partition_of(KEYS[1], to), KEYS[1]] = b"again"
    assert stage.live() == expected
    moved = report.moved[stage.topic]
    assert moved.rows == sum(partition_of(k, 4) != partition_of(k, to) for k in KEYS[1:])
    assert moved.stray == 0
    assert report.partitions == {stage.topic: 4}
    assert stage.resize(to).run().moved[stage.topic].rows == 0, "a repetition finds nothing to do"


def test_a_tombstone_says_where_the_row_is_now(stage: Stage) -> None:
    stage.keyed(*((k, b"v") for k in KEYS))
    stage.resize(12).run()
    tombstones = [r for r in read_all(stage.bootstrap, stage.topic) if r.value is None]
    assert tombstones
    for r in tombstones:
        assert r.headers == [(MOVED_TO, b"%d" % partition_of(r.key or b"", 12))]


def test_a_row_that_an_interruption_left_in_both_places_stays_in_the_new_one(stage: Stage) -> None:
    stage.keyed(*((k, b"v") for k in KEYS))

    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("moving") and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.resize(12, progress=interrupt).run()
    twice = stage.live()
    assert len(twice) > len(KEYS), "both places hold it"
    stage.resize(12).run()
    assert stage.live() == {(partition_of(k, 12), k): b"v" for k in KEYS}


def test_rows_that_differ_in_two_places_are_not_chosen_from(stage: Stage) -> None:
    """Partitions were added by hand, and workers went on: no row may overwrite another."""
    stage.keyed(*((k, b"old") for k in KEYS))
    with pytest.raises(KeyboardInterrupt):
        stage.resize(12, progress=_at_growth).run()
    key = next(k for k in KEYS if partition_of(k, 12) != partition_of(k, 4))
    stage.write((partition_of(key, 12), key, b"newer"))
    before = stage.live()
    with pytest.raises(Fatal, match="1 keys have rows in two partitions"):
        stage.resize(12).run()
    assert stage.live() == before


def _at_growth(what: str, done: int, total: int) -> None:
    if what.startswith("growing") and done == total:
        raise KeyboardInterrupt


def test_a_dry_run_counts_and_changes_nothing(stage: Stage) -> None:
    stage.keyed(*((k, b"v") for k in KEYS))
    before = read_all(stage.bootstrap, stage.topic)
    report = stage.resize(12).run(dry_run=True)
    assert report.moved[stage.topic].rows == sum(partition_of(k, 4) != partition_of(k, 12) for k in KEYS)
    assert read_all(stage.bootstrap, stage.topic) == before
    assert stage.resize(12).run(dry_run=True).partitions == {stage.topic: 4}


def test_fewer_partitions_are_wrong_use(stage: Stage) -> None:
    with pytest.raises(Misuse, match="give --partitions 4 or more"):
        stage.resize(3).run()


def test_evidence_goes_with_its_root(stage: Stage) -> None:
    tokens = [f"user_id.1.{i:032x}" for i in range(1, 41)]
    rows: dict[bytes, tuple[str, bytes]] = {}
    for i, root in enumerate(tokens):
        members = [f"email.1.{1000 * (i + 1) + n:032x}" for n in range(3)]
        rows[pack(root)] = root, pack_members(members)
        rows |= {evidence_key(root, m): (root, b"facts of " + m.encode()) for m in members}
    lost = evidence_key("user_id.1." + "f" * 32, tokens[0])
    old = {key: partition_of(root.encode(), 4) for key, (root, _) in rows.items()}
    stage.write(*((old[key], key, value) for key, (_, value) in rows.items()), (2, lost, b"of nobody"))
    report = stage.resize(12, evidence_homes).run()
    expected = {(partition_of(root.encode(), 12), key): value for key, (root, value) in rows.items()}
    assert stage.live() == {**expected, (2, lost): b"of nobody"}
    assert report.moved[stage.topic].stray == 1
