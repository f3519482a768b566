"""What can become of a record: it passes, or it is rejected with a reason from a bounded set."""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from .events import Origin, Record

T = TypeVar("T")

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""


class Stage(StrEnum):
    AUTHENTICATE = "authenticate"
    UNSEAL = "unseal"
    DECODE = "decode"
    VALIDATE = "validate"
    TOKENIZE = "tokenize"
    SEAL = "seal"


class Reason(StrEnum):
    """Why a record was rejected; bounded, since it is a metric label. New ones go at the end."""

    EMPTY = "empty"  # no value, or zero bytes
    TOO_LARGE = "too_large"  # longer than max_event_bytes
    BAD_ENCODING = "bad_encoding"  # not UTF-8 where text must be, or an unknown magic byte
    BAD_JSON = "bad_json"  # not JSON (NaN, Infinity and lone surrogates included)
    TOO_DEEP = "too_deep"  # nested deeper than the decoder goes
    NOT_AN_OBJECT = "not_an_object"
    BAD_AVRO = "bad_avro"
    UNKNOWN_SCHEMA = "unknown_schema"
    MISSING_FIELD = "missing_field"
    BAD_TYPE = "bad_type"
    BAD_VALUE = "bad_value"  # right type, against a rule: range, length, pattern, enum
    BAD_TIME = "bad_time"
    NO_IDENTIFIER = "no_identifier"  # nothing to anchor the event on
    BAD_IDENTIFIER = "bad_identifier"  # an identifier whose normal form is empty or invalid
    BAD_HEADER = "bad_header"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    EXPIRED = "expired"
    SOURCE_DISABLED = "source_disabled"
    CRASHED_WORKER = "crashed_worker"
    WRONG_SOURCE = "wrong_source"  # not of a source that may send this
    NOT_SEALED = "not_sealed"  # in clear, of a source that must seal
    BAD_SEAL = "bad_seal"  # sealed by its producer, and does not open
    NO_SEAL_KEY = "no_seal_key"  # sealed to a key that the key ring does not have


class Rejected(msgspec.Struct, frozen=True):
    """A record that cannot pass `stage`. `path` names a schema field, `rule` what it breaks; neither holds a value.

    `path` is built from the schema's names only, never from keys of the event. `schema` is "" while unknown.
    """

    record: Record
    stage: Stage
    reason: Reason
    path: str = ""
    rule: str = ""
    schema: str = ""

    def __repr__(self) -> str:
        return f"Rejected(offset={self.record.offset}, {self.stage.value}: {self.reason.value}, …)"


class Split(msgspec.Struct, Generic[T], frozen=True):
    """What a stage makes of a batch; `len(passed) + len(rejected)` equals the batch's length (the flow asserts it)."""

    passed: list[T]
    rejected: list[Rejected]

    def __repr__(self) -> str:
        return f"Split({len(self.passed)} passed, {len(self.rejected)} rejected)"


class RejectedRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record of `events.rejected`, keyed by its origin. `sealed` gives back key, value and headers to `replay`.

    `kept` false: even compressed the original is larger than a record may be; it stands in `events.raw` alone, for as
    long as that keeps it.
    """

    event_id: str
    origin: Origin
    source: str
    stage: Stage
    reason: Reason
    received_at: int
    key_id: str  # the rejects key that sealed it
    sealed: bytes  # JSON: base64
    path: str = ""
    rule: str = ""
    schema: str = ""
    kept: bool = True
