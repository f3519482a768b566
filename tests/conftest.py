"""What every test gets: no network but loopback, warnings as errors, none of the caller's settings, a broker if asked.

    broker       the session's broker, real: SEALSTREAM_KAFKA, else Docker, else Kafka from Maven artifacts
    kafka        its bootstrap servers
    kafka_admin  an admin client for it
    topics       a prefix under which every topic of the pipeline stands, empty, for this test alone

With CI=true a broker that cannot be had is a failure; else its tests are skipped, and said so.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient

from pipeline.adapters import topics as kafka_topics
from pipeline.adapters.brokers import Broker, LocalBroker, find_or_start
from pipeline.errors import Transient

CI = os.environ.get("CI") == "true"
PARTITIONS = 4
LocalBroker.java_options = ("-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1")  # quick to start rather than quick
_GIVEN = os.environ.get("SEALSTREAM_KAFKA") or None
for _name in [name for name in os.environ if name.startswith("SEALSTREAM_")]:
    del os.environ[_name]  # a test means the defaults, not those of whoever runs it

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if CI else "dev")


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    found = find_or_start(_GIVEN, need_real=True)
    try:
        started = found.__enter__()
    except Transient as error:
        if CI:
            pytest.fail(f"these tests need a broker: {error}")
        pytest.skip(f"NO BROKER, NOTHING PROVED: {error}")
    try:
        yield started
    finally:
        found.__exit__(None, None, None)


@pytest.fixture(scope="session")
def kafka(broker: Broker) -> str:
    return broker.bootstrap


@pytest.fixture(scope="session")
def kafka_admin(kafka: str) -> AdminClient:
    """One client for the session: a client that goes out of scope takes its pending requests with it."""
    return AdminClient(kafka_topics.admin_config(kafka, None))


@pytest.fixture
def topics(kafka: str, kafka_admin: AdminClient) -> Iterator[str]:
    """Record times are the producer's, so that a test can bring a past with it."""
    prefix = f"t{uuid.uuid4().hex[:10]}."
    specs = kafka_topics.specs(PARTITIONS, 1, prefix=prefix, append_time=False)
    kafka_topics.apply(kafka, None, specs)
    yield prefix
    kafka_admin.delete_topics([spec.name for spec in specs])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever uses the broker is marked: `-m "not broker"` runs the rest.

    Where processes share the tests (pytest-xdist), those that wait come first and the short ones last.
    """
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.broker)
    if hasattr(config, "workerinput"):
        items.sort(key=_quickness)


def _quickness(item: pytest.Item) -> int:
    return ("long" not in item.keywords) + ("broker" not in item.keywords)
