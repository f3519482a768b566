"""A snapshot is taken in the order that makes its findings certain.

Mutations seen red: raw opened first; committed offsets read last; the ends before are not compared with those after; no
waiting for the legs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pipeline.adapters.topic_specs import SOURCES, SUBJECT_KEYS
from pipeline.events import Topic
from pipeline.verify import moment
from pipeline.verify.log import Snapshot
from pipeline.verify.moment import snapshot
from pipeline.verify.run import LOGS


class Cluster:
    """Broker, positions and readers in one: notes what it was asked, and lets something happen then."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ends = dict.fromkeys([*LOGS, *(t for topics in SOURCES.values() for t in topics)], 10)
        self.done = {leg: dict.fromkeys(topics, 10) for leg, topics in SOURCES.items()}
        self.happens: Callable[[str], None] = lambda _: None
        self.open = 0

    def _ask(self, what: str) -> None:
        self.happens(what)
        self.asked.append(what)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, self.ends[topic])}

    def committed(self, leg: str, topic: str) -> dict[int, int]:
        self._ask(f"committed {leg}")
        return {0: self.done[leg][topic]}

    def behind(self) -> dict[str, int]:
        return {leg: sum(self.ends[t] - n for t, n in topics.items()) for leg, topics in self.done.items()}

    def reader(self, name: str) -> Any:
        self._ask(name)
        return Opened(self, name)


class Opened:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.bounds = cluster.bounds(name)
        self._cluster = cluster

    def __enter__(self) -> Opened:
        self._cluster.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.open -= 1


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moment, "_POLL_SECONDS", 0.0)


def taken(cluster: Cluster, wait: float = 0.0) -> tuple[Snapshot, list[Mapping[str, int]]]:
    told: list[Mapping[str, int]] = []
    with snapshot(cluster, dict.fromkeys(LOGS, "id"), cluster.reader, wait, told.append) as found:  # type: ignore[arg-type]
        assert cluster.open == len(LOGS)
    assert cluster.open == 0
    return found, told


def test_committed_then_outputs_then_raw_and_keys_after_what_they_sealed() -> None:
    cluster = Cluster()
    found, _ = taken(cluster)
    asked = cluster.asked
    assert asked[0] == "committed protect"
    assert asked[-1] == Topic.RAW
    assert asked.index(Topic.PROTECTED) < asked.index(SUBJECT_KEYS)
    assert found.settled
    assert found.committed == {0: 10}
    assert not found.behind
    assert found.logs[Topic.PROTECTED].bounds == {0: (0, 10)}


def test_legs_that_are_behind_are_waited_for() -> None:
    cluster = Cluster()
    cluster.done["identify"][Topic.IDENTITY] = 3

    def work(what: str) -> None:
        cluster.done["identify"][Topic.IDENTITY] = min(10, cluster.done["identify"][Topic.IDENTITY] + 1)

    cluster.happens = work
    found, told = taken(cluster, wait=30)
    assert found.settled
    assert not found.behind
    assert told[0]["identify"] == 6
    assert len(told) == 7


def test_legs_that_stay_behind_are_reported() -> None:
    cluster = Cluster()
    cluster.done["watch"][Topic.WATCH] = 3
    found, _ = taken(cluster)
    assert found.behind == {"watch": 7}
    assert found.settled, "identities do not wait for it"
    cluster.done["identify"][Topic.PROTECTED] = 9
    found, _ = taken(cluster)
    assert found.behind == {"watch": 7, "identify": 1}
    assert not found.settled


@pytest.mark.parametrize("topic", SOURCES["identify"])
def test_what_comes_while_the_ends_are_taken_unsettles_and_is_tried_again(topic: str) -> None:
    cluster = Cluster()
    times = 3

    def come(what: str) -> None:
        nonlocal times
        if what == Topic.PROFILES and times:
            times -= 1
            cluster.ends[topic] += 1
            for done in cluster.done.values():
                if topic in done:
                    done[topic] += 1

    cluster.happens = come
    found, _ = taken(cluster)
    assert not found.settled
    found, _ = taken(cluster, wait=30)
    assert found.settled
    assert times == 0
