"""An operator's decision on a real broker: from the command to the protected topic, and back in what explain reads."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import ending, wait_for
from tests.stages.identity_events import email, user


def test_a_link_goes_through_the_protect_leg_and_explain_finds_it(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    worker = pipeline.worker("protect")
    with ending(worker):
        sent = pipeline.command("identity", "link", user(1), email(1), "--reason", "canary-reason", "--json")
        assert sent.returncode == 0, sent.stderr
        wait_for(lambda: bool(pipeline.read(Topic.PROTECTED)), 60, "the decision is protected")
        (record,) = pipeline.read(Topic.PROTECTED)
        protected = json.loads(record.value or b"")
        assert protected["message_id"] == json.loads(sent.stdout)["message_id"]
        assert protected["tokens"] == {"left": user(1), "right": email(1)}
        assert (record.key or b"").decode() == protected["anchor"] == user(1)
        assert b"canary-reason" not in (record.value or b"")
        found = json.loads(pipeline.command("identity", "explain", email(1), user(1), "--json").stdout)
        assert found["one_profile"]
        assert found["chain"][0]["event_id"] == protected["event_id"]
        assert found["chain"][0]["link"]
