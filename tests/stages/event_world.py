"""What the tests of the protect leg share: schemas made by hand, the project's registry, and a leg in memory."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from pipeline.adapters import schema_files
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.keyring import KeyRing
from pipeline.crypto.seal import SealPath
from pipeline.crypto.subjects import SubjectKeys
from pipeline.events import ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.stages.authenticate import Authenticator
from pipeline.stages.block import Blocked
from pipeline.stages.link import Rules, load_rules
from pipeline.stages.registry import Registry

RECEIVED = 1_790_000_000_000


def field(
    name: str, type_: Any = "string", protect: str | None = "clear", *, required: bool = False, **more: Any
) -> Any:
    found: dict[str, Any] = {"name": name, "type": type_ if required else ["null", type_]}
    if not required:
        found["default"] = None
    if protect is not None:
        found["protect"] = protect
    return {**found, **more}


def envelope(*more: Any) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "Envelope",
        "fields": [
            field("type", required=True),
            field("messageId", required=True),
            field("userId", protect="token+seal", identifier="user_id"),
            *more,
        ],
    }


def document(*fields: Any, type_: str = "page", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Made", "sealstream:type": type_, "fields": list(fields), **more}


@cache
def registry() -> Registry:
    return schema_files.load(None)


@cache
def rules() -> Rules:
    """The shipped ones."""
    return load_rules((Path(__file__).parents[2] / "schemas" / "identity.toml").read_text())


@cache
def ring() -> KeyRing:
    return KeyRing.generate(lambda n: bytes(range(n)), 0)


def event(**fields: Any) -> dict[str, Any]:
    return {"type": "track", "event": "Something Done", "messageId": "m-1", "userId": "u-1", **fields}


class Leg:
    """Partition 0 of a protect leg on memory tables."""

    def __init__(
        self,
        found: Registry | None = None,
        blocked: Blocked | None = None,
        max_event_bytes: int = 1 << 20,
        must_seal: Collection[str] = (),
        keys: KeyRing | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.table = MemoryTable()
        listed = rules().blocked if blocked is None else blocked
        self.leg = ProtectLeg(
            found or registry(),
            keys or ring(),
            listed,
            max_event_bytes=max_event_bytes,
            must_seal=must_seal,
            authenticator=authenticator,
        )
        self.part = self.leg.open(0, {"subject-keys": self.table})
        self.counts: dict[tuple[str, str], int] = {}

    def run(self, records: list[RawRecord]) -> tuple[dict[int, bytes], dict[int, bytes]]:
        """Return (protected, rejected) as bytes by offset."""
        self.part.on_batch(SourceBatch(Topic.RAW.value, "", 0, records))
        effects = self.part.drain()
        self.counts = effects.counts
        outputs = effects.phases[1]
        assert isinstance(outputs, dict)
        sides: list[dict[int, bytes]] = []
        for topic in (Topic.PROTECTED, Topic.REJECTED):
            found = {json.loads(o.value or b"")["origin"]["offset"]: o.value or b"" for o in outputs[topic.value]}
            assert len(found) == len(outputs[topic.value])
            sides.append(found)
        return sides[0], sides[1]

    def one(self, value: bytes | dict[str, Any] | None, **record: Any) -> tuple[str, dict[str, Any]]:
        """Return ("protected" | "rejected", the record) of one event."""
        sent = json.dumps(value).encode() if isinstance(value, dict) else value
        given = {"offset": 0, "timestamp": RECEIVED, "key": None, "headers": (), **record}
        protected, rejected = self.run([RawRecord(value=sent, **given)])
        assert len(protected) + len(rejected) == 1
        side, found = ("protected", protected) if protected else ("rejected", rejected)
        return side, json.loads(next(iter(found.values())))


def opened(leg: Leg, found: dict[str, Any]) -> dict[str, Any]:
    """Return the sealed values of a protected event, opened with the key that it names."""
    protected = msgspec.json.decode(json.dumps(found), type=ProtectedEvent)
    assert protected.key is not None
    key = SubjectKeys(leg.table, ring().epochs()).find(protected.key.subject, bytes.fromhex(protected.key.key_id))
    assert key is not None
    event_id = bytes.fromhex(protected.event_id)
    return {
        path: json.loads(key.open(SealPath(protected.schema, path), event_id, value))
        for path, value in protected.sealed.items()
    }
