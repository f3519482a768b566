"""`sealstream identity …` by output and exit code; a value that is asked for is in no output.

Mutations seen red: kind:- is no question; the latest token although only an older one was seen; no id or identifier is
unknown; a profile id is an identifier; strict always, or never; samples unbounded; the plan the other way round; check
reads the rules in force; A and B the same, no reason; another source, another type, left for right, another topic; line
numbers from 0; empty lines, rejects and nulls are no lines of a dump; what is not JSON is a fault of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from pipeline import wiring
from pipeline.adapters import keyfile, schema_files
from pipeline.cli.main import cli
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.rejects import Original
from pipeline.errors import SealstreamError
from pipeline.events import RawRecord, Topic
from tests.stages.event_world import RECEIVED, Leg, ring
from tests.stages.identity_events import RULES_TEXT

MAIL = "canary.5e11@example.com"
STORY: list[tuple[str, dict[str, Any]]] = [
    ("web", {"type": "page", "anonymousId": "a-1"}),
    ("app", {"type": "page", "userId": "u-1", "anonymousId": "a-2"}),
    ("web", {"type": "identify", "userId": "u-1", "anonymousId": "a-1", "traits": {"email": MAIL}}),
    ("web", {"type": "page", "userId": "u-2", "anonymousId": "a-1"}),
    ("app", {"type": "page", "userId": "u-3"}),
]


class World(NamedTuple):
    keys: Path
    dump: Path
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("identity")
    keyfile.create(directory / "keys.json", ring())
    records = [
        RawRecord(
            n, RECEIVED + n, None, json.dumps({"messageId": f"m-{n}", **e}).encode(), (("source-id", s.encode()),)
        )
        for n, (s, e) in enumerate(STORY)
    ]
    protected, rejected = Leg().run(records)
    assert not rejected
    (directory / "dump.jsonl").write_bytes(b"\n".join(protected.values()))
    return World(directory / "keys.json", directory / "dump.jsonl", [json.loads(v) for v in protected.values()])


def asked(world: World, *args: str | Path, stdin: str | bytes | None = None) -> tuple[int, str]:
    """Return exit code and output, or the message of an error of ours."""
    env = {"SEALSTREAM_KEY_FILE": str(world.keys)}
    done = CliRunner().invoke(cli, ["identity", *map(str, args)], input=stdin, env=env)
    if isinstance(done.exception, SealstreamError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def answer(world: World, *args: str | Path, stdin: str | bytes | None = None) -> dict[str, Any]:
    code, output = asked(world, *args, "--json", stdin=stdin)
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


def test_explain_tells_the_chain_with_whole_tokens_as_json(world: World) -> None:
    found = answer(world, "explain", "anonymous_id:a-2", f"email:{MAIL}", world.dump)
    tokens = world.events[1]["tokens"], world.events[2]["tokens"]
    assert found["one_profile"] is True
    assert (found["left"], found["right"]) == (tokens[0]["anonymousId"], tokens[1]["traits.email"])
    assert [s["right"] for s in found["chain"]] == [tokens[0]["userId"], tokens[1]["traits.email"]]
    assert found["chain"][1]["event_id"] == world.events[2]["event_id"]


def test_explain_tells_people_why_two_are_apart_and_shows_no_value(world: World) -> None:
    code, output = asked(world, "explain", "email:-", "user_id:u-2", world.dump, stdin=f"{MAIL}\n")
    assert code == 0
    assert "not one profile" in output
    assert "kept apart: a profile has at most 1 user_id" in output
    assert "refused: limit.user_id" in output
    assert MAIL not in output
    code, output = asked(world, "explain", "user_id:u-1", "user_id:nobody", world.dump)
    assert code == 0
    assert "never seen: user_id.1." in output
    assert "nobody" not in output


def test_a_value_is_found_under_an_earlier_key(world: World, tmp_path: Path) -> None:
    second = RingKey(Purpose.TOKEN, 2, KeyState.ACTIVE, 1, bytes(32))
    keyfile.create(tmp_path / "keys.json", KeyRing(ring().kek, [*ring().keys, second]))
    found = answer(world._replace(keys=tmp_path / "keys.json"), "explain", "user_id:u-1", f"email:{MAIL}", world.dump)
    assert found["one_profile"]
    code, output = asked(world._replace(keys=tmp_path / "keys.json"), "explain", "user_id:u-1", "user_id:x", world.dump)
    assert code == 0
    assert "never seen: user_id.2." in output


def test_values_and_the_dump_may_both_come_on_standard_input(world: World) -> None:
    stdin = f"a-2\n{MAIL}\n".encode() + world.dump.read_bytes()
    assert answer(world, "explain", "anonymous_id:-", "email:-", "-", stdin=stdin)["one_profile"]


def test_timeline_is_told_by_token_value_and_profile_id_alike(world: World) -> None:
    by_value = answer(world, "timeline", "user_id:u-1", world.dump)
    assert [e["what"] for e in by_value["entries"]] == ["first_seen", "gained", "merged", "conflict"]
    assert by_value["entries"][2]["cause"]["event_id"] == world.events[2]["event_id"]
    assert answer(world, "timeline", world.events[1]["tokens"]["userId"], world.dump) == by_value
    former = by_value["entries"][0]["profile_id"]
    assert former != by_value["profile_id"]
    assert answer(world, "timeline", former, world.dump)["profile_id"] == by_value["profile_id"]
    code, output = asked(world, "timeline", former, world.dump)
    assert code == 0
    assert "merged" in output
    assert f"now: profile {by_value['profile_id']}, 4 identifiers" in output
    assert asked(world, "timeline", "0" * 32, world.dump)[0] == 2
    assert asked(world, "timeline", "user_id:nobody", world.dump) == (2, "no event has this identifier")


def test_stats_count(world: World) -> None:
    found = answer(world, "stats", world.dump)
    assert (found["profiles"], found["sizes"], found["conflicts"]) == (3, {"1": 2, "3-5": 1}, {"limit.user_id": 1})
    code, output = asked(world, "stats", world.dump, "--devices", "1")
    assert code == 0
    assert "more than 1 devices: anonymous_id 1" in output


def test_plan_tells_what_would_change_and_strict_says_so_by_exit_code(world: World, tmp_path: Path) -> None:
    shipped = (schema_files.directory(None) / "identity.toml").read_text()
    wider = tmp_path / "wider.toml"
    wider.write_text(shipped.replace("user_id = { priority = 1, limit = 1 }", "user_id = { priority = 1 }"))
    found = answer(world, "plan", wider, world.dump)
    assert (found["profiles"], found["merges"], found["changes"]) == ([3, 2], 1, True)
    assert len(found["samples"]) == 1
    assert answer(world, "plan", wider, world.dump, "--samples", "0")["samples"] == []
    code, output = asked(world, "plan", wider, world.dump, "--strict")
    assert code == 1
    assert "profiles: 3 → 2" in output
    assert asked(world, "plan", wider, world.dump, "--strict", "--rules", wider)[0] == 0
    assert "nothing would change" in asked(world, "plan", wider, world.dump, "--rules", wider)[1]


def test_check_names_line_and_key(world: World, tmp_path: Path) -> None:
    assert asked(world, "check")[0] == 0
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES_TEXT)
    code, output = asked(world, "check", rules)
    assert code == 0
    assert "phone            at most 2 in a profile within 1d, shared beyond 50" in output
    assert answer(world, "check", rules)["kinds"]["device_id"]["shared"] == 3
    rules.write_text(RULES_TEXT.replace("limit = 2, window", "limit = -2, window"))
    code, output = asked(world, "check", rules)
    assert code == 2
    assert "line 6: kinds.phone.limit" in output


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Original, int]]:
    records: list[tuple[Original, int]] = []

    @contextmanager
    def sender(_: object, topic: Topic) -> Iterator[Any]:
        assert topic is Topic.RAW
        yield lambda record, time: records.append((record, time))

    monkeypatch.setattr(wiring, "sender", sender)
    return records


def plain(record: Original) -> bytes:
    (seal_key,) = [content for name, content in record.headers if name == "seal-key"]
    return ring().opener().open("operator", seal_key or b"", record.value or b"")


@pytest.mark.parametrize("kind", ["link", "cut"])
def test_a_decision_is_an_event_that_the_protect_leg_takes(
    world: World, sent: list[tuple[Original, int]], kind: str
) -> None:
    args = (kind, "user_id:u-1", "email:-", "--reason", "they told us", "--operator", "olga")
    told = answer(world, *args, stdin=MAIL)
    ((record, time),) = sent
    raw = RawRecord(0, RECEIVED, record.key, record.value, record.headers)
    protected, rejected = Leg().run([raw])
    assert not rejected
    found = json.loads(protected[0])
    assert found["tokens"] == {
        "left": world.events[1]["tokens"]["userId"],
        "right": world.events[2]["tokens"]["traits.email"],
    }
    assert (found["type"], found["source"], found["message_id"]) == (kind, "operator", told["message_id"])
    assert told["time"] == time
    assert not [word for word in (MAIL, "they told us", "olga") if word.encode() in (record.value or b"")]
    assert set(found["sealed"]) == {"reason", "operator"}


def test_a_decision_needs_two_identifiers_and_a_reason(world: World, sent: list[tuple[Original, int]]) -> None:
    assert asked(world, "link", "user_id:u", "user_id:u", "--reason", "r")[0] == 2
    assert asked(world, "link", "user_id:u", "user_id:v", "--reason", " ")[0] == 2
    assert asked(world, "cut", "user_id:u", "user_id:v")[0] == 2
    assert asked(world, "cut", "user_id:u", "user_id:v", "--reason", "\udcff") == (
        2,
        "--reason and --operator must be UTF-8",
    )
    code, output = asked(world, "link", "user_id:u", f"mail:{MAIL}", "--reason", "r")
    assert code == 2
    assert MAIL not in output
    assert not sent


def test_a_decision_is_somebody_s(
    world: World, sent: list[tuple[Original, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "otto")
    assert asked(world, "link", "user_id:u", "user_id:v", "--reason", "r")[0] == 0
    assert json.loads(plain(sent[0][0]))["operator"] == "otto"

    def nameless() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nameless)
    code, output = asked(world, "link", "user_id:u", "user_id:v", "--reason", "r")
    assert code == 2
    assert "--operator" in output


def test_without_a_file_or_a_broker_it_is_wrong_use(world: World) -> None:
    for command in (("explain", "user_id:a", "user_id:b"), ("timeline", "user_id:a"), ("stats",)):
        code, output = asked(world, *command)
        assert code == 2
        assert "SEALSTREAM_KAFKA" in output


def test_a_line_that_is_no_event_is_named_by_its_number(world: World) -> None:
    dump = b"\n" + world.dump.read_bytes() + b'\n{"a": 1}\n'
    assert asked(world, "stats", "-", stdin=dump) == (2, "line 7 is not a protected event")
    assert asked(world, "stats", "-", stdin=b"{")[0] == 2
    wrapped = b"\n".join(b'{"origin":{},"protected":%s}' % line for line in world.dump.read_bytes().splitlines())
    rejected = b'\n{"origin":{},"rejected":{"reason":"empty"}}'
    assert answer(world, "stats", "-", stdin=wrapped + rejected)["profiles"] == 3
