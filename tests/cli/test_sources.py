"""`sealstream sources …` by output and by what it announces. On a broker: `tests/integration/test_sources.py`.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import wiring
from pipeline.adapters import keyfile
from pipeline.adapters.topic_specs import Spec
from pipeline.cli.main import cli
from pipeline.crypto.keyring import KeyRing, Purpose
from pipeline.crypto.signatures import SourceSecret
from pipeline.errors import SealstreamError
from pipeline.stages.sources import Secret, Source
from tests.stages.event_world import ring

AT = int(time.time() * 1000) + 2_000
SHOP = Source("shop", (Secret("0a1b2c3d", 1, 1_000),))


class World:
    def __init__(self, path: Path, found: dict[str, Source]) -> None:
        self.path, self.found = path, found
        self.env = {"SEALSTREAM_KEY_FILE": str(path), "SEALSTREAM_KAFKA": "127.0.0.1:1"}
        self.announced: list[Source] = []
        self.tries: list[int] = []
        self.topics = [Spec("events.raw", 4, 1, {"message.timestamp.type": "LogAppendTime"})]

    def ask(self, *args: str) -> tuple[int, str]:
        """Exit code and output, or the message of an error of ours."""
        done = CliRunner().invoke(cli, ["sources", *args], env=self.env)
        if isinstance(done.exception, SealstreamError):
            return done.exception.exit_code, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def answer(self, *args: str) -> Any:
        code, output = self.ask(*args, "--json")
        assert code == 0, output
        return json.loads(output)

    def announce(self, _: object, change: Callable[[dict[str, Source], int], Source], tries: int = 1) -> Source:
        self.announced.append(change(self.found, AT))
        self.tries.append(tries)
        return self.announced[-1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    keyfile.create(tmp_path / "keys.json", ring())
    made = World(tmp_path / "keys.json", {"shop": SHOP})
    monkeypatch.setattr(wiring, "sources", lambda _: made.found)
    monkeypatch.setattr(wiring, "announce_source", made.announce)
    monkeypatch.setattr(wiring, "as_made", lambda *_: made.topics)
    return made


def test_a_source_is_registered_and_its_secret_is_printed_alone_on_stdout(world: World) -> None:
    told = world.answer("add", "kiosk")
    (made,) = world.announced
    assert (made.name, made.since, made.off) == ("kiosk", AT, ())
    assert made.secrets == (Secret(told["secrets"][0]["kid"], 1, AT),)
    secret = SourceSecret.parse(told["secret"])
    expected = ring().source_keys().secret(1, "kiosk", secret.kid)
    assert expected is not None
    assert secret.export() == expected.export()
    code, output = world.ask("add", "kiosk")
    first, rest = output.split("\n", 1)
    assert code == 0
    assert SourceSecret.parse(first).kid == world.announced[-1].secrets[0].kid != secret.kid
    assert first[13:] not in rest


def test_it_can_be_for_a_time_ahead_and_not_for_one_that_has_passed(world: World) -> None:
    world.answer("add", "kiosk", "--from", "2100-01-01T00:00:00Z")
    assert world.announced[0].since == 4_102_444_800_000
    assert world.ask("add", "kiosk", "--from", "2020-01-01T00:00:00Z")[0] == 2
    assert len(world.announced) == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("add", "shop"), "registered already"),
        (("add", ""), "1 to 128 printable"),
        (("add", "x" * 129), "1 to 128 printable"),
        (("add", "operator"), "signs with the key ring"),
        (("rotate", "other"), "no such source; registered: shop"),
        (("revoke", "shop", "ffffffff"), "no such secret"),
        (("revoke", "other", "0a1b2c3d"), "no such source"),
        (("enable", "shop"), "is not disabled"),
        (("rotate", "shop", "--overlap", "nan"), "--overlap: a number of hours"),
        (("rotate", "shop", "--overlap", "inf"), "--overlap"),
        (("rotate", "shop", "--overlap", "-1"), "--overlap"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_announced(world: World, args: tuple[str, ...], told: str) -> None:
    code, output = world.ask(*args)
    assert code == 2
    assert told in output
    assert not world.announced


def test_without_a_sources_key_nobody_can_be_registered(world: World) -> None:
    keyfile.change(world.path, lambda r: KeyRing(r.kek, [k for k in r.keys if k.purpose is not Purpose.SOURCES]))
    code, output = world.ask("add", "kiosk")
    assert code == 2
    assert "keys rotate sources" in output


def test_where_producers_say_when_they_wrote_nobody_can_be_registered(world: World) -> None:
    world.topics = [Spec("events.raw", 4, 1, {"message.timestamp.type": "CreateTime"})]
    assert "LogAppendTime first" in world.ask("add", "kiosk")[1]
    assert not world.announced


def test_rotating_ends_the_former_secret_after_the_overlap(world: World) -> None:
    told = world.answer("rotate", "shop", "--overlap", "1.5")
    (made,) = world.announced
    former, new = made.secrets
    assert (former.kid, former.until) == ("0a1b2c3d", AT + 5_400_000)
    assert (new.since, new.until) == (AT, None)
    assert SourceSecret.parse(told["secret"]).kid == new.kid
    world.found["shop"] = made
    assert "two secrets are valid" in world.ask("rotate", "shop")[1]
    world.found["shop"] = SHOP
    assert "former one, 0a1b2c3d, is valid until" in world.ask("rotate", "shop")[1]


def test_secrets_are_revoked_and_sources_disabled_and_enabled_from_then_on(world: World) -> None:
    assert world.answer("revoke", "shop", "0a1b2c3d")["secrets"][0]["until"] == AT
    off = world.answer("disable", "shop")
    assert (off["enabled"], off["off"]) == (False, [[AT, None]])
    world.found["shop"] = world.announced[-1]
    assert "(disabled)" in world.ask("list")[1]
    on = world.answer("enable", "shop")
    assert world.tries == [1, 1, 1]  # not put off
    assert (on["enabled"], on["off"]) == (True, [[AT, AT]])


def test_list_shows_all_and_no_secret(world: World) -> None:
    world.found["a"] = Source("a", (Secret("0a1b2c3e", 1, 5, 6), Secret("0a1b2c3f", 2, 6)))
    told = world.answer("list")
    assert [s["source"] for s in told["sources"]] == ["a", "shop"]
    assert told["sources"][0]["secrets"][1] == {"kid": "0a1b2c3f", "sources_key": 2, "since": 6, "until": None}
    code, output = world.ask("list")
    assert code == 0
    assert output.count("(ended)") == 1
    assert "sks_" not in output
    world.found.clear()
    assert "sources add NAME" in world.ask("list")[1]
