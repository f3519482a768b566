"""The supervisor: starts again what failed, later and later; passes signals on; and knows when to stop.

Mutations seen red: it starts again after 2; the pauses do not begin anew, do not grow, or grow without end; it starts
again after SIGTERM; a signal is not passed on, or does not end a pause; the worker stays in the supervisor's group.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipeline.worker.supervise import Supervisor, pause


def test_pauses_double_from_one_second_to_thirty() -> None:
    assert [pause(n, 0.0) for n in (1, 2, 3, 4, 5, 6, 7, 5_000)] == [1, 2, 4, 8, 16, 30, 30, 30]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_shortened_by_half_at_most(failures: int, chance: float) -> None:
    assert pause(failures, 0.0) / 2 <= pause(failures, chance) <= pause(failures, 0.0)


class Clock:
    """Each life takes as many seconds as it was told."""

    def __init__(self, *lives: float) -> None:
        self._times: Iterator[float] = itertools.chain.from_iterable((100.0, 100.0 + seconds) for seconds in lives)

    def __call__(self) -> float:
        return next(self._times)


def ended(directory: Path, codes: list[int], *lives: float) -> tuple[int, list[float], list[dict[str, object]]]:
    """Run a command that ends with each of `codes` in turn: what came of it, the pauses, and what was logged."""
    script = (
        "import os, sys, pathlib; p = pathlib.Path(sys.argv[1]); codes = p.read_text().split(); "
        "p.write_text(' '.join(codes[1:])); c = int(codes[0]); os.kill(os.getpid(), -c) if c < 0 else os._exit(c)"
    )
    file = directory / "codes"
    file.write_text(" ".join(map(str, codes)))
    supervisor = Supervisor([sys.executable, "-c", script, str(file)], lambda: 0.0, Clock(*lives, *([1.0] * 20)))
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return False

    supervisor._stopping.wait = wait  # type: ignore[method-assign, assignment]
    with capture_logs() as logs:
        code = supervisor.run()
    assert file.read_text() == ""
    return code, waited, [{k: v for k, v in log.items() if k in ("exit_code", "signal")} for log in logs]


@pytest.mark.parametrize("final", [0, 2])
def test_it_starts_again_until_the_end_is_final(final: int, tmp_path: Path) -> None:
    code, waited, logs = ended(tmp_path, [1, -signal.SIGKILL, 3, 70, final])
    assert code == final
    assert waited == [1, 2, 4, 8]
    assert logs == [{"exit_code": 1}, {"signal": "SIGKILL"}, {"exit_code": 3}, {"exit_code": 70}]


def test_after_a_minute_of_work_the_pauses_begin_anew(tmp_path: Path) -> None:
    _, waited, _ = ended(tmp_path, [1, 1, 1, 1, 1, 0], 1, 59.9, 60, 1, 1)
    assert waited == [1, 2, 1, 2, 4]


SUPERVISED = """
import sys
from pipeline.worker.supervise import supervise
sys.exit(supervise([sys.executable, "-c", sys.argv[1]]))
"""


def supervised(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [0, 1, 5])
def test_a_signal_is_passed_on_and_the_worker_is_not_started_again(number: signal.Signals, code: int) -> None:
    script = (  # a handler could be called too late: a sleep that begins just then goes on
        "import os, signal;"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {{{int(number)}}});"
        f"os.write(1, b'up\\n'); signal.sigwait({{{int(number)}}}); os.write(1, b'told\\n'); os._exit({code})"
    )
    process = supervised(script)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == b"told\n"
        assert process.returncode == code
    finally:
        process.kill()
        process.communicate()


def test_a_signal_in_a_pause_ends_it() -> None:
    process = supervised("print('up', flush=True); import os; os.kill(os.getpid(), 9)")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        while b"SIGKILL" not in process.stdout.readline():
            pass
        time.sleep(0.1)
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


def test_the_worker_has_a_process_group_of_its_own() -> None:
    """Ctrl-C at a terminal reaches it once, from the supervisor."""
    process = supervised("import os; print(os.getpgid(0), os.getpid(), flush=True)")
    output, _ = process.communicate(timeout=20)
    group, pid = output.split()
    assert group == pid
    assert int(group) != os.getpgid(0)
