"""The vocabulary: what travels on the topics. Imports nothing from the rest of the project.

Output records are `msgspec` structs; their JSON (field order as declared, `None` omitted) is the contract with
consumers, described by the JSON Schemas under `schemas/`. Times are milliseconds since 1970-01-01T00:00Z.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

import msgspec

DAY = 86_400_000
"""Milliseconds. Days are those of UTC: a time's day is `time // DAY`, whatever its sign."""


def iso(ms: int) -> str:
    """RFC 3339 of ms since 1970; the number itself where no calendar has it."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(ms)


class Topic(StrEnum):
    """Every topic of the pipeline, by its contractual name (DESIGN §3)."""

    RAW = "events.raw"
    PROTECTED = "events.protected"
    REJECTED = "events.rejected"
    RESOLVED = "events.resolved"
    IDENTITY = "identity"
    PROFILES = "profiles"
    ALERTS = "alerts"
    AUDIT = "access.audit"
    WATCH = "watch"
    CONTROL = "control"


SOURCE_HEADER = "source-id"
SEAL_KEY_HEADER = "seal-key"
"""On a raw record that its producer sealed: `crypto.sessions`."""
TIMESTAMP_HEADER = "source-timestamp"
SIGNATURE_HEADER = "source-signature"
"""On a raw record that its source signed: `crypto.signatures`."""
AUDIT_MAC_HEADER = "audit-mac"
"""On a record of `access.audit`: `crypto.audit_mac`."""
SOURCE_CHARS = 128


def is_source(name: str) -> bool:
    """May a source be called so?"""
    return 0 < len(name) <= SOURCE_CHARS and name.isprintable()


DECISIONS = frozenset(("link", "cut"))
"""Types of events by which an operator says that two identifiers are one person, or are not."""
ERASE = "erase"
"""The type of events by which an operator has what was known of an identifier erased: `stages.reference.unerased`."""
ORDERS = DECISIONS | {ERASE}
"""Types of events that tell nothing of a person: only an operator sends them."""


class Record(Protocol):
    """One Kafka record as a consumer hands it over; bytes are untouched. `aiokafka.ConsumerRecord` is one."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Kafka's record time, ms; may be negative or -1 (none)."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class RawRecord(msgspec.Struct, frozen=True):
    """A `Record` made by hand: the `protect` command, tests and generators."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def __repr__(self) -> str:
        return f"RawRecord(offset={self.offset}, timestamp={self.timestamp}, …)"


class SourceBatch(msgspec.Struct, frozen=True):
    """The records of one partition fetch, in offset order; never empty.

    `incarnation` is Kafka's topic id where the broker gives one, else "": a topic deleted and made again starts
    at offset 0 again, and its records are other events.
    """

    topic: str
    incarnation: str
    partition: int
    records: Sequence[Record]

    def __repr__(self) -> str:
        first = self.records[0].offset if self.records else None
        return f"SourceBatch({self.topic}, {self.partition}, {len(self.records)} records from {first})"


class Origin(msgspec.Struct, frozen=True, order=True):
    """Where an event came from; its identity in the whole pipeline."""

    topic: str
    incarnation: str
    partition: int
    offset: int


def frame(*parts: bytes) -> bytes:
    """Injective framing: each part behind its length as 4 bytes big-endian, so no two lists give the same bytes."""
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def optional(part: bytes | None) -> bytes:
    """0x00 for none, 0x01 ‖ frame(part) otherwise: none and empty differ, as in Kafka."""
    return b"\x00" if part is None else b"\x01" + frame(part)


class EventIds:
    """`event_id = SHA-256(framed origin)`, its first 16 bytes, for the offsets of one partition (0.5 µs each)."""

    __slots__ = ("_prefix",)

    def __init__(self, topic: str, incarnation: str, partition: int) -> None:
        self._prefix = hashlib.sha256(
            frame(b"sealstream/event-id/1", topic.encode(), incarnation.encode()) + partition.to_bytes(4, "big")
        )

    def of(self, offset: int) -> bytes:
        """Return the 16-byte event id of the record at `offset` (0 ≤ offset < 2^63)."""
        h = self._prefix.copy()
        h.update(offset.to_bytes(8, "big"))
        return h.digest()[:16]


def event_id(origin: Origin) -> bytes:
    return EventIds(origin.topic, origin.incarnation, origin.partition).of(origin.offset)


class SubjectRef(msgspec.Struct, frozen=True):
    """Which key sealed an event's fields: the person it belongs to (an anchor token) and the key's id (16 hex)."""

    subject: str
    key_id: str


class ProtectedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `events.protected`: the contract for consumers. Keyed by `anchor`.

    `tokens` and `sealed` go by the dotted path of the field that they stand for; `clear` holds what the schema
    allows in clear, in the event's own shape. A token reads `<kind>.<key version>.<32 hex>`. While token keys overlap,
    `tokens` has the identifier's token under the key version before as well, at `<path>@<that version>`.
    """

    event_id: str
    origin: Origin
    source: str
    schema: str  # "<name>/<version>"
    type: str  # identify | track | page | screen | group | alias; or an operator's: link | cut | erase
    time: int  # event time: `timestamp` corrected by `sentAt`
    received_at: int  # Kafka's time of the raw record
    message_id: str
    anchor: str
    event: str | None = None  # the name of a track event
    tokens: dict[str, str] = {}
    clear: Any = None
    key: SubjectRef | None = None
    sealed: dict[str, bytes] = {}  # JSON: base64


def formers(tokens: Mapping[str, str]) -> list[tuple[str, str]]:
    """Of an event's tokens: each that came with the same identifier's token under the key version before, and that."""
    found = [(tokens.get(path.partition("@")[0], ""), former) for path, former in tokens.items() if "@" in path]
    return [(token, former) for token, former in found if token.partition(".")[0] == former.partition(".")[0]]


class Conflict(msgspec.Struct, frozen=True, omit_defaults=True):
    """Two identifiers that occurred together and were not joined, and the rule that forbade it."""

    tokens: list[str]  # sorted; one of them is in the profile that shows it. A shared one says so alone
    rule: str  # shared | cut | cluster_tokens | component_tokens | limit.<kind>
    time: int | None = None  # when they first occurred together


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """Which event wrote a trait: its source, its schema ("<name>/<version>") and its event time."""

    source: str
    schema: str
    time: int


class Consent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a person last said of a purpose, when, and through which source (left out where sources are withheld)."""

    state: Literal["granted", "denied"]
    time: int
    source: str = ""


class Membership(msgspec.Struct, frozen=True, gc=False):
    """When a person's events named a group: first event time, and the beginning of the last one's UTC day."""

    first: int
    last_day: int


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `profiles`, keyed by `profile_id`. Everything sorted: equal event sets give equal bytes."""

    profile_id: str
    tokens: dict[str, list[str]]  # by identifier kind, sorted
    first_seen: int
    last_seen: int
    events: dict[str, int] = {}  # by event name (or type), sorted
    traits: dict[str, Any] = {}  # last writer wins by (time, origin); clear values only
    sources: list[str] = []
    provenance: dict[str, Provenance] = {}  # by trait
    consents: dict[str, Consent] = {}  # by purpose; last writer wins by (time, origin)
    computed: dict[str, Any] = {}  # by computed trait, as schemas/computed.toml declares them
    groups: dict[str, Membership] = {}  # by token of a group
    members: dict[str, Membership] = {}  # of a group: by anchor token of an event that named it
    more_members: bool = False  # beyond those shown
    seen: dict[str, tuple[int, int]] = {}  # by token: first, last to the day (UTC midnight before)
    conflicts: list[Conflict] = []
    more_conflicts: int = 0  # beyond those shown


class Merged(msgspec.Struct, frozen=True):
    """A record of `profiles` under the id of a profile that is now part of another."""

    merged_into: str


class AlertStatus(StrEnum):
    TRIGGER = "trigger"
    UPDATE = "update"
    RESOLVE = "resolve"


class Severity(StrEnum):
    CRITICAL = "critical"
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Feature(msgspec.Struct, frozen=True):
    """What moved an alert: a feature's name with the value seen and the value expected."""

    name: str
    seen: float
    expected: float


RUNBOOKS = "deploy/runbooks/"
"""Before `<kind>.md`: what to do about an alert."""


class Alert(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `alerts`, keyed by `dedup_key` (DESIGN §7)."""

    dedup_key: str
    status: AlertStatus
    severity: Severity
    score: int  # 0–100
    kind: str  # rate | reject_share | silence | size_cap
    watched: str  # the watched key, e.g. "source=shop,event=Order Completed"
    summary: str
    first_at: int
    last_at: int
    count: int  # windows in which it held
    features: list[Feature] = []
    runbook: str = ""
