"""Waiting for the legs ends where events always come, and not before what had come is done.

Mutations seen red: `ends` read anew at each question; one topic left out; a leg asked for another's topic; records that
retention has taken counted; the messages of the identify leg followed once.
"""

from __future__ import annotations

import pytest

from pipeline.adapters import settled
from pipeline.adapters.settled import HOPS, RAW, TOLD, Settled
from pipeline.events import Topic


class Busy:
    """Each question finds one record more in every topic; `step` lets a leg do what there is of a topic."""

    def __init__(self) -> None:
        self.ends = dict.fromkeys((Topic.RAW, Topic.PROTECTED, Topic.IDENTITY), 10)
        self.done: dict[tuple[str, str], int] = {}

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        end = self.ends[Topic(topic)]
        self.ends[Topic(topic)] += 1
        return {0: (3, end), 1: (0, 0)}

    def committed(self, leg: str, topic: str) -> dict[int, int]:
        done = self.done.get((leg, topic))
        return {} if done is None else {0: done}

    def step(self, leg: str, topic: Topic) -> None:
        self.done[leg, topic] = self.ends[topic] - 1


def test_each_topic_is_done_as_it_stood_when_the_one_before_was() -> None:
    busy = Busy()
    settled = Settled(busy)
    assert not settled.now()
    assert settled.behind == 7
    busy.step("protect", Topic.RAW)
    assert not settled.now()
    assert settled.behind == 7  # of events.protected
    for n in range(HOPS):
        busy.step("identify", Topic.PROTECTED if not n else Topic.IDENTITY)
        assert not settled.now(), n
        assert settled.behind > 0
    busy.step("identify", Topic.IDENTITY)
    assert settled.now()
    assert settled.now()
    assert settled.behind == 0


def test_other_legs_do_nothing_for_it() -> None:
    busy = Busy()
    settled = Settled(busy, RAW)
    busy.done = {("watch", Topic.RAW): 99, ("protect", Topic.PROTECTED): 99}
    assert not settled.now()
    busy.done["protect", Topic.RAW] = 10
    assert settled.now()


def test_ends_may_be_given() -> None:
    busy = Busy()
    busy.done = {("identify", Topic.PROTECTED): 5, ("identify", Topic.IDENTITY): 99}
    assert not Settled(busy, TOLD).now()
    assert Settled(busy, TOLD, {0: 5}).now()


def test_what_retention_took_is_nobodys_to_do() -> None:
    busy = Busy()
    assert Settled(busy, RAW, {0: 3, 1: 0}).now()


def test_waiting_tells_what_is_left_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, told = Busy(), list[int]()
    busy.done = {("protect", Topic.RAW): 8}

    def tell(behind: int) -> None:
        told.append(behind)
        busy.step("protect", Topic.RAW)

    monkeypatch.setattr(settled, "POLL_SECONDS", 0)
    assert Settled(busy, RAW).wait(0) == 2
    assert Settled(busy, RAW).wait(60, tell) == 0
    assert told == [3]
