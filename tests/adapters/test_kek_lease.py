"""How long a KEK may be used without its provider.

Mutations seen red: valid for ever; from the answer on, not from the question; a failure ends it at once; asked no more
after a `Transient`; asked on after a `Misuse`; a fault of ours ends the thread unseen; a clock that stands still while
the machine sleeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pipeline.adapters.kek_lease import AGAIN_SECONDS, KekLease
from pipeline.errors import Corrupt, Fatal, Misuse, SealstreamError, Transient


class World:
    def __init__(self, seconds: float = 3_600.0) -> None:
        self.now, self.error, self.takes = 1_000.0, None, 0.0
        self.lease = KekLease(self._prove, seconds, lambda: self.now)

    error: Exception | None

    def _prove(self) -> None:
        self.now += self.takes
        if self.error is not None:
            raise self.error

    def valid_at(self, now: float) -> bool:
        self.now = now
        try:
            self.lease.check()
        except SealstreamError:
            return False
        return True


def test_it_is_valid_for_its_time_and_then_transient() -> None:
    world = World()
    assert [world.valid_at(1_000 + s) for s in (0, 3_599.9, 3_600, 10_000)] == [True, True, False, False]
    with pytest.raises(Transient):
        world.lease.check()


def test_the_time_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = KekLease(lambda: None, 60)
    lease.check()
    awake = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake + 3_600 * (clock == time.CLOCK_BOOTTIME))
    with pytest.raises(Transient):
        lease.check()


def test_a_proof_extends_it_from_the_moment_that_was_asked_and_is_due_half_way() -> None:
    world = World()
    world.now, world.takes = 2_000.0, 60.0
    assert world.lease.renew() == 1_800
    assert [world.valid_at(2_000 + s) for s in (3_599, 3_600)] == [True, False]


def test_while_the_provider_is_away_it_stays_valid_is_tried_again_soon_and_recovers() -> None:
    world = World()
    world.error = Transient("away: why")
    assert world.lease.renew() == AGAIN_SECONDS
    assert world.valid_at(4_000)
    assert not world.valid_at(4_600)
    with pytest.raises(Transient, match="away: why"):
        world.lease.check()
    assert world.lease.renew() == AGAIN_SECONDS
    world.error = None
    assert world.lease.renew() == 1_800
    assert world.valid_at(4_601)


def test_a_short_one_is_tried_again_sooner() -> None:
    world = World(20.0)
    world.error = Transient("away")
    assert world.lease.renew() == 2


@pytest.mark.parametrize("error", [Misuse("the PIN"), Corrupt("another key"), Fatal("ours")])
def test_what_cannot_mend_itself_is_not_tried_again_and_said_when_the_time_is_over(error: SealstreamError) -> None:
    world = World()
    world.error = error
    assert world.lease.renew() is None
    assert world.valid_at(4_599)
    world.now = 4_600
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            world.lease.check()


def test_a_fault_of_ours_ends_in_fatal_without_its_message() -> None:
    world = World()
    world.error = KeyError("canary-9c2e")
    assert world.lease.renew() is None
    world.now = 4_600
    with pytest.raises(Fatal, match="KeyError") as raised:
        world.lease.check()
    assert "canary" not in str(raised.value)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_the_thread_asks_by_itself_again_and_again_until_that_is_of_no_use() -> None:
    answers: list[Exception | None] = [None, Transient("away"), None, Misuse("gone")]
    asked: list[Exception | None] = []

    def prove() -> None:
        asked.append(answers[len(asked)])
        if (error := asked[-1]) is not None:
            raise error

    before = {*threading.enumerate()}
    KekLease(prove, 0.02).keep()
    until(lambda: len(asked) == 4)
    until(lambda: {*threading.enumerate()} <= before)
    assert asked == answers
