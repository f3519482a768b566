"""The judge finds what it is there to find.

Mutations seen red: what is on no side is not lost; two forms are not twice; both sides are not twice; what is not
resolved is not lost; foreign records pass; profiles are not compared; canaries are not counted; other bytes as a
duplicate.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.events import Topic
from tests.faults.oracle import Ledger, Origin, Verdict, judge
from tests.integration.tools import Got

NOW = "b" * 32
BEFORE = "a" * 32
AT = 1_790_000_000.0


def record(origin: Origin, **fields: Any) -> bytes:
    incarnation, partition, offset = origin
    return json.dumps(
        {"origin": {"topic": "events.raw", "incarnation": incarnation, "partition": partition, "offset": offset}}
        | fields
    ).encode()


class Topics:
    """Four events, of which one is rejected and one a canary; the first of an incarnation before."""

    def __init__(self) -> None:
        self.raw: set[Origin] = {(BEFORE, 0, 0), (NOW, 0, 0), (NOW, 0, 1), (NOW, 1, 0)}
        self.canaries = {(NOW, 1, 0): 1}
        self.values: dict[str, list[bytes]] = {
            Topic.PROTECTED: [record(o, anchor=f"t{i}") for i, o in enumerate(sorted(self.raw - {(NOW, 0, 1)}))],
            Topic.REJECTED: [record((NOW, 0, 1))],
            Topic.RESOLVED: [record(o) for o in sorted(self.raw - {(NOW, 0, 1)})],
        }
        self.people: dict[str, Any] = {
            f"p{i}": {"tokens": {"anonymous_id": [f"t{i}"]}, "events": {"track": 1}} for i in range(3)
        }
        self.wanted = dict(self.people)

    def read(self, topic: str) -> list[Got]:
        if topic == Topic.RAW:
            return [Got(p, o, int(AT * 1000), b"", b"", []) for i, p, o in sorted(self.raw) if i == NOW]
        return [Got(0, n, 0, b"", value, []) for n, value in enumerate(self.values[topic])]

    def profiles(self) -> dict[str, Any]:
        return self.people

    def recomputed(self) -> dict[str, Any]:
        return self.wanted

    def judged(self) -> Verdict:
        return judge(self, NOW, self.raw, self.canaries)


@pytest.fixture
def topics() -> Topics:
    return Topics()


def test_all_is_well(topics: Topics) -> None:
    assert topics.judged() == Verdict(4, 1, 0, 0, 0, 0, 1, 0, 0)
    assert topics.judged().clean


def test_a_record_again_in_equal_bytes_is_a_duplicate_and_clean(topics: Topics) -> None:
    topics.values[Topic.PROTECTED].append(topics.values[Topic.PROTECTED][0])
    assert topics.judged().duplicates == 1
    assert topics.judged().clean


def test_one_that_is_nowhere_is_lost_and_when_it_came_is_known(topics: Topics) -> None:
    topics.values[Topic.REJECTED].clear()
    found = topics.judged()
    assert (found.lost, found.lost_at, found.clean) == (1, (AT,), False)


def test_one_that_is_not_resolved_is_lost(topics: Topics) -> None:
    topics.values[Topic.RESOLVED].pop()
    assert topics.judged().lost == 1


def test_an_event_of_an_incarnation_before_is_still_missed(topics: Topics) -> None:
    topics.values[Topic.PROTECTED].pop(0)
    topics.values[Topic.RESOLVED].pop(0)
    assert topics.judged().lost == 1


def test_two_forms_are_twice(topics: Topics) -> None:
    topics.values[Topic.PROTECTED].append(record((NOW, 0, 0), anchor="other"))
    assert topics.judged().twice == 1


def test_both_sides_are_twice(topics: Topics) -> None:
    topics.values[Topic.REJECTED].append(record((NOW, 0, 0)))
    assert topics.judged().twice == 1


def test_what_nobody_sent_is_foreign(topics: Topics) -> None:
    topics.values[Topic.REJECTED].append(record((NOW, 3, 9)))
    assert topics.judged().foreign == 1


def test_a_profile_that_the_oracle_does_not_have_so_is_different(topics: Topics) -> None:
    topics.wanted = {**topics.wanted, "p0": {"tokens": {}, "events": {}}}
    assert topics.judged().different == 1


@pytest.mark.parametrize("count", [0, 2])
def test_a_canary_that_is_not_counted_once_is_wrong(topics: Topics, count: int) -> None:
    topics.people["p2"] = topics.wanted["p2"] = {"tokens": {"anonymous_id": ["t2"]}, "events": {"track": count}}
    assert topics.judged().canaries_wrong == 1


def test_the_ledger_knows_what_a_deleted_topic_held() -> None:
    ledger = Ledger()
    ledger.close(BEFORE, {0: 2, 1: 0}, {7: (0, 1)})
    assert ledger.origins(NOW, {0: 1}) == {(BEFORE, 0, 0), (BEFORE, 0, 1), (NOW, 0, 0)}
    assert ledger.canaries(NOW, {8: (0, 0)}) == {(BEFORE, 0, 1): 7, (NOW, 0, 0): 8}
