"""`bench crypto` measures what it names: real tokens, keys that are found again, seals that open.

Mutations seen red: three sealed fields; an event of two tokens; the cold event under keys that are still cached;
records of producers that do not open; figures of the last round alone; a session of one event.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from bench import crypto
from pipeline.adapters.memory_table import MemoryTable
from pipeline.cli.main import cli
from pipeline.crypto.kek import LocalKek
from pipeline.crypto.keyring import KeyRing
from pipeline.crypto.seal import SubjectKey
from pipeline.crypto.subjects import SubjectKeys
from pipeline.stages.authenticate import Authenticator
from pipeline.stages.unseal import unseal

RING = KeyRing.generate(os.urandom, 0)


class Counting(SubjectKeys):
    def __init__(self) -> None:
        super().__init__(MemoryTable(), RING.epochs())
        self.asked: list[str] = []

    def get(self, subject: str, offset: int) -> SubjectKey:
        self.asked.append(subject)
        return super().get(subject, offset)


def test_an_event_is_three_tokens_a_look_up_and_four_seals() -> None:
    made: list[str | None] = []

    def noting(make: Callable[[str], str | None]) -> Callable[[str], str | None]:
        def noted(value: str) -> str | None:
            made.append(make(value))
            return made[-1]

        return noted

    keys, people = Counting(), (1, 2, 1)
    assert crypto._events({kind: noting(make) for kind, make in crypto._makers(RING).items()}, keys, people) > 0
    assert [(token or "").partition(".")[0] for token in made] == ["user_id", "email", "anonymous_id"] * 3
    assert keys.asked == made[::3]
    assert keys.asked[0] == keys.asked[2] != keys.asked[1]
    assert [len({at.path for at, _ in crypto.Person(n).secrets}) for n in people] == [4, 4, 4]


def test_producers_records_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def noting(records: Sequence[Any], *given: Any) -> Any:
        found = unseal(records, *given)
        opened.append(len(found.passed))
        assert not found.rejected
        return found

    monkeypatch.setattr(crypto, "unseal", noting)
    monkeypatch.setattr(crypto, "USES", 300)
    assert min(crypto._producers(RING, seed=1).values()) > 0
    assert opened == [crypto.SESSIONS, 300]


def test_signatures_fit_and_one_source_need_not_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    authenticate = Authenticator.authenticate

    def noting(self: Authenticator, records: Sequence[Any], max_bytes: int) -> Any:
        found = authenticate(self, records, max_bytes)
        assert not found.rejected
        passed.append(len(found.passed))
        return found

    monkeypatch.setattr(Authenticator, "authenticate", noting)
    found = crypto._signatures(RING, [b"{}"] * 300)
    assert passed == [300, 300]
    assert found["authenticate"] > found["authenticate_unregistered"] > 0


def test_cold_means_that_no_key_is_unwrapped_and_no_token_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    unwrapped, phases = [0], []
    unwrap, events = LocalKek.unwrap, crypto._events

    def counted(self: LocalKek, wrapped: bytes, aad: bytes) -> bytes:
        unwrapped[0] += 1
        return unwrap(self, wrapped, aad)

    def noting(makers: Any, keys: SubjectKeys, people: Sequence[int]) -> float:
        unwrapped[0] = 0
        took = events(makers, keys, people)
        phases.append((unwrapped[0], makers["email"].__self__.made, len(people)))
        return took

    monkeypatch.setattr(LocalKek, "unwrap", counted)
    monkeypatch.setattr(crypto, "_events", noting)
    crypto._keys(RING, subjects=120, seed=1)
    *_, drawn, session, _, remembered, cold = phases
    assert drawn == (0, 120, crypto.USES)
    assert session == (0, 120, crypto.USES)
    assert remembered == (0, 120, crypto.USES)
    assert cold == (119, 119, 119)


def test_people_stay_for_a_session() -> None:
    numbers = crypto._sessions(random.Random(1), 10**9)
    assert len(numbers) == crypto.USES
    times = Counter(Counter(numbers).values())
    assert max(times) == crypto.SESSION
    assert times[crypto.SESSION] > sum(times.values()) - 2 * crypto.TOGETHER > 0


def test_figures_are_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([{"event": 9.0}, {"event": 5.004}, {"event": 3.0}])
    monkeypatch.setattr(crypto, "_keys", lambda *_: next(rounds))
    for name in ("_tokens", "_producers"):
        monkeypatch.setattr(crypto, name, lambda *_: {})
    assert crypto.costs(100, 3, 7) == {"event": 5.0}


def test_the_command_gives_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "USES", 200)
    monkeypatch.setattr(crypto, "REMEMBERED", 100)
    done = CliRunner().invoke(cli, ["bench", "crypto", "--subjects", "100", "--rounds", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["bench"], found["subjects"]) == ("crypto", 100)
    assert {"event", "event_remembered", "event_cold", "subject_key_new", "seal", "open"} <= found[
        "microseconds"
    ].keys()
    assert found["microseconds"]["token_new_phone"] > found["microseconds"]["token_remembered_phone"] > 0
    assert found["peak_rss_bytes"] > 1 << 20
