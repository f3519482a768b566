"""Old and new workers side by side: what one version has written, the other one reads.

`vectors/records.json` holds every internal record as version 1 writes it (msgpack and the key record as hex, the
messages of `watch` as JSON), and the *full* ones with the fields that were appended since. They must read back to the
same values for as long as there are installations with them. A field may be added at the end, with a default; a type
may not change, nor the order, nor may a field go.

Mutations seen red: two fields of a record swapped; a field taken away, or without its default; a field in the middle; a
trait's tuple made longer; a key record with another format byte; `forbid_unknown_fields` on a message, on a row, on
`RejectedRecord`, on `Event`. Stays green: a field appended with a default.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.adapters.memory_table import MemoryTable
from pipeline.cli.replay import Replay
from pipeline.crypto.epochs import Epochs
from pipeline.crypto.kek import LocalKek, wrap_key
from pipeline.crypto.seal import SealPath, SubjectKey
from pipeline.crypto.subjects import SubjectKeys
from pipeline.events import Alert, AlertStatus, Feature, RawRecord, Severity, SourceBatch, Topic, frame
from pipeline.flow.identify import IdentifyLeg
from pipeline.stages import identity_rows
from pipeline.stages.authenticate import Authenticator
from pipeline.stages.content import event_decoder
from pipeline.stages.identity_rows import (
    Apart,
    Assigned,
    Calculated,
    Erased,
    Evidence,
    Facts,
    Join,
    Left,
    Member,
    Row,
    Seen,
    Union,
)
from pipeline.stages.link import Rules, load_rules
from pipeline.stages.measure import Measure
from pipeline.stages.partition import LINK
from pipeline.stages.recompute import recompute
from pipeline.stages.watch_rows import Bout, CellRow, ClockRow, KeyRow, Partial, Progress, Track, WatchConfig
from tests.stages.event_world import Leg, event, ring

VECTORS: dict[str, str] = json.loads((Path(__file__).parent / "vectors" / "records.json").read_text())

USER, MAIL = "user_id.1." + "0a" * 16, "email.2." + "0b" * 16
FACTS = Facts(
    version=3,
    streams=["events.raw\0" + "ab" * 16, "events.raw\0"],
    births=[(1_790_000_000_500, 0, 3, 42), (1_790_000_000_000, 1, 0, 7)],
    first=1_789_999_999_000,
    last=1_790_000_000_500,
    events={"Order Completed": 2, "page": 1},
    sources=["shop", "web"],
    traits={"plan": (1_790_000_000_500, 0, 3, 42, b'"pro"')},
)
ROW = Row(
    parent=identity_rows.pack(MAIL),
    profile=bytes(range(16)),
    edges=bytes(range(32)),
    facts=FACTS,
    seen={(1 << 32) | 3: Seen(40, 42, b"\1\0\0\0\2\0\0\0", True)},
)
LINKED = msgspec.structs.replace(
    ROW,
    facts=msgspec.structs.replace(
        FACTS,
        links={"email.2.": LINK.pack(bytes(range(16)), 1_790_000_000_500, bytes(range(16, 32)), 20_717)},
        decisions={MAIL: (1_790_000_000_600, bytes(range(16)), True)},
        linked=2,
    ),
    day=20_717,
    latest=1_790_000_000_500,
    state=identity_rows.SHARED | identity_rows.SPLIT,
)
FULL_FACTS = msgspec.structs.replace(
    FACTS,
    writers=[("shop", "identify/1"), ("web", "identify/2")],
    wrote={"plan": 1},
    consents={"Advertising": (1_790_000_000_500, 0, 3, 42, False, "shop")},
    groups={"group_id.1." + "0c" * 16: (1_789_999_999_000, 1_789_948_800_000)},
    computed=Calculated(
        counts={"orders~00000000": {20_717: 2}},
        sums={"revenue~00000000": {20_717: (2, b"\0\x80\xff")}},
        firsts={"first~00000000": {0: (1_789_999_999_000, 1, 0, 7, b'"EUR"')}},
        lasts={"last~00000000": (1_790_000_000_500, 0, 3, 42, b"7")},
        tallies={"most~00000000": {b'"EUR"': {20_717: 2}, b'"CHF"': {}}},
    ),
)
FULL_ROW = msgspec.structs.replace(
    ROW,
    facts=FULL_FACTS,
    recent=bytes(range(16)),
    counted={bytes(range(8)): (1_790_000_000_500, 0, 3, 42, [("orders~00000000", 20_717, b"")])},
)
ERASED_ROW = msgspec.structs.replace(
    ROW,
    facts=msgspec.structs.replace(
        FULL_FACTS,
        former={"email.2." + "0d" * 16: "email.1." + "0d" * 16},
        erasures=1,
        gone=[(1_790_000_000_000, 1, 0, 7)],
        met={"email.2.": bytes(range(16))},
    ),
    erased=Erased(1_790_000_000_000, "0e" * 16, 12, "events.raw\0" + "ab" * 16, {3: 41}),
    visited={"group_id.1.": bytes(range(16))},
    eras={MAIL: 1},
)
ALERT = Alert(
    dedup_key="rate:source=shop",
    status=AlertStatus.TRIGGER,
    severity=Severity.ERROR,
    score=90,
    kind="rate",
    watched="source=shop",
    summary="Too many events",
    first_at=60_000,
    last_at=120_000,
    count=2,
    features=[Feature("events", 30.0, 10.0)],
    runbook="deploy/runbooks/rate.md",
)
TRACK = Track(
    past=[(10, 1), (11, 0)],
    held=[(30, 2)],
    open=True,
    up=False,
    hot=1,
    calm=2,
    first=3,
    last=4,
    count=5,
    score=90,
    severity=Severity.ERROR,
    bouts=[Bout(3, 2, 6.5)],
)
MSGPACK: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "identity/union": (Union(USER), identity_rows.message_decoder.decode),
    "identity/evidence": (
        Evidence([(USER, 3, bytes.fromhex(VECTORS["identify/evidence"])), (MAIL, 0, b"")], True),
        identity_rows.message_decoder.decode,
    ),
    "identity/join": (Join(USER), identity_rows.message_decoder.decode),
    "identity/apart": (Apart([MAIL], True), identity_rows.message_decoder.decode),
    "identify/tokens with links": (LINKED, identity_rows.decode_row),
    "identity/member": (Member(USER, (5, 0), 1), identity_rows.message_decoder.decode),
    "identity/left": (Left(USER, 1), identity_rows.message_decoder.decode),
    "identify/tokens, erased": (ERASED_ROW, identity_rows.decode_row),
    "identity/assigned": (Assigned(USER, bytes(range(16))), identity_rows.message_decoder.decode),
    "identify/tokens": (ROW, identity_rows.decode_row),
    "identify/evidence": (FACTS, identity_rows.decode_facts),
    "identify/tokens, full": (FULL_ROW, identity_rows.decode_row),
    "identify/evidence, full": (FULL_FACTS, identity_rows.decode_facts),
    "watch/watch-open cell": (
        CellRow(60_000, True, 29_833_333, "shop", {"page/1": 4, "": 1}, [("ab" * 16, 3, 42)]),
        msgspec.msgpack.Decoder(CellRow).decode,
    ),
    "watch/watch-open clocks": (
        ClockRow(60_000, 29_833_333, [1_790_000_000_000, -1], [-1, -1]),
        msgspec.msgpack.Decoder(ClockRow).decode,
    ),
    "watch/watch-state": (
        KeyRow(60_000, 9, 8, {10: {3: (4, 1)}}, TRACK, Track(), Track(past=[(1, 0)]), [(120_000, ALERT)]),
        msgspec.msgpack.Decoder(KeyRow).decode,
    ),
}
JSON: dict[str, Any] = {
    "watch/partial": Partial("source=shop", 60_000, 29_833_333, 3, 4, 1),
    "watch/progress": Progress(60_000, 3, 29_833_333, True),
}
_watch_message = msgspec.json.Decoder(Partial | Progress).decode
_plain = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


def current() -> dict[str, str]:
    """The vectors as this version writes them: `python -m tests.test_record_versions` prints it."""
    table = MemoryTable()
    keys = _subject_keys(table)
    keys.get(USER, 42)
    ((key, made),) = table.items()
    keys.erase(USER, 43)
    ((erased_key, erased),) = set(table.items()) - {(key, made)}
    return {
        **{name: _encode(value).hex() for name, (value, _) in MSGPACK.items()},
        **{name: msgspec.json.encode(value).decode() for name, value in JSON.items()},
        "identify/evidence members": identity_rows.pack_members([USER, MAIL]).hex(),
        "identify/evidence members and others": identity_rows.pack_members([USER], [MAIL], [MAIL]).hex(),
        "identify/evidence members key": identity_rows.pack(USER).hex(),
        "identify/evidence key": identity_rows.evidence_key(USER, MAIL).hex(),
        "watch/watch-open cell key": MSGPACK["watch/watch-open cell"][0].key().hex(),
        "protect/subject-keys key": key.hex(),
        "protect/subject-keys": wrap_key(KEK, bytes(range(32)), KEY_ID, KEY_AAD).hex(),
        "protect/subject-keys made": made.hex(),
        "protect/subject-keys erased key": erased_key.hex(),
        "protect/subject-keys erased": erased.hex(),
    }


KEK, KEY_ID = LocalKek(bytes(32)), bytes(range(8))
KEY_AAD = frame(b"sealstream/subject-key/1", USER.encode(), KEY_ID)


def _subject_keys(table: MemoryTable) -> SubjectKeys:
    keys = SubjectKeys(table, Epochs((), KEK), lambda n: bytes(range(n)))
    keys.enter("id")
    return keys


# -- records of version 1 are read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MSGPACK)
def test_a_record_reads_back_to_what_it_was(name: str) -> None:
    value, decode = MSGPACK[name]
    assert decode(bytes.fromhex(VECTORS[name])) == value


@pytest.mark.parametrize("name", JSON)
def test_a_message_of_watch_reads_back_to_what_it_was(name: str) -> None:
    assert _watch_message(VECTORS[name].encode()) == JSON[name]


def test_members_and_keys_read_back_to_what_they_were() -> None:
    read = identity_rows.unpack_members
    assert read(bytes.fromhex(VECTORS["identify/evidence members"])) == ([USER, MAIL], [], [])
    assert read(bytes.fromhex(VECTORS["identify/evidence members and others"])) == ([USER], [MAIL], [MAIL])
    assert identity_rows.unpack(bytes.fromhex(VECTORS["identify/evidence members key"])) == USER
    now = current()
    for name in VECTORS:
        if name.endswith(" key"):  # rows are looked up by them
            assert now[name] == VECTORS[name], name


@pytest.mark.parametrize("name", ["protect/subject-keys", "protect/subject-keys made"])
def test_a_persons_key_opens_what_it_sealed(name: str) -> None:
    table = MemoryTable()
    table.put(bytes.fromhex(VECTORS["protect/subject-keys key"]), bytes.fromhex(VECTORS[name]))
    path = SealPath("identify/1", "traits.email")
    found = _subject_keys(table).find(USER, KEY_ID)
    assert found is not None
    used = _subject_keys(table).get(USER, 44)
    assert used.key_id == KEY_ID
    made = SubjectKey(KEY_ID, bytes(range(32)))
    for each in (found, used):
        assert each.seal_all(bytes(16), [(path, b"plain")]) == made.seal_all(bytes(16), [(path, b"plain")])


def test_whoever_was_erased_has_none_of_the_keys_of_before() -> None:
    table = MemoryTable()
    for name in ("protect/subject-keys", "protect/subject-keys made"):
        table.put(bytes.fromhex(VECTORS["protect/subject-keys key"]), bytes.fromhex(VECTORS[name]))
        table.put(
            bytes.fromhex(VECTORS["protect/subject-keys erased key"]),
            bytes.fromhex(VECTORS["protect/subject-keys erased"]),
        )
        assert _subject_keys(table).committed("id", 43) == 0
        assert _subject_keys(table).committed("id", 44) == 1
        assert len(table) == 1


def test_every_record_has_a_vector_and_no_vector_is_forgotten() -> None:
    assert current().keys() == VECTORS.keys()


# -- records of this version are read by version 1 --------------------------------------------------------------------


def _begins_with(new: Any, old: Any) -> bool:
    """Arrays may have become longer, and maps richer; whatever was there is there still."""
    if isinstance(old, list):
        return isinstance(new, list) and len(new) >= len(old) and all(map(_begins_with, new, old))
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and _begins_with(new[name], old[name]) for name in old)
    return type(new) is type(old) and bool(new == old)


@pytest.mark.parametrize("name", MSGPACK)
def test_what_is_written_now_has_all_that_version_1_wrote_in_its_place(name: str) -> None:
    value, _ = MSGPACK[name]
    assert _begins_with(_plain(_encode(value)), _plain(bytes.fromhex(VECTORS[name])))


@pytest.mark.parametrize("name", JSON)
def test_messages_of_watch_are_written_with_all_that_version_1_wrote(name: str) -> None:
    assert _begins_with(json.loads(msgspec.json.encode(JSON[name])), json.loads(VECTORS[name]))


# -- records of newer and older versions ------------------------------------------------------------------------------


def _longer(record: Any) -> Any:
    return [*record, "a field of a newer version"]


@pytest.mark.parametrize("name", MSGPACK)
def test_a_field_that_a_newer_version_has_appended_is_passed_over(name: str) -> None:
    value, decode = MSGPACK[name]
    assert decode(_encode(_longer(_plain(_encode(value))))) == value


def test_records_within_records_may_grow_as_well() -> None:
    row = _plain(_encode(ROW))
    row[3] = _longer(row[3])
    row[4] = {at: _longer(seen) for at, seen in row[4].items()}
    assert identity_rows.decode_row(_encode(row)) == ROW
    value, decode = MSGPACK["watch/watch-state"]
    state = _plain(_encode(value))
    state[4] = _longer(state[4])
    state[7] = [[at, {**alert, "a_newer": 1}] for at, alert in state[7]]
    assert decode(_encode(state)) == value


@pytest.mark.parametrize("name", JSON)
def test_a_field_of_a_newer_version_in_a_message_of_watch_is_passed_over(name: str) -> None:
    newer = {**json.loads(VECTORS[name]), "a_newer": {"field": 1}}
    assert _watch_message(json.dumps(newer).encode()) == JSON[name]


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("identity/evidence", 2, Evidence(MSGPACK["identity/evidence"][0].entries)),  # its tag and its entries
        ("identify/tokens", 1, Row(ROW.parent)),
        ("identify/tokens", 4, Row(ROW.parent, ROW.profile, ROW.edges, FACTS)),
        ("identify/tokens, full", 5, msgspec.structs.replace(ROW, facts=FULL_FACTS)),
        ("identify/evidence, full", 8, FACTS),
        ("identify/tokens, erased", 13, msgspec.structs.replace(ERASED_ROW, erased=None, visited={}, eras={})),
        ("identity/member", 3, Member(USER, (5, 0))),
        ("watch/watch-state", 3, KeyRow(60_000, 9, 8)),
    ],
)
def test_a_record_without_the_optional_fields_at_its_end_reads_as_with_their_defaults(
    name: str, fields: int, expected: Any
) -> None:
    older = _plain(bytes.fromhex(VECTORS[name]))[:fields]
    assert MSGPACK[name][1](_encode(older)) == expected


# -- public records of newer versions ---------------------------------------------------------------------------------

NEWER = {"a_newer_field": {"with": ["anything"]}}


def _newer(record: dict[str, Any]) -> bytes:
    """With unknown names at every level that we read."""
    grown = {**record, **NEWER, "origin": {**record["origin"], **NEWER}}
    if "key" in record:
        grown["key"] = {**record["key"], **NEWER}
    return json.dumps(grown).encode()


def _rules() -> Rules:
    return load_rules((Path(__file__).parents[1] / "schemas" / "identity.toml").read_text())


def test_newer_protected_events_count_as_the_old_ones_do() -> None:
    side, record = Leg().one(event())
    assert side == "protected"
    old, new = json.dumps(record).encode(), _newer(record)
    rules = _rules()
    assert list(recompute([new], rules)) == list(recompute([old], rules))
    decode = event_decoder(rules)
    assert decode(new).anchor == decode(old).anchor
    assert decode(new).origin == decode(old).origin
    part = IdentifyLeg(rules).open(0, {"tokens": MemoryTable(), "evidence": MemoryTable()})
    part.on_batch(SourceBatch(Topic.PROTECTED, "", 0, [RawRecord(0, 0, record["anchor"].encode(), new)]))
    counts = part.drain().counts
    assert counts["resolved", ""] == 1
    assert ("undecodable", "") not in counts


@pytest.mark.parametrize("value", [event(), {"type": "track"}], ids=["protected", "rejected"])
def test_watch_counts_newer_records(value: dict[str, Any]) -> None:
    side, record = Leg().one(value)
    measure = Measure(0, WatchConfig(partitions=1), MemoryTable())
    measure.fold([RawRecord(0, 0, None, _newer(record))], rejected=side == "rejected")
    assert measure.counts["watched", ""] == 1
    assert measure.counts["unreadable", ""] == 0


def test_newer_rejects_are_replayed() -> None:
    side, record = Leg().one({"type": "track"})
    assert side == "rejected"
    sent: list[object] = []
    run = Replay(ring(), Authenticator("events.raw", ring().source_keys()), frozenset(), None, {})

    class Found:
        partition, offset, value = 0, 0, _newer(record)

    assert run.take(Found, lambda original, _: sent.append(original.value))
    assert run.unopened == 0
    assert sent == [json.dumps({"type": "track"}).encode()]


if __name__ == "__main__":
    print(json.dumps(current(), indent=2))
