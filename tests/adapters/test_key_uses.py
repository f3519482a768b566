"""Guarantee: no value leaves that is not counted, over any crash and by any number of processes; none beyond the cap.

Mutations seen red: reserved after the values; not synced; the cap checked against this process's own values, or before
the line is written; a torn line joined to the next one; blocks that do not grow, or start anew; what is left of a block
lost at each call; what cannot be read taken for a fault of ours, or for nothing.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from pipeline.adapters.key_uses import BLOCK, FIRST, KeyUses, totals
from pipeline.errors import Misuse

MOST = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "key-uses"


def uses(path: Path, most: int = MOST) -> tuple[KeyUses, dict[str, int]]:
    told: dict[str, int] = {}
    return KeyUses(path, most, told.__setitem__), told


def test_whatever_was_made_was_counted_before_over_restarts_and_by_several_processes(path: Path) -> None:
    rng = random.Random(1)
    made = dict.fromkeys(("token.1", "rejects.1"), 0)
    running = [uses(path)[0] for _ in range(3)]
    for _ in range(300):
        if rng.random() < 0.1:
            running[rng.randrange(3)] = uses(path)[0]
        key_id, values = rng.choice(list(made)), rng.choice((0, 1, 5, 700, 3_000))
        rng.choice(running).take(key_id, values)
        made[key_id] += values
        assert all(totals(path)[k] >= n for k, n in made.items())
    assert all(totals(path)[k] <= n + 60 * BLOCK for k, n in made.items())


def test_one_process_reserves_in_blocks_that_grow(path: Path) -> None:
    counted, told = uses(path)
    seen = set()
    for _ in range(200_000 // 100):
        counted.take("token.1", 100)
        seen.add(told["token.1"])
    assert sorted(seen)[:3] == [FIRST, 3 * FIRST, 7 * FIRST]
    assert len(path.read_bytes().split()) // 2 == len(seen) < 12
    assert 200_000 <= told["token.1"] == totals(path)["token.1"] <= 200_000 + BLOCK
    counted.take("token.1", 5 * BLOCK)
    assert totals(path)["token.1"] >= 200_000 + 5 * BLOCK


def test_the_line_is_durable_before_the_values_leave(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def watched(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    counted, _ = uses(path)
    counted.take("token.1", 1)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]
    counted.take("token.1", FIRST - 1)
    assert len(synced) == 2
    counted.take("token.1", 1)
    assert len(synced) == 4


def test_nothing_is_made_beyond_the_cap_whoever_made_the_rest(path: Path) -> None:
    one, told = uses(path, most=3 * FIRST)
    other, _ = uses(path, most=3 * FIRST)
    one.take("token.1", FIRST)
    one.take("token.1", 2 * FIRST)
    assert told == {"token.1": 3 * FIRST}
    for process in (one, other, uses(path, most=3 * FIRST)[0]):
        with pytest.raises(Misuse, match=r"token\.1 has made the 3072 values"):
            process.take("token.1", 1)
        process.take("token.2", 1)
    uses(path)[0].take("token.1", 1)


def test_a_line_that_a_crash_has_torn_spoils_no_other_one(path: Path) -> None:
    uses(path)[0].take("token.1", 1)
    for torn in (b"\n", b"\ntoken.1 10", b"\ntok", b"\ntoken.1", b"\n\xff\xff"):
        with path.open("ab") as file:
            file.write(torn)
        before = totals(path)["token.1"]
        uses(path)[0].take("token.1", 1)
        assert totals(path)["token.1"] >= before + FIRST or torn == b"\ntoken.1 10"


def test_the_file_is_private_and_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        uses(path)[0].take("token.1", 1)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misuse, match="cannot be written"):
        uses(path)[0].take("token.1", 1)
    assert not (tmp_path / "elsewhere").exists()


def test_what_cannot_be_counted_is_not_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Misuse, match="No space left"):
        uses(path)[0].take("token.1", 1)
    assert not totals(path)
    assert not totals(path.with_name("none"))


@pytest.mark.parametrize("number", [1, 5, 13])
def test_what_cannot_be_read_is_named_with_the_reason(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", refused)
    for ask in (lambda: totals(path), lambda: uses(path)[0].take("token.1", 1)):
        with pytest.raises(Misuse, match=rf"key uses {path}: cannot be read \({os.strerror(number)}\)"):
            ask()
