"""What the composition root hands to the protect leg of a worker, and what it says of connections in clear.

Mutations seen red: the check of sources left out; that of the KEK left out; nothing told to the authenticator; sources
followed once more at each try; record times not looked at, or without sources, too. Of what is in clear: a place left
out; said at each call; all that the settings have, whatever the command uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import structlog

from pipeline import settings, wiring
from pipeline.adapters import control, keyfile
from pipeline.adapters.topics import Spec
from pipeline.errors import Misuse, Transient
from pipeline.events import Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.stages.sources import Secret, Source
from pipeline.telemetry import logs
from tests.stages.event_world import ring

SHOP = Source("shop", (Secret("0a1b2c3d", 1, 0),))


def away() -> None:
    raise Transient("away")


def there() -> None:
    pass


class Sources:
    """In place of the one that follows `control`."""

    check: Callable[[], None] = staticmethod(there)

    made: ClassVar[list[Sources]] = []

    def __init__(self, kafka: object, topic: str, use: Callable[[Any], None]) -> None:
        self.made.append(self)
        assert topic == "t.control"
        self._use = use

    def keep(self) -> None:
        self._use([SHOP])


@pytest.fixture
def leg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    keyfile.create(tmp_path / "keys.json", ring())
    monkeypatch.setattr(control, "standing", lambda *_: {})
    monkeypatch.setattr(wiring, "SourceList", Sources)

    def made(kek: Callable[[], None] = there, sources: Callable[[], None] = there, *, make: bool = True) -> Any:
        monkeypatch.setattr(Sources, "check", staticmethod(sources))
        monkeypatch.setattr(wiring, "leased_ring", lambda *_: (ring(), kek))
        env = {
            "SEALSTREAM_KAFKA": "127.0.0.1:1",
            "SEALSTREAM_TOPIC_PREFIX": "t.",
            "SEALSTREAM_KEY_FILE": str(tmp_path / "keys.json"),
            "SEALSTREAM_STATE_DIR": str(tmp_path),
        }
        maker = wiring._makers(("protect",), settings.load(env), lambda *_: None)["protect"]
        if not make:
            return maker
        found = maker()
        assert isinstance(found, ProtectLeg)
        return found

    return made


def test_the_leg_waits_while_the_kek_or_the_sources_are_away(leg: Callable[..., ProtectLeg]) -> None:
    leg().available()
    for wrong in ({"kek": away}, {"sources": away}):
        with pytest.raises(Transient):
            leg(**wrong).available()


def test_the_leg_knows_the_operator_and_the_sources_on_control(leg: Callable[..., ProtectLeg]) -> None:
    assert repr(leg().authenticator) == "Authenticator(2 sources)"


def test_while_the_broker_is_away_the_leg_is_made_again_and_sources_are_followed_once(
    leg: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Sources] = []
    monkeypatch.setattr(Sources, "made", made)
    answers: Iterator[Callable[[], Any]] = iter([away, away, dict])
    monkeypatch.setattr(control, "standing", lambda *_: next(answers)())
    maker = leg(make=False)
    for _ in range(2):
        with pytest.raises(Transient):
            maker()
    maker()
    assert len(made) == 1


@pytest.mark.parametrize("sources", [{}, {b"sources/shop": msgspec.json.encode(SHOP)}], ids=["none", "one"])
@pytest.mark.parametrize("times", ["LogAppendTime", "CreateTime"])
def test_where_there_are_sources_events_raw_must_have_the_brokers_times(
    leg: Callable[..., Any], times: str, sources: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "standing", lambda *_: sources)
    made = [Spec("t.events.raw", 4, 1, {"message.timestamp.type": times})]
    monkeypatch.setattr(wiring, "as_made", lambda *_: made)
    if sources and times == "CreateTime":
        with pytest.raises(Misuse, match=r"^topic t\.events\.raw .* set message\.timestamp\.type=LogAppendTime"):
            leg()
    else:
        leg()


ELSEWHERE = {"SEALSTREAM_KAFKA": "kafka.example:1", "SEALSTREAM_INSECURE": "true"}
SAYS = "not encrypted, or not verified: SEALSTREAM_INSECURE allows it"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """The lines on stderr so far, in a process without a log."""
    monkeypatch.setattr(structlog, "is_configured", lambda: False)
    wiring._say_in_clear.cache_clear()
    yield lambda: capsys.readouterr().err.splitlines()
    wiring._say_in_clear.cache_clear()


def test_a_command_says_once_that_it_talks_to_kafka_in_clear(said: Callable[[], list[str]]) -> None:
    for _ in range(3):
        wiring._kafka(settings.load(ELSEWHERE))
    assert said() == [f"sealstream: SEALSTREAM_KAFKA_SECURITY: {SAYS}"]


def test_nothing_is_said_where_nothing_is_in_clear_or_of_what_a_command_does_not_use(
    said: Callable[[], list[str]],
) -> None:
    for env in ({"SEALSTREAM_KAFKA": "127.0.0.1:1"}, {"SEALSTREAM_HTTP": "0.0.0.0:1"}):
        wiring._kafka(settings.load(ELSEWHERE | {"SEALSTREAM_KAFKA_SECURITY": "SSL"} | env))
    assert said() == []


Use = Callable[[settings.Settings], Any]


@pytest.mark.parametrize(
    "use",
    [
        lambda config: wiring.apply_topics(config, ()),
        lambda config: wiring.reader(config, Topic.RAW),
        wiring.positions,
        lambda config: wiring.snapshot(config, 0, lambda _: None).__enter__(),
        lambda config: wiring.sender(config, Topic.RAW).__enter__(),
        wiring.sources,
        wiring.check_times,
        wiring.subject_rows,
        wiring.version_in_force,
        lambda config: wiring.resize(config, 8, lambda *_: None),
        lambda config: wiring.refolding(config, lambda _: None),
    ],
)
def test_whatever_talks_to_kafka_says_so(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    class SaidError(Exception):
        pass

    def say(setting: str) -> None:
        assert setting == "SEALSTREAM_KAFKA_SECURITY"
        raise SaidError

    monkeypatch.setattr(wiring, "_say_in_clear", say)
    with pytest.raises(SaidError):
        use(settings.load(ELSEWHERE))


def test_a_database_by_a_way_that_is_not_verified_is_said(said: Callable[[], list[str]]) -> None:
    url = "postgresql://u@db.example:1/d?hostaddr=127.0.0.1"
    for more in ("", "&sslmode=disable"):
        with pytest.raises(Transient):
            wiring.profile_store(settings.load(ELSEWHERE | {"SEALSTREAM_SERVE_DATABASE": url + more}))
        assert said() == ([f"sealstream: SEALSTREAM_SERVE_DATABASE: {SAYS}"] if more else [])


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", ["SEALSTREAM_SERVE"]), ("127.0.0.1", [])])
def test_profiles_that_are_served_in_clear_are_said(
    host: str,
    expected: list[str],
    said: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("t" * 32)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    env = {"SEALSTREAM_SERVE_TOKEN_FILE": str(tmp_path / "token"), "SEALSTREAM_KEY_FILE": str(tmp_path / "none")}
    with pytest.raises(Misuse, match="key file"):
        wiring.serve(settings.load({"SEALSTREAM_INSECURE": "true", **env}), host, 0)
    assert said() == [f"sealstream: {name}: {SAYS}" for name in expected]
