"""Topics are made as DESIGN §3 names them, compared without being altered, and known by their incarnation.

Mutations seen red: `segment.ms` left to Kafka, set where nothing expires, or not compared.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from pipeline.adapters.brokers import EmbeddedBroker
from pipeline.adapters.topic_specs import differences
from pipeline.adapters.topics import (
    CHANGELOGS,
    Spec,
    State,
    apply,
    changelog_name,
    check,
    specs,
    topic_ids,
)
from pipeline.errors import Misuse, Transient
from pipeline.events import Topic
from pipeline.worker.engine import EngineConfig

MiB = 1 << 20


def by_name(found: tuple[Spec, ...]) -> dict[str, Spec]:
    return {spec.name: spec for spec in found}


# -- which topics there are ----------------------------------------------------------------------------------------


def test_every_topic_of_the_vocabulary_and_every_changelog_is_there_once() -> None:
    names = [spec.name for spec in specs(4, 1)]
    assert sorted(names) == sorted([*Topic, *(changelog_name(leg, table) for leg, table in CHANGELOGS)])


def test_changelogs_are_named_as_the_worker_names_them() -> None:
    config = EngineConfig(bootstrap="127.0.0.1:1", topic_prefix="p.", group_prefix="shop")
    for leg, table in CHANGELOGS:
        assert changelog_name(leg, table, prefix="p.", group="shop") == config.changelog_of(leg, table)


def test_a_prefix_stands_before_every_name() -> None:
    assert all(spec.name.startswith("p.") for spec in specs(4, 1, prefix="p.", group="g"))


def test_all_topics_that_keys_must_meet_on_have_one_number_of_partitions() -> None:
    counts = {spec.name: spec.partitions for spec in specs(7, 1)}
    assert counts.pop(Topic.CONTROL) == 1
    assert set(counts.values()) == {7}


def test_a_sealed_original_of_the_largest_raw_record_fits_into_its_reject() -> None:
    limits = {name: int(spec.config["max.message.bytes"]) for name, spec in by_name(specs(4, 1)).items()}
    assert limits[Topic.RAW] == 12 * MiB
    for name in (Topic.REJECTED, Topic.PROTECTED, Topic.RESOLVED):
        assert limits[name] == 17 * MiB
        assert limits[name] >= limits[Topic.RAW] * 4 / 3 + 64 * 1024


def test_state_profiles_and_control_are_compacted_and_events_never() -> None:
    found = by_name(specs(4, 1))
    compacted = {name for name, spec in found.items() if spec.config["cleanup.policy"] == "compact"}
    assert compacted == {Topic.PROFILES, Topic.CONTROL, *(changelog_name(*c) for c in CHANGELOGS)}


def test_deleted_subject_keys_leave_the_disk_within_minutes() -> None:
    keys = by_name(specs(4, 1))[changelog_name("protect", "subject-keys")].config
    assert int(keys["max.compaction.lag.ms"]) <= 600_000
    assert int(keys["segment.ms"]) <= 600_000


def test_record_times_of_raw_are_the_brokers_own() -> None:
    assert by_name(specs(4, 1))[Topic.RAW].config["message.timestamp.type"] == "LogAppendTime"


def test_nothing_expires_by_a_time_that_producers_choose() -> None:
    for spec in specs(4, 1, append_time=False):
        if spec.config["cleanup.policy"] == "delete":
            assert spec.config["retention.ms"] == "-1", spec.name


def test_what_expires_is_gone_within_a_day_and_a_topic_from_before_that_differs() -> None:
    for spec in specs(4, 1):
        expires = spec.config.get("retention.ms", "-1") != "-1"
        assert expires == (
            spec.name in {Topic.RAW, Topic.REJECTED, Topic.RESOLVED, Topic.IDENTITY, Topic.ALERTS, Topic.WATCH}
        )
        if not expires:
            assert "segment.ms" not in spec.config or spec.config["cleanup.policy"] == "compact", spec.name
            continue
        assert 0 < int(spec.config["segment.ms"]) <= min(86_400_000, int(spec.config["retention.ms"])), spec.name
        assert not differences(spec, (4, 1), {**spec.config, "segment.ms": "600000"})
        assert differences(spec, (4, 1), {**spec.config, "segment.ms": "604800000"}) == [
            "segment.ms: 604800000, wanted at most 86400000"
        ]


def test_three_copies_survive_the_loss_of_one() -> None:
    assert all(spec.config["min.insync.replicas"] == "2" for spec in specs(4, 3))


# -- what counts as a difference -----------------------------------------------------------------------------------


WANTED = Spec("t", 4, 3, {"retention.ms": "1000", "max.message.bytes": "10", "cleanup.policy": "delete"})


@pytest.mark.parametrize(
    ("shape", "config", "named"),
    [
        ((4, 3), {"retention.ms": "1000", "max.message.bytes": "10", "cleanup.policy": "delete"}, []),
        ((4, 5), {"retention.ms": "-1", "max.message.bytes": "11", "cleanup.policy": "delete"}, []),
        ((4, 3), None, []),
        ((3, 3), {}, ["partitions"]),
        ((5, 3), {}, ["partitions"]),
        ((4, 2), {}, ["replication"]),
        ((4, 3), {"retention.ms": "999"}, ["retention.ms"]),
        ((4, 3), {"max.message.bytes": "9", "cleanup.policy": "compact"}, ["cleanup.policy", "max.message.bytes"]),
    ],
)
def test_less_than_wanted_is_a_difference_and_more_is_not(
    shape: tuple[int, int], config: dict[str, str] | None, named: list[str]
) -> None:
    assert sorted(line.partition(":")[0] for line in differences(WANTED, shape, config)) == named


def test_unlimited_retention_is_not_had_by_any_number() -> None:
    wanted = Spec("t", 1, 1, {"retention.ms": "-1"})
    assert differences(wanted, (1, 1), {"retention.ms": "999999999999"})
    assert not differences(wanted, (1, 1), {"retention.ms": "-1"})


# -- on a broker ---------------------------------------------------------------------------------------------------


@pytest.fixture
def prefix(kafka_admin: AdminClient) -> Iterator[str]:
    prefix = f"topics{uuid.uuid4().hex[:8]}."
    yield prefix
    made = [name for name in kafka_admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    if made:
        kafka_admin.delete_topics(made)


def test_missing_topics_are_made_and_then_found_as_they_should_be(kafka: str, prefix: str) -> None:
    wanted = specs(3, 1, prefix=prefix)
    assert {r.state for r in check(kafka, None, wanted)} == {State.MISSING}
    assert [(r.name, r.state) for r in apply(kafka, None, wanted)] == [(s.name, State.CREATED) for s in wanted]
    assert {r.state for r in apply(kafka, None, wanted)} == {State.OK}


def test_kafka_took_every_configuration_as_it_was_meant(kafka: str, kafka_admin: AdminClient, prefix: str) -> None:
    wanted = specs(1, 1, prefix=prefix)
    apply(kafka, None, wanted)
    asked = [ConfigResource(ResourceType.TOPIC, spec.name) for spec in wanted]
    for resource, future in kafka_admin.describe_configs(asked).items():
        found = {name: entry.value for name, entry in future.result().items()}
        expected = by_name(wanted)[resource.name].config
        assert {name: found[name] for name in expected} == expected


def test_an_existing_topic_is_reported_and_left_as_it_is(kafka: str, kafka_admin: AdminClient, prefix: str) -> None:
    name = prefix + Topic.PROTECTED
    small = {"max.message.bytes": "1000", "retention.ms": "86400000"}
    kafka_admin.create_topics([NewTopic(name, 2, 1, config=small)])[name].result()
    for _ in range(2):
        reports = {r.name: r for r in apply(kafka, None, specs(4, 1, prefix=prefix))}
        assert reports[name].state is State.DIFFERS
        assert [line.partition(":")[0] for line in reports[name].differences] == [
            "partitions",
            "max.message.bytes",
            "retention.ms",
        ]
    assert len(kafka_admin.list_topics(name, timeout=10).topics[name].partitions) == 2


def test_a_topic_made_again_is_another_incarnation(kafka: str, kafka_admin: AdminClient, prefix: str) -> None:
    spec = Spec(prefix + "again", 1, 1)
    apply(kafka, None, [spec])
    first = topic_ids(kafka, None, [spec.name])
    assert first == topic_ids(kafka, None, [spec.name])
    assert len(bytes.fromhex(first[spec.name])) == 16
    kafka_admin.delete_topics([spec.name])[spec.name].result()
    while topic_ids(kafka, None, [spec.name])[spec.name]:
        time.sleep(0.05)
    apply(kafka, None, [spec])
    assert topic_ids(kafka, None, [spec.name])[spec.name] not in ("", first[spec.name])


def test_a_topic_that_is_not_there_has_no_incarnation(kafka: str) -> None:
    assert topic_ids(kafka, None, ["nothing-here"]) == {"nothing-here": ""}


def test_more_copies_than_brokers_is_wrong_use_and_named(kafka: str, prefix: str) -> None:
    with pytest.raises(Misuse, match="SEALSTREAM_REPLICATION"):
        apply(kafka, None, [Spec(prefix + "x", 1, 7)])


# -- without one ---------------------------------------------------------------------------------------------------


def test_the_embedded_cluster_has_the_topics_but_no_incarnations() -> None:
    broker = EmbeddedBroker()
    try:
        wanted = specs(4, 1, prefix="p.")
        assert {r.state for r in check(broker.bootstrap, None, wanted)} == {State.MISSING}
        assert {r.state for r in apply(broker.bootstrap, None, wanted)} == {State.CREATED}
        assert {r.state for r in apply(broker.bootstrap, None, wanted)} == {State.OK}
        assert topic_ids(broker.bootstrap, None, [wanted[0].name]) == {wanted[0].name: ""}
    finally:
        broker.close()


def test_a_broker_that_is_away_is_a_reason_to_try_again() -> None:
    with pytest.raises(Transient, match="SEALSTREAM_KAFKA"):
        check("127.0.0.1:1", None, specs(1, 1), timeout=1)


def test_security_that_cannot_work_is_wrong_use() -> None:
    with pytest.raises(Misuse, match="SEALSTREAM_KAFKA_SECURITY"):
        check("127.0.0.1:1", {"security.protocol": "SASL_SSL"}, specs(1, 1), timeout=1)
