"""What stands in a traceback, an assertion or a log says where something came from, never what it holds.

Mutations seen red: each `__repr__` left out.
"""

from __future__ import annotations

import pytest
from aiokafka import ConsumerRecord

from pipeline.adapters.reader import Found
from pipeline.events import SourceBatch
from pipeline.outcomes import Reason, Rejected, Split, Stage
from pipeline.worker.engine import EngineConfig

CANARY = "canary.7d1e"
BYTES = CANARY.encode()
RECORD = ConsumerRecord("raw", 1, 7, 0, 0, BYTES, BYTES, None, 0, 0, ((CANARY, BYTES),))
REJECTED = Rejected(RECORD, Stage.DECODE, Reason.BAD_JSON)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (SourceBatch("raw", "", 1, [RECORD, RECORD]), "SourceBatch(raw, 1, 2 records from 7)"),
        (REJECTED, "Rejected(offset=7, decode: bad_json, …)"),
        (Split([RECORD], [REJECTED]), "Split(1 passed, 1 rejected)"),
        (Found(1, 7, 0, BYTES, BYTES, ((CANARY, BYTES),)), "Found(partition=1, offset=7, …)"),
        (EngineConfig(bootstrap="k:1", security={"sasl.password": CANARY}), "EngineConfig(k:1, …)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_repr_has_no_content(value: object, shown: str) -> None:
    assert repr(value) == shown
    assert CANARY not in f"{value} {[value]!r}"
