"""A token key is rotated and retired under a running pipeline: nobody splits, ids stay, and `verify` finds nothing.

In memory, over all orders: `tests/flow/test_rotation.py`. Mutation seen red: tokens of the former key left out.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipeline.demo.story import DemoEvent
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import ending

PEOPLE = ("ann", "bob", "cid")


def test_verify_is_clean_before_during_and_after_a_rotation(kafka: str, topics: str, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path, SEALSTREAM_SESSION_SECONDS="6")
    sent = 0

    def answer(*args: str) -> Any:
        done = pipeline.command(*args, "--json")
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        return json.loads(done.stdout)

    def come() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Everybody comes again, and all of it is proved: the profiles, and what was protected this time."""
        nonlocal sent
        known = len(pipeline.read(Topic.PROTECTED)) if sent else 0
        now, sent = int(time.time() * 1000), sent + 1
        made = [
            DemoEvent(
                who.encode(),
                json.dumps(
                    {
                        "type": "identify",
                        "messageId": f"{who}-{sent}-{device}",
                        "userId": who,
                        "anonymousId": f"device {device} of {who}",
                        "traits": {"email": f"{who}@example.com"},
                    }
                ).encode(),
                (("source-id", b"shop"),),
                now,
            )
            for who in PEOPLE
            for device in range(2)
        ]
        pipeline.produce(iter(made))
        with ending(pipeline.worker()):
            pipeline.wait(60)
            answer("verify")
        protected = pipeline.read(Topic.PROTECTED)
        assert len(protected) == known + len(made)
        new = [json.loads(r.value or b"") for r in protected]
        return pipeline.profiles(), [event for event in new if event["received_at"] == now]

    before, _ = come()
    assert len(before) == len(PEOPLE)
    answer("keys", "rotate", "token")
    during, both = come()
    assert {name.rpartition("@")[2] for event in both for name in event["tokens"] if "@" in name} == {"1"}
    answer("keys", "retire", "token.1")
    after, own = come()
    assert before.keys() == during.keys() == after.keys()
    assert [sum(p["events"].values()) for p in after.values()] == [6, 6, 6]
    assert own
    assert {token.split(".")[1] for event in own for token in (event["anchor"], *event["tokens"].values())} == {"2"}
