"""Which bytes from a changelog are rows. That all rows which the legs write are, the worlds check at each restart.

Mutations seen red: keys, facts or members of identify are not looked at; nor keys of watch-open; nor keys or values of
subject-keys; nor the length of an erasure.
"""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.subject_rows import Erasure, place_of
from pipeline.errors import Corrupt
from pipeline.flow.identify import IdentifyLeg
from pipeline.flow.watch import WatchLeg
from pipeline.ports import Leg
from pipeline.stages import identity_rows as rows
from pipeline.stages.watch_rows import CLOCKS, CellRow, ClockRow, KeyRow, WatchConfig
from tests.flow.identity_world import RULES
from tests.stages import event_world

TOKEN, OTHER = "user_id.1." + "0a" * 16, "email.12." + "ff" * 16
FACTS = rows.Facts(1, ["events.raw\0id"], [(1, 0, 2, 3)], 1, 2, {"page": 1}, ["web"], {})
CELL = CellRow(60_000, False, 7, "shop", {"page/1": 2}, [("id", 1, 5)])
protect = event_world.Leg()
protect.one(event_world.event())
LEGS: dict[str, Leg] = {
    "protect": protect.leg,
    "identify": IdentifyLeg(RULES),
    "watch": WatchLeg(WatchConfig(partitions=1)),
}
ERASURE = Erasure(TOKEN, place_of("id"), 42)
GOOD: list[tuple[str, str, bytes, bytes]] = [
    ("protect", "subject-keys", ERASURE.key, ERASURE.value),
    ("protect", "subject-keys", *next(iter(protect.table.items()))),
    ("identify", "tokens", rows.pack(TOKEN), rows.encode(rows.Row(facts=FACTS))),
    ("identify", "tokens", rows.pack(OTHER), rows.encode(rows.Row(parent=rows.pack(TOKEN)))),
    ("identify", "evidence", rows.pack(TOKEN), rows.pack_members([OTHER])),
    ("identify", "evidence", rows.evidence_key(TOKEN, OTHER), rows.encode(FACTS)),
    ("watch", "watch-open", CELL.key(), msgspec.msgpack.encode(CELL)),
    ("watch", "watch-open", CLOCKS, msgspec.msgpack.encode(ClockRow(60_000, 7, [1], [-1]))),
    ("watch", "watch-state", b"source=shop", msgspec.msgpack.encode(KeyRow(60_000))),
]
PLACES = [(leg, table) for leg, table, *_ in GOOD]
NAMES = [f"{table}-{i}" for i, (_, table) in enumerate(PLACES)]
"""Keys and values of a person differ in each process, which pytest-xdist would take for other tests."""


@pytest.mark.parametrize(("leg", "table", "key", "value"), GOOD, ids=NAMES)
def test_a_row_as_it_was_written_is_one(leg: str, table: str, key: bytes, value: bytes) -> None:
    LEGS[leg].check(table, key, value)


@pytest.mark.parametrize(("leg", "table", "key", "value"), GOOD, ids=NAMES)
def test_a_key_or_a_value_that_is_cut_off_or_garbage_is_corrupt(leg: str, table: str, key: bytes, value: bytes) -> None:
    spoilt = [(key, b""), (key, b"\xc1garbage"), (b"\xff\xfe\0garbage", value)]
    if table != "subject-keys" or key == ERASURE.key:  # a key's record that is longer or shorter is seen when opened
        spoilt += [(key, value[:-1]), (key, value + b"\0")]
    if table != "watch-state":  # whose keys are any text
        spoilt += [(key[:-1], value), (b"", value)]
    for bad in spoilt:
        with pytest.raises(Corrupt, match=table) as caught:
            LEGS[leg].check(table, *bad)
        assert "garbage" not in str(caught.value)


@given(st.sampled_from(PLACES), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_a_row_or_corrupt(place: tuple[str, str], key: bytes, value: bytes) -> None:
    leg, table = place
    with contextlib.suppress(Corrupt):
        LEGS[leg].check(table, key, value)
