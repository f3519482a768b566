"""The JSON Schemas of what consumers read, derived from the types that are encoded, so that they cannot drift."""

from __future__ import annotations

from typing import Any

import msgspec

from ..events import Alert, Merged, Profile, ProtectedEvent, Topic
from ..outcomes import RejectedRecord

_TYPES: dict[Topic, tuple[Any, ...]] = {
    Topic.PROTECTED: (ProtectedEvent,),
    Topic.REJECTED: (RejectedRecord,),
    Topic.RESOLVED: (ProtectedEvent,),
    Topic.PROFILES: (Profile, Merged),
    Topic.ALERTS: (Alert,),
}
TOPICS = tuple(_TYPES)
_TITLES = {
    Topic.PROTECTED: "An event whose personal fields are tokens or sealed. Key: its anchor.",
    Topic.REJECTED: "A raw record that could not be protected, and why. Key: its origin.",
    Topic.RESOLVED: "A protected event under the profile that it belonged to when it was read. Key: the profile id.",
    Topic.PROFILES: "A person, or the profile that it is now part of. Key: the profile id; compacted.",
    Topic.ALERTS: "An alert's trigger, update or resolve. Key: its dedup key.",
}


def output_schema(topic: Topic) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a topic's values; no name but those listed may stand in them."""
    forms, parts = msgspec.json.schema_components(_TYPES[topic], ref_template="#/$defs/{name}")
    for part in parts.values():
        if part.get("type") == "object":
            part["additionalProperties"] = False
    if topic is Topic.RESOLVED:
        event = parts["ProtectedEvent"]
        event["properties"] = {"profile_id": {"type": "string"}, **event["properties"]}
        event["required"] = ["profile_id", *event["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": topic.value,
        "description": _TITLES[topic],
        "anyOf": list(forms),
        "$defs": parts,
    }
