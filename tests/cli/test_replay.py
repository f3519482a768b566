"""`sealstream replay` by output and by what it writes, also where it ends early. On a broker: `test_bad_input.py`.

Mutations seen red: a destroyed key ends it; no summary when it ends early, or one where nothing was sent; on past the
record that was not sent, or where what was sent is not sure; a partition left out of `next`; not flushed when the body
raises; the flush's error in place of the first one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import settings, wiring
from pipeline.adapters import keyfile
from pipeline.adapters.reader import Found
from pipeline.cli.main import cli
from pipeline.crypto.keyring import KeyRing, Purpose
from pipeline.crypto.rejects import Original
from pipeline.errors import Misuse, SealstreamError, Transient
from pipeline.events import EventIds, RawRecord, Topic
from pipeline.outcomes import Reason, Rejected, Stage
from pipeline.stages.reject import reject
from tests.stages.event_world import ring

ROTATED = ring().rotated(Purpose.REJECTS, b"r" * 32, 2_000, 1_000)
AWAY = Transient("Kafka does not answer")


def rejected(ring: KeyRing, *times: int) -> list[bytes]:
    """Records of `events.rejected`, of raw records with these Kafka times."""
    records = [RawRecord(n, at, None, b"{%d" % n, ()) for n, at in enumerate(times)]
    found = [Rejected(r, Stage.DECODE, Reason.BAD_JSON) for r in records]
    return [o.value or b"" for o in reject(found, EventIds(Topic.RAW, "", 0), Topic.RAW, "", 0, ring.reject_boxes())]


@dataclass
class World:
    """Kafka, in which `found` stands, by partition; reading fails after `reads` records, sending after `sends`."""

    path: Path
    found: dict[int, list[bytes]] = field(default_factory=dict)
    reads: int = 1_000
    sends: int = 1_000
    flushes: bool = True
    written: list[bytes | None] = field(default_factory=list)
    handed: list[bytes | None] = field(default_factory=list)

    @contextmanager
    def reader(self, _: object, topic: Topic, since: object = None) -> Iterator[Any]:
        assert topic is Topic.REJECTED
        yield Reading(self)

    def send(self, topic: str, key: object, value: bytes | None, **_: object) -> None:
        assert topic == Topic.RAW
        if len(self.handed) == self.sends:
            raise AWAY
        self.handed.append(value)

    def flush(self) -> None:
        if not self.flushes:
            raise Transient("not every record was written")
        self.written = self.handed[:]

    def ask(self, *args: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the summary (none: {}) and the message of an error of ours."""
        env = {"SEALSTREAM_KEY_FILE": str(self.path), "SEALSTREAM_KAFKA": "127.0.0.1:1"}
        done = CliRunner().invoke(cli, ["replay", "--json", *args], env=env)
        summary = json.loads(done.stdout) if done.stdout else {}
        if isinstance(done.exception, SealstreamError):
            return done.exception.exit_code, summary, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, summary, ""


class Reading:
    def __init__(self, world: World) -> None:
        self._world = world
        self.partitions = tuple(world.found)
        self.total = 0

    def __iter__(self) -> Iterator[Found]:
        places = [(p, n, value) for p, values in self._world.found.items() for n, value in enumerate(values)]
        for partition, offset, value in places[: self._world.reads]:
            yield Found(partition, offset, 0, None, value, ())
        if self._world.reads < len(places):
            raise AWAY


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    keyfile.create(tmp_path / "keys.json", ROTATED)
    made = World(tmp_path / "keys.json")
    monkeypatch.setattr(wiring, "reader", made.reader)
    monkeypatch.setattr(wiring, "sources", lambda _: {})
    monkeypatch.setattr(wiring, "Writer", lambda *_, **__: made)
    return made


def test_what_a_destroyed_key_sealed_is_left_out_and_the_rest_is_sent(world: World) -> None:
    keyfile.change(world.path, lambda ring: ring.destroyed("rejects.1", 2_000))
    world.found = {0: rejected(ROTATED, 1_500, 2_500, 1_600, 2_600)}
    code, summary, _ = world.ask()
    assert code == 1
    assert (summary["seen"], summary["replayed"], summary["unopened"], summary["next"]) == (4, 2, 2, {"0": 4})
    assert world.written == [b"{1", b"{3"]


def test_what_ends_it_early_is_said_with_where_to_go_on(world: World) -> None:
    world.found = {0: rejected(ROTATED, 1, 2, 3), 1: rejected(ROTATED, 1, 2, 3), 2: rejected(ROTATED, 1)}
    world.sends = 4
    code, summary, message = world.ask("--since-offset", "2:0")
    assert (code, message) == (3, str(AWAY))
    assert world.written == [b"{0", b"{1", b"{2", b"{0"]
    assert (summary["seen"], summary["replayed"], summary["next"]) == (4, 4, {"0": 3, "1": 1, "2": 0})
    world.sends, world.reads = 1_000, 5
    code, summary, message = world.ask()
    assert (code, message, summary["next"]) == (3, str(AWAY), {"0": 3, "1": 2})
    world.reads, world.written, world.handed = 0, [], []
    assert world.ask() == (3, {}, str(AWAY))


def test_where_it_is_not_sure_what_is_written_it_begins_again_where_it_began(world: World) -> None:
    world.found, world.flushes = {0: rejected(ROTATED, 1, 2), 1: rejected(ROTATED, 1), 2: []}, False
    code, summary, message = world.ask("--since-offset", "2:7")
    assert (code, message) == (3, "not every record was written")
    assert summary["next"] == {"0": 0, "1": 0, "2": 7}
    world.reads = 2
    code, summary, message = world.ask()
    assert (code, message, summary["next"]) == (3, str(AWAY), {"0": 0})


@pytest.mark.parametrize("error", [Misuse("of the body"), KeyboardInterrupt(), ValueError("a fault")])
@pytest.mark.parametrize("flushes", [True, False])
def test_what_was_handed_over_is_written_whatever_the_body_raises(
    world: World, error: BaseException, flushes: bool
) -> None:
    world.flushes = flushes
    config = settings.load({"SEALSTREAM_KAFKA": "127.0.0.1:1"})

    def body() -> None:
        with wiring.sender(config, Topic.RAW) as send:
            send(Original(None, b"v", ()), 1)
            raise error

    with pytest.raises(type(error)) as raised:
        body()
    assert raised.value is error
    assert world.written == ([b"v"] if flushes else [])
