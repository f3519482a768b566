"""Topics on a cluster: made where missing, compared where present, never altered but by `grow` and `remove`.

An existing topic is the operator's: a difference is reported with what to do, and nothing is changed, since more
partitions would move keys (`adapters.resize` moves the rows as well), and less retention would delete records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from ..errors import Misuse, SealstreamError, Transient
from .topic_specs import CHANGELOGS, Spec, changelog_name, differences, group_name, specs

__all__ = [
    "CHANGELOGS",
    "Spec",
    "State",
    "TopicReport",
    "admin_config",
    "apply",
    "as_made",
    "changelog_name",
    "check",
    "counts",
    "explain",
    "group_name",
    "grow",
    "present",
    "remove",
    "specs",
    "topic_ids",
]

_LOGGER = logging.getLogger("librdkafka")
_SOON = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
)
"""What a new partition answers for a moment, or one that was there while the cluster learns of others."""
_MOCK = "mockCluster"  # how librdkafka's mock cluster begins its cluster id; it has no admin API, and no topic ids


class State(StrEnum):
    CREATED = "created"
    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"


class TopicReport(msgspec.Struct, frozen=True):
    """What was found of one topic; each difference reads `what: found, wanted …`."""

    name: str
    state: State
    differences: tuple[str, ...] = ()


def admin_config(bootstrap: str, security: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the configuration of a confluent-kafka client; `security` by librdkafka's names (`Settings.security`)."""
    return {
        **(security or {}),
        "bootstrap.servers": bootstrap,
        "socket.connection.setup.timeout.ms": 5_000,
        "logger": _LOGGER,  # else librdkafka writes to stderr by itself, again and again
    }


def apply(
    bootstrap: str, security: Mapping[str, str] | None, wanted: Sequence[Spec], *, timeout: float = 15.0
) -> list[TopicReport]:
    """Make the missing topics and report on each, in the order of `wanted`. `timeout` in seconds, per call to Kafka.

    Raises:
        Transient: the broker does not answer, or not in time.
        Misuse: it refuses: no permission, too few brokers for `replication`, a policy.
    """
    return _Cluster(bootstrap, security, timeout).apply(wanted)


def check(
    bootstrap: str, security: Mapping[str, str] | None, wanted: Sequence[Spec], *, timeout: float = 15.0
) -> list[TopicReport]:
    """As `apply`, but make nothing: an absent topic is reported as missing."""
    return _Cluster(bootstrap, security, timeout).check(wanted)


def topic_ids(
    bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], *, timeout: float = 15.0
) -> dict[str, str]:
    """Return each topic's incarnation: Kafka's topic id, 32 hex; "" without (no such topic, mock cluster).

    Raises `Transient` and `Misuse` as `apply` does.
    """
    return _Cluster(bootstrap, security, timeout).ids(sorted(set(names)))


def counts(
    bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], *, timeout: float = 15.0
) -> dict[str, int]:
    """Return each topic's number of partitions. Raises `Transient`, and `Misuse` where a topic is missing."""
    return _Cluster(bootstrap, security, timeout).counts(names)


def present(
    bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], *, timeout: float = 15.0
) -> dict[str, int]:
    """As `counts`, of those that are there."""
    return _Cluster(bootstrap, security, timeout).present(names)


def grow(
    bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], to: int, *, timeout: float = 15.0
) -> None:
    """Give each topic `to` partitions where it has fewer; return when the new ones have leaders.

    Raises `Transient` and `Misuse` as `apply` does; some of the topics may have grown then.
    """
    _Cluster(bootstrap, security, timeout).grow(names, to)


def as_made(
    bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], *, timeout: float = 15.0
) -> list[Spec]:
    """Return how topics are: partitions, copies, and what was configured of them. Raises as `counts` does."""
    return _Cluster(bootstrap, security, timeout).as_made(sorted(set(names)))


def remove(bootstrap: str, security: Mapping[str, str] | None, names: Iterable[str], *, timeout: float = 15.0) -> None:
    """Delete topics, those that are there; return when the broker no longer names them.

    Raises `Transient` and `Misuse` as `apply` does; some of them may be deleted then.
    """
    _Cluster(bootstrap, security, timeout).remove(names)


class _Cluster:
    def __init__(self, bootstrap: str, security: Mapping[str, str] | None, timeout: float) -> None:
        self._config = admin_config(bootstrap, security)
        self._timeout = timeout
        try:
            self._admin = AdminClient(self._config)
            metadata = self._admin.list_topics(timeout=timeout)
        except KafkaException as error:
            raise explain(error) from None
        self._mock = str(metadata.cluster_id or "").startswith(_MOCK)
        self._found = {name: t for name, t in metadata.topics.items() if t.error is None}

    def apply(self, wanted: Sequence[Spec]) -> list[TopicReport]:
        missing = [spec for spec in wanted if spec.name not in self._found]
        if self._mock:
            return self._apply_mock(wanted)
        made = self._create(missing)
        found = {report.name: report for report in self.check([spec for spec in wanted if spec.name not in made])}
        return [found.get(spec.name) or TopicReport(spec.name, State.CREATED) for spec in wanted]

    def _create(self, missing: Sequence[Spec]) -> set[str]:
        """Return the names that were made; one that another process made meanwhile is not among them."""
        if not missing:
            return set()
        new = [NewTopic(s.name, s.partitions, s.replication, config=s.config) for s in missing]
        made = set()
        for name, future in self._admin.create_topics(new, operation_timeout=self._timeout).items():
            try:
                self._result(future)
                made.add(name)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise explain(error, name) from None
        self._await(made, {s.name: s.partitions for s in missing})
        parts = [TopicPartition(s.name, n) for s in missing if s.name in made for n in range(s.partitions)]
        self._await_answers(parts)
        if len(made) < len(missing):
            self._found = self._topics()
        return made

    def _await(self, made: set[str], counts: Mapping[str, int]) -> None:
        """Creation is answered by the controller; return when the brokers' metadata have it, with leaders."""
        waited = 0
        while made:
            found = self._topics()
            ready = {
                name
                for name in made
                if name in found
                and len(found[name].partitions) == counts[name]
                and all(p.leader >= 0 for p in found[name].partitions.values())
            }
            if ready == made:
                return
            waited += 1
            if waited > 10 * self._timeout:
                raise Transient("Kafka made the partitions, but they have no leaders yet; try again")
            time.sleep(0.1)

    def _topics(self) -> dict[str, Any]:
        try:
            topics = self._admin.list_topics(timeout=self._timeout).topics
        except KafkaException as error:
            raise explain(error) from None
        return {name: t for name, t in topics.items() if t.error is None}

    def check(self, wanted: Sequence[Spec]) -> list[TopicReport]:
        if self._mock:
            return [TopicReport(s.name, State.OK if s.name in self._found else State.MISSING) for s in wanted]
        present = [spec for spec in wanted if spec.name in self._found]
        configs = self._configs([spec.name for spec in present])
        reports = []
        for spec in wanted:
            topic = self._found.get(spec.name)
            if topic is None:
                reports.append(TopicReport(spec.name, State.MISSING))
                continue
            found = differences(spec, _shape(topic), configs.get(spec.name))
            reports.append(TopicReport(spec.name, State.DIFFERS if found else State.OK, tuple(found)))
        return reports

    def as_made(self, names: Sequence[str]) -> list[Spec]:
        self.counts(names)
        made = []
        for name, entries in self._entries(names).items():
            given = {
                key: str(entry.value)
                for key, entry in entries.items()
                if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            }
            made.append(Spec(name, *_shape(self._found[name]), given))
        return made

    def remove(self, names: Iterable[str]) -> None:
        if self._mock:
            raise Misuse("the embedded broker's topics cannot be deleted")
        present = sorted(set(names) & self._found.keys())
        if not present:
            return
        for name, future in self._admin.delete_topics(present, operation_timeout=self._timeout).items():
            try:
                self._result(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise explain(error, name) from None
        for _ in range(round(10 * self._timeout)):
            if not self._topics().keys() & set(present):
                return
            time.sleep(0.1)
        raise Transient("Kafka has not deleted the topics yet; try again")

    def _configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        entries = self._entries(names)
        return {name: {key: str(entry.value) for key, entry in found.items()} for name, found in entries.items()}

    def _entries(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        if not names:
            return {}
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        found = {}
        for resource, future in self._admin.describe_configs(asked, request_timeout=self._timeout).items():
            try:
                found[resource.name] = self._result(future)
            except KafkaException as error:
                raise explain(error, resource.name) from None
        return found

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        names = sorted(set(names))
        found = self.present(names)
        missing = [name for name in names if name not in found]
        if missing:
            raise Misuse(f"topics are missing: {', '.join(missing)}; run `sealstream topics apply`")
        return found

    def present(self, names: Iterable[str]) -> dict[str, int]:
        return {name: len(self._found[name].partitions) for name in sorted(set(names)) if name in self._found}

    def grow(self, names: Iterable[str], to: int) -> None:
        if self._mock:
            raise Misuse("the embedded broker's topics cannot grow")
        small = {name for name, count in self.counts(names).items() if count < to}
        if not small:
            return
        new = [NewPartitions(name, to) for name in sorted(small)]
        for name, future in self._admin.create_partitions(new, operation_timeout=self._timeout).items():
            try:
                self._result(future)
            except KafkaException as error:
                raise explain(error, name) from None
        self._await(small, dict.fromkeys(small, to))
        self._await_answers([TopicPartition(name, number) for name in small for number in range(to)])

    def _await_answers(self, parts: Sequence[TopicPartition]) -> None:
        """Metadata name the leaders before these know that they are: return when each of them answers."""
        if not parts:
            return
        for _ in range(round(10 * self._timeout)):
            asked = self._admin.list_offsets({tp: OffsetSpec.latest() for tp in parts}, request_timeout=self._timeout)
            try:
                for future in asked.values():
                    self._result(future)
                return
            except KafkaException as error:
                if error.args[0].code() not in _SOON:
                    raise explain(error) from None
            time.sleep(0.1)
        raise Transient("Kafka made the partitions, but they do not answer yet; try again")

    def ids(self, names: Sequence[str]) -> dict[str, str]:
        ids = dict.fromkeys(names, "")
        present = [name for name in names if name in self._found]
        if self._mock or not present:
            return ids
        described = self._admin.describe_topics(TopicCollection(present), request_timeout=self._timeout)
        for name, future in described.items():
            try:
                uuid = self._result(future).topic_id
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise explain(error, name) from None
            ids[name] = _hex(uuid)
        return ids

    def _apply_mock(self, wanted: Sequence[Spec]) -> list[TopicReport]:
        """The mock cluster makes a topic when a producer asks for it, always with 4 partitions and no configuration."""
        producer = Producer(self._config)
        reports = []
        for spec in wanted:
            reports.append(TopicReport(spec.name, State.OK if spec.name in self._found else State.CREATED))
            producer.list_topics(spec.name, timeout=self._timeout)
        return reports

    def _result(self, future: Future[Any]) -> Any:
        return future.result(timeout=2 * self._timeout)


def _shape(topic: Any) -> tuple[int, int]:
    parts = topic.partitions.values()
    return len(parts), min((len(p.replicas) for p in parts), default=0)


def _hex(uuid: Any) -> str:
    """Kafka's zero id stands for none (topics of a cluster that has no ids)."""
    high = uuid.get_most_significant_bits() & (1 << 64) - 1
    low = uuid.get_least_significant_bits() & (1 << 64) - 1
    return f"{high:016x}{low:016x}" if high or low else ""


_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the Kafka user lacks CREATE, ALTER, DELETE or DESCRIBE_CONFIGS on topics",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the Kafka user lacks CREATE on the cluster",
    KafkaError.SASL_AUTHENTICATION_FAILED: "Kafka refuses user or password; see SEALSTREAM_KAFKA_USERNAME",
    KafkaError._AUTHENTICATION: "Kafka refuses user or password; see SEALSTREAM_KAFKA_USERNAME",
    KafkaError._SSL: "the TLS connection to Kafka fails; see SEALSTREAM_KAFKA_CA_FILE",
    KafkaError.INVALID_REPLICATION_FACTOR: "it has fewer brokers than copies wanted; see SEALSTREAM_REPLICATION",
    KafkaError.INVALID_PARTITIONS: "Kafka refuses this number of partitions; see SEALSTREAM_PARTITIONS",
    KafkaError.TOPIC_EXCEPTION: "Kafka refuses the name; see SEALSTREAM_GROUP",
    KafkaError.INVALID_CONFIG: "Kafka refuses a configuration of ours; Kafka 3.9 or newer is needed",
    KafkaError.TOPIC_DELETION_DISABLED: "the brokers have delete.topic.enable=false",
    KafkaError.POLICY_VIOLATION: "the cluster's policy refuses the topic; ask who runs it",
    KafkaError._INVALID_ARG: "Kafka settings do not fit together; see SEALSTREAM_KAFKA_SECURITY",
}


def explain(error: KafkaException, topic: str = "") -> SealstreamError:
    """Return the error to raise: `Misuse` where trying again cannot help, else `Transient`."""
    fault = error.args[0] if error.args else None
    code, name = (fault.code(), fault.name()) if isinstance(fault, KafkaError) else (None, type(error).__name__)
    where = f"topic {topic}: " if topic else ""
    if code in _REFUSED:
        return Misuse(f"{where}{_REFUSED[code]} ({name})")
    return Transient(f"{where}Kafka does not answer ({name}); is it up, and is SEALSTREAM_KAFKA… right?")
