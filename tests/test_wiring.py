"""What the composition root hands to the protect leg of a worker.

Mutations seen red: the check of sources left out; that of the KEK left out; nothing told to the authenticator;
sources followed once more at each try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline import settings, wiring
from pipeline.adapters import control, keyfile
from pipeline.errors import Transient
from pipeline.flow.protect import ProtectLeg
from pipeline.stages.sources import Secret, Source
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
