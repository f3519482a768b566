"""`ports.Metrics` for Prometheus, in a registry of its own.

Every label value is a name from a bounded set: reasons and topics by their enums, legs, outcomes and tables by their
form and number. Anything else is counted under "other", so that no value of an event can become a label, and no fault
of ours can make more series than memory holds. Threads: the worker writes, the endpoint's thread reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from .. import __version__
from ..events import Topic
from ..outcomes import Reason
from ..ports import LegState

OTHER = "other"
MAX_NAMES = 64
_NAME = re.compile(r"[a-z][a-z_-]{0,31}\Z")
_SIZES = (1, 10, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REASONS = frozenset(reason.value for reason in Reason)
_TOPICS = frozenset(topic.value for topic in Topic)


class Names:
    """Lets short lower-case names through, the first `MAX_NAMES` of them; everything else is "other"."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def of(self, name: str) -> str:
        if name in self._seen:
            return name
        if len(self._seen) >= MAX_NAMES or not _NAME.match(name):
            return OTHER
        self._seen.add(name)
        return name


class PrometheusMetrics:
    """One per process. Cost: about 2 µs a call, some calls a batch, none an event."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Gauge("sealstream_info", "Constant 1; the version is the label.", ["version"], registry=registry).labels(
            __version__
        ).set(1)
        self._events = Counter(
            "sealstream_events", "Records by what became of them.", ["leg", "outcome"], registry=registry
        )
        self._rejects = Counter(
            "sealstream_rejects", "Rejected records by reason.", ["leg", "reason"], registry=registry
        )
        self._details = Counter(
            "sealstream_outcomes", "Other outcomes by their detail.", ["leg", "outcome", "detail"], registry=registry
        )
        self._records = Histogram(
            "sealstream_batch_records", "Records per batch.", ["leg", "topic"], registry=registry, buckets=_SIZES
        )
        self._seconds = Histogram(
            "sealstream_batch_seconds",
            "Wall time of a batch's work.",
            ["leg", "topic"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._durable = Histogram(
            "sealstream_checkpoint_seconds",
            "From the begin of a flush until its input is acknowledged.",
            ["leg"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._acknowledged = Counter(
            "sealstream_acknowledged_records", "Input records whose effects are durable.", ["leg"], registry=registry
        )
        self._commits = Counter("sealstream_commits", "Offset commits.", ["leg"], registry=registry)
        self._changes = Counter(
            "sealstream_changelog_records", "Records written to changelogs.", ["leg", "table"], registry=registry
        )
        self._bytes = Counter(
            "sealstream_changelog_bytes", "Bytes written to changelogs.", ["leg", "table"], registry=registry
        )
        self._rows = Gauge("sealstream_table_rows", "Rows in a table here.", ["leg", "table"], registry=registry)
        self._lag = Gauge(
            "sealstream_lag_records", "Records waiting at the broker.", ["leg", "topic", "partition"], registry=registry
        )
        self._state = Gauge(
            "sealstream_leg_state", "1 for the state that a leg is in.", ["leg", "state"], registry=registry
        )
        self._lookups = Counter(
            "sealstream_lookups",
            "Answers of `serve`, by what was asked for and HTTP status.",
            ["by", "status"],
            registry=registry,
        )
        self._lookup_seconds = Histogram(
            "sealstream_lookup_seconds",
            "From a lookup's request until its answer.",
            ["by"],
            registry=registry,
            buckets=_SECONDS,
        )
        self._key_values = Gauge(
            "sealstream_key_values",
            "Values made under a key of the ring on this machine, over restarts; at most so many.",
            ["key"],
            registry=registry,
        )
        self._identifiers = Names()
        self._legs, self._outcomes, self._tables, self._kinds = Names(), Names(), Names(), Names()
        self._states: dict[str, LegState] = {}

    def expect(self, legs: tuple[str, ...]) -> None:
        """Say which legs this process is to run, before it does: until all of them run, it is not ready."""
        for leg in legs:
            self.state(leg, LegState.WAITING)

    @property
    def alive(self) -> bool:
        """None of the legs has failed."""
        return LegState.FAILED not in self._states.values()

    @property
    def ready(self) -> bool:
        """There are legs, and all of them are running."""
        states = tuple(self._states.values())
        return bool(states) and all(state is LegState.RUNNING for state in states)

    @property
    def states(self) -> dict[str, str]:
        return {leg: state.value for leg, state in self._states.items()}

    def batch(self, leg: str, topic: str, records: int, seconds: float) -> None:
        leg, topic = self._legs.of(leg), _topic(topic)
        self._records.labels(leg, topic).observe(records)
        self._seconds.labels(leg, topic).observe(seconds)

    def checkpoint(self, leg: str, records: int, seconds: float) -> None:
        leg = self._legs.of(leg)
        self._durable.labels(leg).observe(seconds)
        self._acknowledged.labels(leg).inc(records)

    def outcomes(self, leg: str, counts: Mapping[tuple[str, str], int]) -> None:
        leg = self._legs.of(leg)
        for (outcome, detail), count in counts.items():
            name = self._outcomes.of(outcome)
            self._events.labels(leg, name).inc(count)
            if name == "rejected":
                self._rejects.labels(leg, detail if detail in _REASONS else OTHER).inc(count)
            elif detail:
                self._details.labels(leg, name, self._kinds.of(detail)).inc(count)

    def committed(self, leg: str, partitions: int) -> None:
        self._commits.labels(self._legs.of(leg)).inc()

    def changelog(self, leg: str, table: str, records: int, size: int) -> None:
        leg, table = self._legs.of(leg), self._tables.of(table)
        self._changes.labels(leg, table).inc(records)
        self._bytes.labels(leg, table).inc(size)

    def rows(self, leg: str, table: str, rows: int) -> None:
        self._rows.labels(self._legs.of(leg), self._tables.of(table)).set(rows)

    def lag(self, leg: str, topic: str, partition: int, records: int) -> None:
        self._lag.labels(self._legs.of(leg), _topic(topic), str(partition)).set(records)

    def lookup(self, by: str, status: int, seconds: float) -> None:
        """`by`: an identifier kind, or what else profiles are found by."""
        by = self._identifiers.of(by)
        self._lookups.labels(by, str(status)).inc()
        self._lookup_seconds.labels(by).observe(seconds)

    def key_values(self, key_id: str, values: int) -> None:
        """In all, over restarts. `key_id`: of the ring."""
        self._key_values.labels(key_id).set(values)

    def state(self, leg: str, state: LegState) -> None:
        leg = self._legs.of(leg)
        self._states = {**self._states, leg: state}  # replaced whole: the endpoint's thread may be reading it
        for each in LegState:
            self._state.labels(leg, each.value).set(each is state)


def _topic(topic: str) -> str:
    return topic if topic in _TOPICS else OTHER
