"""The commands as a user and a script meet them: in a process of their own, by output and exit code."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.adapters import keyfile
from pipeline.cli.main import cli
from pipeline.crypto.sessions import read_public
from tests.stages.event_world import ring

DATA = Path(__file__).parents[1] / "data"
CANARY = "canary.9c2e@example.com"


def sealstream(*args: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SEALSTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *args],
        input=stdin,
        capture_output=True,
        env={**clean, **env},
        timeout=60,
        check=False,
    )


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


def test_no_command_is_missing() -> None:
    found = commands(cli)
    assert {("worker",), ("keys", "rotate"), ("export",), ("identity", "explain"), ("bench", "crypto")} <= set(found)
    assert len(found) > 35


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        named = command.get_command(click.Context(command), name)
        assert named is not None
        command = named
    help_text = command.get_help(click.Context(command, info_name=" ".join(path)))
    example = help_text.partition("Example")[2]
    assert f"sealstream {' '.join(path)}" in example


EVENTS = [
    json.dumps({"type": "page", "messageId": "1", "userId": "u"}).encode(),
    b"",
    json.dumps({"type": "page", "messageId": "2", "userId": 7}).encode(),
    json.dumps({"type": "identify", "messageId": "3", "userId": "u", "traits": {"email": CANARY}}).encode(),
]


def test_protect_answers_each_line_in_order_and_says_what_its_keys_are() -> None:
    done = sealstream("protect", stdin=b"\n".join(EVENTS) + b"\n")
    assert done.returncode == 0
    found = lines(done)
    assert [f["origin"]["offset"] for f in found] == [0, 1, 2, 3]
    assert ["protected" in f for f in found] == [True, False, False, True]
    assert found[1]["rejected"]["reason"] == "empty"
    assert found[2]["rejected"] == {
        "reason": "bad_type",
        "stage": "validate",
        "path": "userId",
        "rule": "Expected str | null, got int",
    }
    assert found[0]["protected"]["anchor"] == found[3]["protected"]["anchor"]
    assert b"throw-away" in done.stderr
    assert b"2 of 4 rejected" in done.stderr
    assert CANARY.encode() not in done.stdout + done.stderr


def test_protect_strict_ends_with_1_where_anything_was_rejected() -> None:
    assert sealstream("protect", "--strict", stdin=EVENTS[0]).returncode == 0
    assert sealstream("protect", "--strict", stdin=EVENTS[2]).returncode == 1


def test_protect_takes_exact_bytes_as_base64() -> None:
    cases = [json.loads(line) for line in (DATA / "hostile.jsonl").read_text().splitlines()]
    done = sealstream("protect", "--base64", stdin="\n".join(c["base64"] for c in cases).encode())
    assert done.returncode == 0, done.stderr
    found = lines(done)
    assert len(found) == len(cases)
    for case, answer in zip(cases, found, strict=True):
        assert len(answer.keys() & {"protected", "rejected"}) == 1
        if case["expect"] == "n":
            assert "rejected" in answer
    assert sealstream("protect", "--base64", stdin=b"no base64!").returncode == 2
    one = base64.b64encode(EVENTS[0])
    assert "protected" in lines(sealstream("protect", "--base64", stdin=one))[0]


def test_all_that_the_public_sdk_sends_is_protected_and_joins_profiles() -> None:
    protected = sealstream("protect", "--strict", stdin=(DATA / "sdk-events.jsonl").read_bytes())
    assert protected.returncode == 0
    profiles = lines(sealstream("identity", "recompute", "-", stdin=protected.stdout))
    assert profiles
    assert sum(sum(p.get("events", {}).values()) for p in profiles) == 80
    backwards = b"\n".join(reversed(protected.stdout.splitlines()))
    assert lines(sealstream("identity", "recompute", "-", stdin=backwards)) == profiles


def test_keys_init_makes_a_private_file_once_and_tokens_join_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "made" / "keys.json"
    made = sealstream("keys", "init", str(path), "--json")
    assert json.loads(made.stdout)["file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert sealstream("keys", "init", str(path)).returncode == 2
    assert path.read_bytes() == before
    runs = [sealstream("protect", "--keys", str(path), "--time", "1790000000000", stdin=EVENTS[0]) for _ in range(2)]
    first, second = (lines(r)[0]["protected"] for r in runs)
    assert first["anchor"] == second["anchor"]
    assert first["event_id"] == second["event_id"]
    (key,) = read_public(sealstream("keys", "public", "--keys", str(path), "--json").stdout)
    assert (key,) == keyfile.load(path).public_keys(0)
    told = sealstream("keys", "public", "--keys", str(path)).stdout.decode()
    assert told.startswith(f"producers.1  id {key.key_id.hex()}  from 20")
    path.chmod(0o644)
    refused = sealstream("protect", "--keys", str(path), stdin=EVENTS[0])
    assert refused.returncode == 2
    assert b"chmod 600" in refused.stderr


def test_schemas_check_names_what_is_wrong(tmp_path: Path) -> None:
    assert len(json.loads(sealstream("schemas", "check", "--json").stdout)["schemas"]) == 19
    events = tmp_path / "events"
    (events / "page").mkdir(parents=True)
    source = Path(__file__).parents[2] / "schemas" / "events"
    (events / "_envelope.avsc").write_text((source / "_envelope.avsc").read_text())
    page = json.loads((source / "page" / "1.avsc").read_text())
    del page["fields"][0]["protect"]
    (events / "page" / "1.avsc").write_text(json.dumps(page))
    done = sealstream("schemas", "check", "--dir", str(tmp_path))
    assert done.returncode == 2
    assert b"page/1: name: has no protect rule" in done.stderr
    assert sealstream("schemas", "check", "--dir", str(tmp_path / "none")).returncode == 2


def test_schemas_show_is_complete_avro() -> None:
    shown = json.loads(sealstream("schemas", "show", "order_completed").stdout)
    assert [f["name"] for f in shown["fields"]][:2] == ["type", "messageId"]
    assert sealstream("schemas", "show", "nothing").returncode == 2


@pytest.mark.parametrize(
    ("args", "env", "code", "says"),
    [
        (("worker",), {}, 2, b"SEALSTREAM_KAFKA"),
        (("worker", "--legs", "fly"), {}, 2, b"--legs"),
        (("worker",), {"SEALSTREAM_KAFAK": "x"}, 2, b"did you mean SEALSTREAM_KAFKA"),
        (("topics", "apply"), {}, 2, b"SEALSTREAM_KAFKA"),
        (("topics", "apply"), {"SEALSTREAM_KAFKA": "127.0.0.1:1"}, 3, b"Kafka does not answer"),
        (("identity", "recompute", "no-such-file"), {}, 2, b"no-such-file"),
        (("fly",), {}, 2, b"No such command"),
        (("protect", "--keys", "/no/such/keys.json"), {}, 2, b"keys init"),
    ],
)
def test_wrong_use_says_what_to_do(args: tuple[str, ...], env: dict[str, Any], code: int, says: bytes) -> None:
    done = sealstream(*args, **env)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("worker", "--legs", "identify"),
        ("topics", "apply"),
        ("sources", "list"),
        ("replay",),
        ("verify",),
        ("erase", "email:a@example.com", "--ticket", "T"),
        ("identity", "stats"),
        ("keys", "rewrap"),
    ],
    ids=" ".join,
)
def test_files_of_kafkas_tls_that_do_not_load_are_wrong_use(args: tuple[str, ...], tmp_path: Path) -> None:
    keyfile.create(tmp_path / "keys.json", ring())
    done = sealstream(
        *args,
        SEALSTREAM_KAFKA="127.0.0.1:1",
        SEALSTREAM_KAFKA_SECURITY="SSL",
        SEALSTREAM_KAFKA_CA_FILE="/nowhere",
        SEALSTREAM_STATE_DIR=str(tmp_path),
    )
    assert done.returncode == 2, done.stderr
    assert b"SEALSTREAM_KAFKA_CA_FILE" in done.stderr
    assert b"a fault of ours" not in done.stderr


def test_a_reader_that_goes_away_is_no_fault() -> None:
    many = (EVENTS[0] + b"\n") * 20_000
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pipeline protect | head -1; exit ${{PIPESTATUS[0]}}"],
        input=many,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"a fault of ours" not in done.stderr


WITH_A_CHILD = """
import sys
from pathlib import Path
from bench.measure import Running
from pipeline import __main__
from pipeline.cli import main

def run(arguments):
    with Running(["sleep", "60"], {}, Path(arguments[0])) as child:
        print(child.pid, flush=True)
        child.wait(60)

main.run = run
__main__.main()
"""


def test_sigterm_leaves_no_child_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITH_A_CHILD, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
