"""Guarantee: a broker that is away is waited for, said once, and ends nothing (the rest: tests/integration/test_serve).

Mutations seen red: it is said each time; the failure ends the follower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.adapters.profile_store import ProfileStore
from pipeline.serve import follow
from pipeline.serve.follow import Follower
from pipeline.telemetry.metrics import PrometheusMetrics


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    made = ProfileStore(f"sqlite:///{tmp_path / 'profiles.db'}", "profiles")
    yield made
    made.close()


def test_a_broker_that_is_away_is_waited_for_and_that_is_said_once(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[None] = []
    partitions = follow._partitions

    def counted(*arguments: Any) -> int:
        tries.append(None)
        return partitions(*arguments)

    monkeypatch.setattr(follow, "_partitions", counted)
    monkeypatch.setattr(follow, "_TIMEOUT", 0.1)
    monkeypatch.setattr(follow, "_AGAIN_SECONDS", 0.01)
    follower = Follower(("127.0.0.1:1", {}), "profiles", store, PrometheusMetrics(), lambda: 1)
    with capture_logs() as logs, ThreadPoolExecutor(1) as pool:
        following = pool.submit(follower.run)
        until = time.monotonic() + 30
        while len(tries) < 4 and not following.done() and time.monotonic() < until:
            time.sleep(0.01)
        follower.stop()
        following.result(30)
    assert len(tries) >= 4
    assert [entry["event"] for entry in logs] == ["waiting"]
    assert not follower.ready
