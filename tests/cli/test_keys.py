"""`sealstream keys …` by output, exit code and what then stands in the file; no key is in any output.

Mutations seen red: `status` always 0; the key of another purpose told; `--from` without zone, or cut to seconds;
destroyed without a confirmation, or with another name; the file changed although it was refused; an epoch destroyed
whatever it wraps, or when something is wrapped by another one; the KEK replaced whatever it wraps, without an epoch in
use, or in name only; more than a year ahead; destroyed whatever the protect leg has left, or without an offset of it,
or refused however soon it commits; any purpose held up by that, or a key that is still to come.
"""

from __future__ import annotations

import base64
import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import wiring
from pipeline.adapters import kek_providers, keyfile
from pipeline.adapters.key_uses import KeyUses
from pipeline.cli import keys as cli_keys
from pipeline.cli.main import cli
from pipeline.crypto.kek import LocalKek
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.subject_rows import Erasure, new, place_of
from pipeline.errors import Corrupt, Misuse, SealstreamError
from pipeline.events import Topic, iso
from tests.crypto.test_data_kek import Provider

AHEAD_MS = (int(time.time()) + 300 * 86_400) * 1_000
AHEAD, LATER = iso(AHEAD_MS), iso(AHEAD_MS + 60 * 86_400_000)
KEK = LocalKek(bytes(range(32)))
KEYS = [
    RingKey(Purpose.TOKEN, 1, KeyState.DECRYPT_ONLY, 1_000, b"a" * 32),
    RingKey(Purpose.TOKEN, 2, KeyState.ACTIVE, 2_000, b"b" * 32),
    RingKey(Purpose.REJECTS, 1, KeyState.DESTROYED, 1_000, None),
    RingKey(Purpose.REJECTS, 2, KeyState.ACTIVE, 2_000, b"c" * 32),
    RingKey(Purpose.PRODUCERS, 1, KeyState.ACTIVE, 1_000, b"d" * 32),
]
"""Of before there were epochs."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    keyfile.create(tmp_path / "keys.json", KeyRing(KEK, KEYS))
    return tmp_path / "keys.json"


@dataclass
class Positions:
    """Of `events.raw` and the protect leg, by partition. It commits `next` when it is asked once more."""

    bounds_: dict[int, tuple[int, int]] = field(default_factory=lambda: {0: (5, 9), 1: (0, 0)})
    committed_: dict[int, int] = field(default_factory=lambda: {0: 9})
    next: dict[int, int] | None = None

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        assert topic == Topic.RAW
        return self.bounds_

    def committed(self, leg: str, topic: str) -> dict[int, int]:
        assert (leg, topic) == ("protect", Topic.RAW)
        found, self.committed_ = self.committed_, self.next or self.committed_
        return found


@pytest.fixture(autouse=True)
def positions(monkeypatch: pytest.MonkeyPatch) -> Positions:
    """All is protected."""
    made = Positions()
    monkeypatch.setattr(wiring, "positions", lambda config: nullcontext(made))
    monkeypatch.setattr(cli_keys, "COMMIT_SECONDS", 0.3)
    return made


def asked(path: Path, *args: str, stdin: str | None = None) -> tuple[int, str]:
    """Return exit code and output, or the message of an error of ours. No key is in it."""
    done = CliRunner().invoke(cli, ["keys", *args], input=stdin, env={"SEALSTREAM_KEY_FILE": str(path)})
    if isinstance(done.exception, SealstreamError):
        code, output = done.exception.exit_code, str(done.exception)
    else:
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        code, output = done.exit_code, done.output
    ring = keyfile.load(path)
    for secret in (KEK.export(), *(k.key for k in ring.keys if k.key is not None), *(k.key for k in KEYS if k.key)):
        for form in (secret.hex(), base64.b64encode(secret).decode()[:20], secret.decode("latin-1")):
            assert form not in output
    return code, output


def answer(path: Path, *args: str) -> dict[str, Any]:
    code, output = asked(path, *args, "--json")
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def states(path: Path) -> dict[str, str]:
    return {k.key_id: k.state.value for k in keyfile.load(path).keys}


def test_list_shows_every_version_with_state_and_time(path: Path) -> None:
    found = answer(path, "list")
    assert (found["file"], found["kek"]) == (str(path), KEK.kek_id)
    assert found["keys"] == [
        {"key": "producers.1", "state": "active", "active_from": 1_000},
        {"key": "rejects.1", "state": "destroyed", "active_from": 1_000},
        {"key": "rejects.2", "state": "active", "active_from": 2_000},
        {"key": "token.1", "state": "decrypt-only", "active_from": 1_000},
        {"key": "token.2", "state": "active", "active_from": 2_000},
    ]
    code, output = asked(path, "list")
    assert code == 0
    assert "token.1      decrypt-only since 1970-01-01T00:00:01.000Z\n" in output


def test_list_shows_how_many_values_were_made_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALSTREAM_STATE_DIR", str(path.parent))
    KeyUses(path.parent / "key-uses", 1 << 32, lambda key_id, values: None).take("token.2", 1_500)
    keys = {k["key"]: k for k in answer(path, "list")["keys"]}
    assert keys["token.2"]["values"] == 1_500
    assert "values" not in keys["token.1"]
    assert "at most 1,500 values\n" in asked(path, "list")[1]
    (path.parent / "key-uses").unlink()
    (path.parent / "key-uses").mkdir()
    assert asked(path, "list") == (2, f"key uses {path.parent / 'key-uses'}: cannot be read (Is a directory)")


def test_status_tells_what_is_in_use_and_what_comes(path: Path) -> None:
    found = answer(path, "status")["purposes"]
    assert {name: found[name] for name in ("producers", "token", "rejects")} == {
        "producers": {"in_use": "producers.1", "overlaps": [], "next": [], "decrypt-only": [], "destroyed": []},
        "token": {"in_use": "token.2", "overlaps": [], "next": [], "decrypt-only": ["token.1"], "destroyed": []},
        "rejects": {"in_use": "rejects.2", "overlaps": [], "next": [], "decrypt-only": [], "destroyed": ["rejects.1"]},
    }
    asked(path, "rotate", "token", "--from", AHEAD)
    token = answer(path, "status")["purposes"]["token"]
    assert token["in_use"] == "token.2"
    assert token["next"] == [{"key": "token.3", "state": "active", "active_from": AHEAD_MS}]
    assert found["subjects"]["in_use"] is None
    code, output = asked(path, "status")
    assert code == 0
    assert KEK.kek_id in output
    assert "subjects: the key-encryption key" in output
    assert f"token.3 from {AHEAD}" in output
    assert "overlaps" not in output


def test_during_an_overlap_status_says_so_and_when_it_ends(path: Path) -> None:
    asked(path, "rotate", "token")
    token = answer(path, "status")["purposes"]["token"]
    assert (token["in_use"], token["overlaps"], token["next"]) == ("token.3", ["token.2"], [])
    assert "  overlaps with token.2\n" in asked(path, "status")[1]
    assert "retired_from" not in str(answer(path, "list"))
    found = answer(path, "retire", "token.2", "--from", AHEAD)
    retired = {"state": "decrypt-only", "active_from": 2_000, "retired_from": AHEAD_MS}
    assert found["keys"][4] == {"key": "token.2", **retired}
    assert answer(path, "status")["purposes"]["token"]["overlaps"] == ["token.2"]
    assert f"overlapped until {AHEAD}" in asked(path, "list")[1]
    assert asked(path, "destroy", "token.2", "--confirm", "token.2")[0] == 2


def test_status_is_a_finding_where_a_purpose_has_no_active_key(tmp_path: Path) -> None:
    keyfile.create(tmp_path / "keys.json", KeyRing(KEK, KEYS[1:3]))
    code, output = asked(tmp_path / "keys.json", "status")
    assert code == 1
    assert "rejects: no active key" in output


def test_rotate_makes_the_next_version_active_from_now_or_the_time_given(path: Path) -> None:
    before = int(time.time() * 1000)
    code, output = asked(path, "rotate", "token")
    assert code == 0
    assert "made token.3" in output
    assert states(path) | {"token.2": "active", "token.3": "active"} == states(path)
    ring = keyfile.load(path)
    assert before <= ring.keys[-1].active_from <= int(time.time() * 1000)
    asked(path, "retire", "token.2")
    asked(path, "rotate", "token", "--from", AHEAD)
    assert "made rejects.3" in asked(path, "rotate", "rejects")[1]
    assert states(path)["rejects.2"] == "decrypt-only"
    found = answer(path, "rotate", "rejects", "--from", AHEAD.replace("0Z", "5+01:00"))
    assert {"key": "rejects.4", "state": "active", "active_from": AHEAD_MS + 5 - 3_600_000} in found["keys"]
    assert len({k.key for k in keyfile.load(path).keys if k.key is not None}) == 8


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("rotate", "token", "--from", "2020-01-01T00:00:00Z"), "in the past"),
        (("rotate", "token", "--from", "tomorrow"), "--from: a time as"),
        (("rotate", "token", "--from", "2100-01-01T00:00:00"), "which zone"),
        (("rotate", "token", "--from", iso(AHEAD_MS + 67 * 86_400_000)), "at most 366 days ahead"),
        (("retire", "token.2", "--from", iso(AHEAD_MS + 67 * 86_400_000)), "at most 366 days ahead"),
        (("rotate", "master"), "Invalid value for '{"),
        (("retire", "token.2"), "last active one"),
        (("rotate", "rejects", "--from", "2020-01-01T00:00:00Z"), "in the past"),
        (("retire", "token.1"), "not active"),
        (("destroy", "token.2", "--confirm", "token.2"), "is active"),
        (("destroy", "token.1", "--confirm", "token.2"), "must repeat"),
        (("destroy", "token.1", "--confirm", ""), "must repeat"),
        (("destroy", "rejects.1", "--confirm", "rejects.1"), "already"),
        (("destroy", "token.7", "--confirm", "token.7"), "no such key"),
    ],
)
def test_wrong_use_changes_nothing(path: Path, args: tuple[str, ...], says: str) -> None:
    before = path.read_bytes()
    code, output = asked(path, *args)
    assert code == 2
    assert says in output
    assert path.read_bytes() == before


def test_retire_and_destroy_change_the_key_that_is_named(path: Path) -> None:
    keyfile.change(
        path, lambda ring: KeyRing(KEK, [*ring.keys, RingKey(Purpose.TOKEN, 3, KeyState.ACTIVE, 3_000, bytes(32))])
    )
    assert asked(path, "retire", "token.2")[1].startswith("token.2 is decrypt-only\n")
    assert answer(path, "destroy", "token.2", "--confirm", "token.2")["keys"][4]["state"] == "destroyed"
    assert states(path)["token.1"] == "decrypt-only"
    assert keyfile.load(path).tokenizer().at(2_500).version == 1


def test_a_rotation_for_a_time_that_was_not_meant_is_taken_back(path: Path) -> None:
    before = states(path)
    asked(path, "rotate", "token", "--from", LATER)
    code, output = asked(path, "rotate", "token", "--from", AHEAD)
    assert (code, f"token.3 becomes active at {LATER}" in output, "or destroy token.3" in output) == (2, True, True)
    assert asked(path, "retire", "token.2", "--from", AHEAD)[0] == 2
    assert asked(path, "destroy", "token.3", "--confirm", "token.3")[0] == 0
    assert states(path) == before | {"token.3": "destroyed"}
    assert "made token.4" in asked(path, "rotate", "token", "--from", AHEAD)[1]
    assert "or destroy token.4" in asked(path, "rotate", "token", "--from", LATER)[1]
    assert asked(path, "retire", "token.2", "--from", LATER)[0] == 0
    assert "made token.5" in asked(path, "rotate", "token", "--from", LATER)[1]


def test_destroy_asks_for_the_name_once_more(path: Path) -> None:
    assert asked(path, "destroy", "token.1", stdin="token.2\n")[0] == 2
    assert states(path)["token.1"] == "decrypt-only"
    code, output = asked(path, "destroy", "token.1", stdin="token.1\n")
    assert code == 0
    assert "destroyed token.1" in output
    assert states(path)["token.1"] == "destroyed"


# -- what is not protected yet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["token", "producers", "rejects"])
@pytest.mark.parametrize(
    ("bounds", "committed", "left"),
    [
        ({0: (5, 9), 1: (0, 2_000)}, {0: 8, 1: 1_990}, 11),
        ({0: (5, 9)}, {}, 4),
        ({0: (5, 9)}, {0: 3}, 4),
        ({0: (5, 9), 1: (0, 0)}, {0: 9}, 0),
        ({0: (5, 9)}, {0: 10}, 0),
    ],
)
def test_no_key_is_destroyed_that_a_record_may_need_which_is_not_protected(
    path: Path,
    positions: Positions,
    purpose: str,
    bounds: dict[int, tuple[int, int]],
    committed: dict[int, int],
    left: int,
) -> None:
    name = {"token": "token.1", "producers": "producers.1", "rejects": "rejects.2"}[purpose]
    if purpose != "token":
        asked(path, "rotate", purpose)
    positions.bounds_, positions.committed_ = bounds, committed
    before = path.read_bytes()
    code, output = asked(path, "destroy", name, "--confirm", name)
    if left and purpose != "rejects":
        assert (code, output) == (2, f"{left} records of events.raw are yet to be protected, and may need {name}")
        assert path.read_bytes() == before
        positions.next = {p: end for p, (_, end) in bounds.items()}
        assert asked(path, "destroy", name, "--confirm", name)[0] == 0
    else:
        assert code == 0, output
    assert states(path)[name] == "destroyed"


def test_a_key_that_has_protected_nothing_is_destroyed_whatever_is_behind(path: Path, positions: Positions) -> None:
    positions.committed_ = {}
    for purpose, name in (("token", "token.3"), ("producers", "producers.2")):
        asked(path, "rotate", purpose, "--from", AHEAD)
        assert asked(path, "destroy", name, "--confirm", name)[0] == 0


def test_without_kafka_no_token_key_is_destroyed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("SEALSTREAM_KAFKA", raising=False)
    before = path.read_bytes()
    code, output = asked(path, "destroy", "token.1", "--confirm", "token.1")
    assert (code, "SEALSTREAM_KAFKA" in output) == (2, True)
    assert path.read_bytes() == before


# -- epochs ----------------------------------------------------------------------------------------------------------


OLD, NEW = b"e" * 32, b"f" * 32


@pytest.fixture
def rolled(path: Path) -> Path:
    epochs = [
        RingKey(Purpose.SUBJECTS, 1, KeyState.DECRYPT_ONLY, 1_000, OLD),
        RingKey(Purpose.SUBJECTS, 2, KeyState.ACTIVE, 2_000, NEW),
    ]
    keyfile.change(path, lambda ring: KeyRing(KEK, [*ring.keys, *epochs]))
    return path


def stand(monkeypatch: pytest.MonkeyPatch, *keks: LocalKek) -> None:
    """Kafka has a row wrapped by each of these, and that of an erasure."""
    place = place_of("id")
    rows: dict[tuple[int, bytes], bytes] = {}
    for n, kek in enumerate(keks):
        row = new(kek, f"email.1.{n}", bytes(8), place, 0, bytes(32))
        rows[n % 2, row.key] = row.value
    erasure = Erasure("email.1.0", place, 7)
    rows[0, erasure.key] = erasure.value
    monkeypatch.setattr(wiring, "subject_rows", lambda config: rows)


def test_an_epoch_is_not_destroyed_while_it_wraps_a_key(rolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, LocalKek(OLD), LocalKek(NEW), LocalKek(OLD), KEK)
    before = rolled.read_bytes()
    code, output = asked(rolled, "destroy", "subjects.1", "--confirm", "subjects.1")
    assert code == 2
    assert "still wraps 2 keys" in output
    assert rolled.read_bytes() == before
    stand(monkeypatch, LocalKek(NEW), KEK)
    assert asked(rolled, "destroy", "subjects.1", "--confirm", "subjects.1")[0] == 0
    assert states(rolled)["subjects.1"] == "destroyed"


def test_an_epoch_is_not_destroyed_without_a_look_at_the_rows(rolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALSTREAM_KAFKA", raising=False)
    before = rolled.read_bytes()
    code, output = asked(rolled, "destroy", "subjects.1", "--confirm", "subjects.1")
    assert (code, "SEALSTREAM_KAFKA" in output) == (2, True)
    assert rolled.read_bytes() == before


def test_the_epoch_in_use_is_not_destroyed_whatever_stands(rolled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch)
    asked(rolled, "rotate", "subjects", "--from", AHEAD)
    code, output = asked(rolled, "destroy", "subjects.2", "--confirm", "subjects.2")
    assert (code, "in use" in output) == (2, True)
    assert asked(rolled, "destroy", "subjects.1", "--confirm", "subjects.1")[0] == 0


# -- another key-encryption key --------------------------------------------------------------------------------------


@pytest.fixture
def held(rolled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing but the file hangs on its KEK."""
    stand(monkeypatch, LocalKek(OLD), LocalKek(NEW))
    return rolled


def test_rewrap_makes_a_new_kek_and_all_keys_stay(held: Path) -> None:
    before = keyfile.load(held)
    assert asked(held, "rewrap")[0] == 0
    after = keyfile.load(held)
    assert after.keys == before.keys
    assert isinstance(after.kek, LocalKek)
    assert after.kek.kek_id != KEK.kek_id
    with pytest.raises(Corrupt, match="another KEK"):
        KeyRing.from_document(after.to_document(), KEK)


def test_rewrap_moves_the_file_to_a_provider_and_back(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider()
    monkeypatch.setattr(kek_providers, "provider", lambda kek: None if kek == "file" else provider)
    before = keyfile.load(held)
    env = {"SEALSTREAM_KEY_FILE": str(held)}
    moved = CliRunner().invoke(cli, ["keys", "rewrap", "--kek", "vault:transit/kek"], env=env)
    assert moved.exit_code == 0, moved.output
    with pytest.raises(Misuse, match="a provider holds its KEK"):
        keyfile.load(held)
    assert keyfile.load(held, provider).keys == before.keys
    env["SEALSTREAM_KEK"] = "vault:transit/kek"
    assert CliRunner().invoke(cli, ["keys", "rewrap", "--kek", "file"], env=env).exit_code == 0
    assert keyfile.load(held).keys == before.keys


def test_rewrap_is_refused_while_the_kek_wraps_keys_of_people(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand(monkeypatch, LocalKek(NEW), KEK)
    before = held.read_bytes()
    code, output = asked(held, "rewrap")
    assert (code, "still wraps 1 keys" in output) == (2, True)
    assert held.read_bytes() == before


def test_rewrap_needs_an_epoch_that_is_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers would go on to wrap under the former KEK."""
    stand(monkeypatch)
    for _ in range(2):
        before = path.read_bytes()
        code, output = asked(path, "rewrap")
        assert (code, "keys rotate subjects" in output) == (2, True)
        assert path.read_bytes() == before
        asked(path, "rotate", "subjects", "--from", AHEAD)
        assert answer(path, "status")["purposes"]["subjects"]["in_use"] is None


@pytest.mark.parametrize("kek", ["master", "vault:"])
def test_rewrap_to_nobody_changes_nothing(held: Path, kek: str) -> None:
    before = held.read_bytes()
    assert asked(held, "rewrap", "--kek", kek)[0] == 2
    assert held.read_bytes() == before
