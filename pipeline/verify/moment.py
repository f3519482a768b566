"""Take a snapshot that can be proved: see `log.Snapshot` for the order in which ends are taken, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ..adapters.positions import Positions
from ..adapters.reader import Reader
from ..adapters.topic_specs import SOURCES
from ..events import Topic
from .log import Log, Snapshot
from .run import LOGS

_POLL_SECONDS = 0.3


@contextmanager
def snapshot(
    positions: Positions,
    incarnations: Mapping[str, str],
    open_reader: Callable[[str], Reader],
    wait: float,
    tell: Callable[[Mapping[str, int]], None],
) -> Iterator[Snapshot]:
    """Wait up to `wait` seconds for the legs to have committed all of their input and to be at rest; open the topics.

    `open_reader` and `incarnations` go by the names of `LOGS`. `tell` is given what the legs are behind, again and
    again. The readers close on leaving.
    """
    until = time.monotonic() + wait
    while True:
        ends = _identity_ends(positions)
        committed = positions.committed("protect", Topic.RAW)
        behind = positions.behind()
        tell(behind)
        if any(behind.values()) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            continue
        with ExitStack() as stack:
            # what came of raw, before raw; what was sealed, before its keys
            readers = {name: stack.enter_context(open_reader(name)) for name in (*LOGS[1:], LOGS[0])}
            settled = not behind["identify"] and ends == _identity_ends(positions)
            if not settled and time.monotonic() < until:
                continue
            logs = {name: Log(name, incarnations[name], r.bounds, r) for name, r in readers.items()}
            yield Snapshot(logs, committed, {leg: n for leg, n in behind.items() if n}, settled)
            return


def _identity_ends(positions: Positions) -> list[dict[int, int]]:
    return [{p: end for p, (_, end) in positions.bounds(topic).items()} for topic in SOURCES["identify"]]
