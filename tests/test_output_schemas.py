"""What consumers are told fits what they get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline.demo import story
from pipeline.events import RawRecord, Topic
from pipeline.stages.outputs import TOPICS, output_schema
from tests.stages.event_world import Leg

SCHEMAS = Path(__file__).parents[1] / "schemas" / "outputs"


def written(topic: Topic) -> Any:
    return json.loads((SCHEMAS / f"{topic.value}.schema.json").read_text())


@pytest.mark.parametrize("topic", TOPICS, ids=str)
def test_the_files_are_what_the_types_say(topic: Topic) -> None:
    assert written(topic) == output_schema(topic)
    jsonschema.Draft202012Validator.check_schema(written(topic))


def test_what_the_protect_leg_writes_fits() -> None:
    records = [
        RawRecord(i, e.timestamp_ms, e.key, e.value, e.headers)
        for i, e in enumerate(story.events(1, 600, 10, 1_790_000_000_000))
    ]
    protected, rejected = Leg().run(records)
    assert protected
    assert rejected
    for topic, side in ((Topic.PROTECTED, protected), (Topic.REJECTED, rejected)):
        validator = jsonschema.Draft202012Validator(written(topic))
        for value in side.values():
            validator.validate(json.loads(value))
    resolved = {"profile_id": "p", **json.loads(next(iter(protected.values())))}
    jsonschema.Draft202012Validator(written(Topic.RESOLVED)).validate(resolved)


@pytest.mark.parametrize(
    ("topic", "record"),
    [
        (Topic.PROFILES, {"profile_id": "p"}),
        (Topic.PROFILES, {"merged_into": "p", "email": "x"}),
        (Topic.RESOLVED, {"event_id": "e"}),
        (Topic.ALERTS, {"dedup_key": "k", "status": "maybe"}),
    ],
)
def test_what_does_not_fit_is_found(topic: Topic, record: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(written(topic)).is_valid(record)
