"""The proof of `make canaries`, with few people.

Mutations seen red: a log line with an unsealed event; a name that its schema calls clear; `RejectBox.seal` that leaves
plaintext; the caller's compression; a temporary file, and one in the working directory, with an event; a database that
is not searched; each part of `ok` left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.canaries.run import Found, Result, run
from tests.canaries.scan import Hit


@pytest.mark.broker
def test_nothing_personal_is_left_by_sealed_events_and_in_clear_it_is_in_raw_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALSTREAM_COMPRESSION", "zstd")  # of whoever calls; then nothing could be found
    found = run(tmp_path, 3, 10, lambda _: None)
    shown = {"events.protected": 10, "profiles": 10, "database": 10}
    assert found.sealed == Found(10, 20, 0, [], shown)
    assert found.clear == Found(20, 40, 50, [], shown)
    assert found.ok


ALL = {"events.protected": 2, "profiles": 2, "database": 2}
FOUND = Result(2, 10, 1, Found(2, 4, 0, [], ALL), Found(4, 8, 10, [], ALL))
HIT = Hit("here", "card", "plain", 1)


def test_it_is_proved_by_what_was_found_and_by_what_was_not() -> None:
    assert FOUND.ok


@pytest.mark.parametrize("phase", ["sealed", "clear"])
@pytest.mark.parametrize(
    "wrong",
    [{"profiles": 3}, {"rejected": 5}, {"raw": 9}, {"elsewhere": [HIT]}]
    + [{"shown": ALL | {place: 1}} for place in ALL],
    ids=repr,
)
def test_else_it_is_not(phase: str, wrong: dict[str, Any]) -> None:
    found = replace(getattr(FOUND, phase), **wrong)
    assert not replace(FOUND, **{phase: found}).ok
