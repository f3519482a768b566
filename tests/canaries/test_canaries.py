"""The proof of `make canaries`, with few people.

Mutations seen red: a log line with an unsealed event; a name that its schema calls clear.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.canaries.run import run

pytestmark = pytest.mark.broker


def test_nothing_personal_is_left_by_sealed_events_and_in_clear_it_is_in_raw_alone(tmp_path: Path) -> None:
    found = run(tmp_path, 3, 10, lambda _: None)
    assert not found.sealed
    assert not found.clear_elsewhere
    assert found.clear_raw == found.values == 50
    assert found.profiles == 10
    assert found.rejected == 20
