"""Guarantee: of JSON lines, only ids that lead to another profile change, and they become that profile's.

Mutations seen red: one hop; a pointer to nobody followed; a tombstone in all partitions; every line encoded anew;
unknown ids not counted.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.adapters.reader import Found
from pipeline.cli.remap import Remap
from pipeline.errors import Misuse

A, B, C, D, E, F = (f"{n:032x}" for n in range(10, 16))
PROFILE = b'{"tokens":{}}'


def into(ident: str) -> bytes:
    return json.dumps({"merged_into": ident}).encode()


def found(*records: tuple[int, str, bytes | None, int]) -> list[Any]:
    return [Found(p, n, at, key.encode(), value, ()) for n, (p, key, value, at) in enumerate(records)]


TOPIC = found(
    (0, A, PROFILE, 1),
    (1, B, PROFILE, 1),
    (1, B, into(A), 2),
    (2, C, into(B), 1),
    (0, D, into(E), 1),  # E is not there
    (0, F, PROFILE, 1),
    (1, F, into(A), 5),  # moved when the topic grew,
    (0, F, None, 1),  # and gone where it was
)


def test_ids_become_todays_and_everything_else_stays() -> None:
    remap = Remap(TOPIC, "profile_id")
    lines = [
        b'{"order": 1.10, "profile_id": "%s", "x": {"profile_id": "%s"}}' % (C.encode(), C.encode()),
        b'{ "profile_id":"%s" }' % A.encode(),
        b'{"profile_id":"%s"}' % F.encode(),
        *(json.dumps({"profile_id": other}).encode() for other in (D, E, "f" * 32, "x", 7, None)),
        b'{"other": "\xc3\xa9"}',
    ]
    changed = {
        0: b'{"order":1.10,"profile_id":"%s","x":{"profile_id": "%s"}}' % (A.encode(), C.encode()),
        2: b'{"profile_id":"%s"}' % A.encode(),
    }
    assert list(remap.lines(lines)) == [changed.get(n, line) for n, line in enumerate(lines)]
    assert (remap.seen, remap.changed, remap.unknown) == (10, 2, 7)


def test_another_field_can_be_named() -> None:
    line = json.dumps({"profile_id": B, "who": C}).encode()
    assert [json.loads(x) for x in Remap(TOPIC, "who").lines([line])] == [{"profile_id": B, "who": A}]


def test_pointers_in_a_circle_are_unknown() -> None:
    remap = Remap(found((0, A, into(B), 1), (0, B, into(A), 1)), "profile_id")
    line = json.dumps({"profile_id": A}).encode()
    assert list(remap.lines([line])) == [line]
    assert remap.unknown == 1


def test_unreadable_records_are_passed_over() -> None:
    records = found((0, A, PROFILE, 1), (0, A, b"{", 2), (0, "none of ours", PROFILE, 2), (0, A, b"{}", 3))
    remap = Remap(records, "profile_id")
    assert len(list(remap.lines([json.dumps({"profile_id": A}).encode()]))) == 1
    assert remap.unknown == 0


@pytest.mark.parametrize("line", [b"", b"canary", b"[]", b'"x"', b'{"profile_id": "canary"', b"\xff"])
def test_a_line_that_is_no_object_is_misuse_by_its_number(line: bytes) -> None:
    with pytest.raises(Misuse, match="line 2 is not a JSON object") as caught:
        list(Remap(TOPIC, "profile_id").lines([b"{}", line]))
    assert "canary" not in str(caught.value)
