"""The lease: held while the group knows this worker for alive, by this worker's own clock.

Mutations seen red: renewed at the answer instead of the sending; an unanswered heartbeat renews; an older renewal
shortens it; the clock stands still while the process is stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

from pipeline.worker.fencing import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Coordinator(SimpleNamespace):
    """aiokafka's, whose heartbeats take 4 s."""

    def __init__(self, clock: Clock, *answers: bool) -> None:
        super().__init__(clock=clock, answers=list(answers))

    async def _do_heartbeat(self) -> bool:
        self.clock.now += 4
        answered: bool = self.answers.pop(0)
        return answered


def test_nobody_holds_a_lease_before_the_group_has_answered() -> None:
    assert not Lease(10, Clock()).held


def test_it_ends_when_its_seconds_are_over() -> None:
    clock = Clock()
    lease = Lease(10, clock)
    lease.renew()
    clock.now += 9.9
    assert lease.held
    clock.now += 0.1
    assert not lease.held


async def test_a_heartbeat_counts_from_its_sending_and_only_if_answered() -> None:
    clock = Clock()
    lease, coordinator = Lease(10, clock), Coordinator(clock, True, False)
    lease.note(coordinator)
    assert await coordinator._do_heartbeat()
    clock.now = 109.9
    assert lease.held
    assert not await coordinator._do_heartbeat()
    assert not lease.held


def test_an_older_renewal_changes_nothing() -> None:
    clock = Clock()
    lease = Lease(10, clock)
    lease.renew()
    lease.renew(50.0)
    assert lease.held


def test_it_runs_out_while_the_process_is_stopped() -> None:
    code = (
        "from pipeline.worker.fencing import Lease; l = Lease(0.5); l.renew();"
        "print(l.held, flush=True); input(); print(l.held)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "True\n"
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        subprocess.run(["sleep", "0.6"], check=True)
        os.kill(child.pid, signal.SIGCONT)
        assert child.communicate("\n")[0] == "False\n"
