"""Erasure and export on a real broker: from the commands to what is left in topics, tables and a backup of them.

Seen red while it was built: a worker that is stopped while its group rebalances ends with 3; an export in the audit log
whose file could not be made; an erasure that was begun and is asked for again, done for one token. Mutations of the
parts: `tests/rights`, `tests/flow/test_erasure*.py`.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from pipeline.adapters import keyfile
from pipeline.adapters.memory_table import MemoryTable
from pipeline.adapters.topic_specs import changelog_name
from pipeline.crypto.subjects import SubjectKeys
from pipeline.demo.story import DemoEvent
from pipeline.errors import Corrupt
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import ending, last_values, produce, wait_for

NOW = 1_790_000_000_000
CANARY = "canary.8842"


def sent(who: str, n: int, at: int = 0) -> DemoEvent:
    """An event of somebody; each goes to a partition of its own chance, so that a person has several keys."""
    traits = {"email": f"{who}@example.com", "name": f"{who} {CANARY}", "plan": f"plan-of-{who}"}
    made: dict[str, Any] = {"type": "identify", "messageId": f"{who}-{n}", "userId": who, "traits": traits}
    made["anonymousId"] = f"device {n % 2} of {who}"
    return DemoEvent(f"{who}-{n}".encode(), json.dumps(made).encode(), (("source-id", b"shop"),), NOW + at + n)


def answer(pipeline: Pipeline, *args: str, stdin: bytes = b"", code: int = 0) -> Any:
    done = pipeline.command(*args, stdin=stdin)
    assert done.returncode == code, (done.stdout + done.stderr).decode()
    return json.loads(done.stdout) if "--json" in args else done.stdout.decode()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_person_is_exported_erased_and_comes_back_as_somebody_new(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path, SEALSTREAM_SESSION_SECONDS="6")
    people = ["ann", "bob", "cid"]
    pipeline.produce(sent(who, n) for n in range(40) for who in people)
    with ending(pipeline.worker()):
        pipeline.wait(60)
        before = pipeline.profiles()
        assert len(before) == len(people)
        ann = next(ident for ident, p in before.items() if p["traits"]["plan"] == "plan-of-ann")

        file = tmp_path / "ann.jsonl"
        asked = ("export", "email:-", "--ticket", "T-1", "--to", str(file))
        answer(pipeline, *asked, stdin=b"ann@example.com\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        person, *events, last = lines(file)
        assert person["person"]["profile_id"] == ann
        assert len(events) == 40
        assert last["held"]["unreadable"] == 0
        assert {e["event"]["opened"]["traits.name"] for e in events} == {f"ann {CANARY}"}
        assert b"cannot be made" in pipeline.command(*asked, stdin=b"ann@example.com\n").stderr

        backup = {name: last_values(pipeline.read(name)) for name in [changelog_name("protect", "subject-keys")]}
        left = answer(pipeline, "erase", ann, "--ticket", "T-2", "--yes", "--json")
        assert left["done"], left
        assert left["markers"] == 4 * len(person["person"]["tokens"])
        assert ann not in pipeline.profiles()
        assert {k: v for k, v in before.items() if k != ann} == pipeline.profiles()

        # a replay of before the erasure, from whatever was committed, changes nothing
        again = answer(pipeline, "erase", "--again", left["erasure"], "--json")
        assert again["done"]
        assert again["missing"] == 0

        # nobody else gives orders through the audit log
        (order,) = [json.loads(r.value or b"") for r in pipeline.read(Topic.AUDIT) if b'"erase"' in (r.value or b"")]
        bob = next(p for p in before.values() if p["traits"]["plan"] == "plan-of-bob")
        forged = {
            **order,
            "id": "f" * 32,
            "ticket": "forged",
            "profile_id": bob["profile_id"],
            "tokens": bob["tokens"]["user_id"],
        }
        produce(kafka, topics + Topic.AUDIT, [(b"f" * 32, json.dumps(forged, sort_keys=True).encode())])
        refused = pipeline.command("erase", "--again", "f" * 32)
        assert (refused.returncode, b"not written with this key ring" in refused.stderr) == (1, True)
        assert bob["profile_id"] in pipeline.profiles()

        asked = ("export", f"{person['person']['tokens'][0]}", "--ticket", "T-3", "--to", str(tmp_path / "after.jsonl"))
        answer(pipeline, *asked)
        assert CANARY not in (tmp_path / "after.jsonl").read_text()

        pipeline.produce([sent("ann", n, at=100) for n in range(50, 54)])
        pipeline.wait(60)
        after = pipeline.profiles()
        (new,) = after.keys() - before.keys()
        assert sum(after[new]["events"].values()) == 4
    with ending(worker := pipeline.worker()):
        pipeline.wait(60)
        assert pipeline.profiles() == after
        assert pipeline.recomputed().keys() == after.keys()
        answer(pipeline, "verify", "--json")
        assert worker.terminate() == 0, "it still waits for its group, where the first one was killed"

    asked_for = [json.loads(r.value or b"") for r in pipeline.read(Topic.AUDIT)]
    assert sorted((a["ticket"], a["action"]) for a in asked_for) == [
        ("T-1", "export"),
        ("T-2", "erase"),
        ("T-2", "erased"),
        ("T-2", "erased"),
        ("T-3", "export"),
        ("forged", "erase"),
    ]
    assert not [
        name
        for name in (Topic.AUDIT, Topic.PROTECTED, Topic.PROFILES)
        for r in pipeline.read(name)
        if CANARY.encode() in (r.value or b"")
    ]
    _roll(pipeline, backup, person["person"]["tokens"], left["erasure"])
    _interrupted(pipeline, bob["tokens"])


def _interrupted(pipeline: Pipeline, tokens: dict[str, list[str]]) -> None:
    """Nobody works: what was begun is not forgotten, and cannot be taken for done."""
    asked = ("erase", tokens["user_id"][0], "--ticket", "T-4", "--yes", "--wait", "1")
    left = answer(pipeline, *asked, "--json", code=1)
    assert left["missing"] == left["markers"] == 4 * sum(map(len, tokens.values()))
    refused = pipeline.command(*asked)
    assert (refused.returncode, b"nothing was erased" in refused.stderr) == (3, True), refused.stderr
    with ending(pipeline.worker()):
        pipeline.wait(60)
        refused = pipeline.command(*asked)  # the profile is gone, and with it what else was bob's
        assert (refused.returncode, f"--again {left['erasure']}".encode() in refused.stderr) == (2, True), (
            refused.stderr
        )
        assert answer(pipeline, "erase", "--again", left["erasure"], "--json")["done"]
        assert answer(pipeline, *asked, "--json")["done"]


def _roll(pipeline: Pipeline, backup: dict[str, Any], tokens: list[str], erasure: str) -> None:
    """After the epoch was rolled, the backup's keys open nothing, and those of the living are there."""
    rows = backup[changelog_name("protect", "subject-keys")]
    answer(pipeline, "keys", "rotate", "subjects")
    with ending(pipeline.worker()):
        wait_for(
            lambda: pipeline.command("keys", "destroy", "subjects.1", "--confirm", "subjects.1").returncode == 0,
            60,
            "all rows are under the new epoch",
        )
        assert answer(pipeline, "erase", "--again", erasure, "--json")["done"]
    ring = keyfile.load(pipeline.directory / "keys.json")
    restored, now = MemoryTable(), MemoryTable()
    for key, value in rows.items():
        restored.put(key, value)
    for key, value in last_values(pipeline.read(changelog_name("protect", "subject-keys"))).items():
        assert key is not None
        now.put(key, value)
    erased = [key for key in rows if key.partition(b"\0")[0].decode() in tokens]
    assert erased
    for key in rows:
        subject, _, key_id = key.partition(b"\0")
        with pytest.raises(Corrupt):
            SubjectKeys(restored, ring.epochs()).find(subject.decode(), key_id)
        found = SubjectKeys(now, ring.epochs()).find(subject.decode(), key_id)
        assert (found is None) == (key in erased)
