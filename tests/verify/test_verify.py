"""`verify` over a world that is right, and over the same world with one thing spoilt: exactly that is found.

Mutations seen red. Account: each finding left out; differing records counted, not origins; digest without the key;
order by raw partition alone; a foreign offset as a measure of order; committed not looked at; a partition that expired
whole; what expired unread; resolved asked for beyond raw. Keys: tombstones as rows; the partition. Rows: the empty key;
tombstones. Profiles: their bytes; merged into nothing; a profile of no event. Tables: version; counters; origins
lacking; origins of others; pointers; one hop alone; profile ids; members; evidence; floor beyond high. Passes: changed
duplicates recomputed; clusters torn apart; partition; anchor. Garbage: bad UTF-8. Erasures: destroyed keys are missed,
or those of events after the markers are not; what was erased is counted; a merged id of an erased event is passed over.
"""

from __future__ import annotations

import os
import random
import stat
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from pipeline.adapters.topic_specs import CLAIM, EVIDENCE, SUBJECT_KEYS, TOKENS
from pipeline.errors import Transient
from pipeline.events import ERASE, Merged, Origin, ProtectedEvent, Topic, event_id
from pipeline.stages.identity_rows import Row, decode_row, encode, pack, unpack
from pipeline.stages.reference import profile_id
from pipeline.verify import buckets
from pipeline.verify.findings import Check
from pipeline.verify.log import Log
from tests.flow.identity_world import partition_of

from .world import EARLIER, NOW, PARTITIONS, Topology, made, place

GARBAGE = (
    None,
    b"",
    b"{}",
    b"[]",
    b"\xff\xfe",
    b"\x00" * 40,
    b'{"origin":' * 2_000,
    b"[" * 100_000,
    b'{"origin":{"topic":"events.raw","incarnation":"","partition":-1,"offset":0}}',
    b'{"origin":{"topic":"events.raw","incarnation":"","partition":0,"offset":1e99}}',
)


@cache
def _right() -> Topology:
    return made()


@pytest.fixture
def world() -> Topology:
    return _right().copy()


def picked(world: Topology, seed: int = 1) -> tuple[int, Origin]:
    """An event in the middle of its raw partition, as (position among the protected, origin)."""
    middle = [
        (i, e.origin)
        for i, (_, e) in enumerate(world.protected())
        if 5 < e.origin.offset < len(world.topics[Topic.RAW][e.origin.partition]) - 20
    ]
    return random.Random(seed).choice(middle)


def test_a_right_world_is_right(world: Topology) -> None:
    report = world.report()
    assert report.ok
    assert not report.findings
    assert report.events == {
        "raw": 600,
        "protected": sum(1 for _ in world.records(Topic.PROTECTED)),
        "rejected": sum(1 for _ in world.records(Topic.REJECTED)),
        "resolved": sum(1 for _ in world.records(Topic.PROTECTED)),
        "expired": 0,
        "earlier": 0,
    }
    assert report.events["raw"] == report.events["protected"] + report.events["rejected"]
    assert report.events["rejected"] > 0
    assert report.profiles > 10
    assert report.tokens > report.profiles


def test_nothing_at_all_is_right() -> None:
    assert made(0).report().ok


@pytest.mark.parametrize("seed", range(8))
def test_crashes_of_the_identify_leg_make_no_finding(seed: int) -> None:
    report = made(250, wander=random.Random(seed)).report()
    assert report.ok, report.findings
    assert report.duplicates["events.resolved"]


def test_many_buckets_say_the_same_as_one(world: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.report()
    monkeypatch.setattr(buckets, "EVENTS", 20)
    assert world.report() == one


# -- the account ------------------------------------------------------------------------------------------------------


def test_a_lost_record_is_missing() -> None:
    lost: list[Origin] = []

    def lose(world: Topology) -> None:
        found, event = world.protected()[picked(world)[0]]
        world.drop(Topic.PROTECTED, found)
        lost.append(event.origin)

    finding = made(spoil=lose).only(Check.MISSING)
    assert finding.first == [place(lost[0])]
    assert finding.count == 1


def test_a_record_twice_is_counted_and_no_finding(world: Topology) -> None:
    for name in (Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED):
        world.repeat(name, next(world.records(name)))
    report = world.report()
    assert report.ok, report.findings
    assert report.duplicates == {"events.protected": 1, "events.rejected": 1, "events.resolved": 1}


@pytest.mark.parametrize("name", [Topic.PROTECTED, Topic.REJECTED])
def test_a_record_twice_in_other_bytes_differs(world: Topology, name: Topic) -> None:
    found = next(world.records(name))
    assert found.value is not None
    again = found.value.replace(b'"source":"', b'"source":"x', 1)
    assert again != found.value
    world.repeat(name, found, again)
    world.repeat(name, found, again)
    finding = world.only(Check.DIFFERS)
    assert finding.first == [place(origin_in(found.value))]
    assert finding.count == 1
    assert world.report().duplicates[name] == 2


def test_a_record_twice_under_another_key_differs(world: Topology) -> None:
    found = next(world.records(Topic.REJECTED))
    world.append(Topic.REJECTED, found.partition, b"other", found.value)
    assert world.only(Check.DIFFERS).count == 1


def test_an_origin_on_both_sides(world: Topology) -> None:
    origin = world.protected()[picked(world)[0]][1].origin
    rejected = next(world.records(Topic.REJECTED))
    value = with_origin(rejected.value or b"", origin)
    world.append(Topic.REJECTED, 0, place(origin).encode(), value)
    assert world.only(Check.BOTH).first == [place(origin)]


@pytest.mark.parametrize(
    "origin",
    [
        Origin("events.raw", NOW, 2, 100_000_000),
        Origin("events.raw", NOW, PARTITIONS, 3),
        Origin("other", NOW, 0, 3),
    ],
)
def test_an_origin_that_raw_does_not_have_is_foreign(origin: Origin) -> None:
    def forge(world: Topology) -> None:
        found, event = world.protected()[-1]
        forged = msgspec.structs.replace(event, origin=origin, sealed={}, key=None)
        first = msgspec.structs.replace(found, value=msgspec.json.encode(forged))
        log = [first, *world.topics[Topic.PROTECTED][found.partition]]  # so that it is no measure of the others' order
        world.topics[Topic.PROTECTED][found.partition] = [
            msgspec.structs.replace(f, offset=i) for i, f in enumerate(log)
        ]

    finding = made(spoil=forge).only(Check.FOREIGN)
    assert finding.first == [place(origin)]
    assert finding.count == 1


def test_an_origin_in_a_gap_of_raw_is_foreign(world: Topology) -> None:
    _, origin = picked(world)
    raw = next(f for f in world.topics[Topic.RAW][origin.partition] if f.offset == origin.offset)
    world.drop(Topic.RAW, raw)
    assert world.only(Check.FOREIGN).first == [place(origin)]


def test_what_raw_no_longer_holds_has_expired(world: Topology) -> None:
    world.starts[Topic.RAW, 1] = 30
    world.topics[Topic.RAW][1] = [f for f in world.topics[Topic.RAW][1] if f.offset >= 30]
    report = world.report()
    assert report.ok, report.findings
    assert report.events["expired"] == 30
    assert report.events["raw"] == 570


def test_what_expired_before_it_was_read_is_missing() -> None:
    def stand_still(world: Topology) -> None:
        for name in (Topic.PROTECTED, Topic.REJECTED):
            for found in [*world.records(name)]:
                origin = origin_in(found.value)
                if origin.partition == 1 and 12 <= origin.offset < 30:
                    world.drop(name, found)
        world.starts[Topic.RAW, 1] = 30
        world.topics[Topic.RAW][1] = [f for f in world.topics[Topic.RAW][1] if f.offset >= 30]

    world = made(spoil=stand_still)
    world.committed[1] = 10
    finding = world.only(Check.MISSING)
    assert finding.count == 18
    assert finding.first == [f"events.raw/{NOW}/1/10"]


def test_a_raw_partition_that_has_expired_whole(world: Topology) -> None:
    n = len(world.topics[Topic.RAW][1])
    world.topics[Topic.RAW][1] = []
    log = world.log

    def ended(name: str) -> Log:
        found = log(name)
        return msgspec.structs.replace(found, bounds={**found.bounds, 1: (n, n)}) if name == Topic.RAW else found

    world.log = ended  # type: ignore[method-assign]
    report = world.report()
    assert report.ok, report.findings
    assert report.events["expired"] == n


def test_events_of_a_topic_that_was_made_again_are_earlier_ones() -> None:
    report = made(incarnations=(EARLIER, NOW)).report()
    assert report.ok, report.findings
    assert report.events["earlier"] == 600
    assert report.events["protected"] + report.events["rejected"] == 1_200


def test_earlier_events_are_checked_for_equal_bytes_too() -> None:
    world = made(incarnations=(EARLIER, NOW))
    found = next(f for f in world.records(Topic.REJECTED) if EARLIER.encode() in (f.value or b""))
    world.repeat(Topic.REJECTED, found, (found.value or b"").replace(b'"source":"', b'"source":"x', 1))
    assert world.only(Check.DIFFERS).count == 1


def test_records_out_of_order(world: Topology) -> None:
    ways = defaultdict(list)
    for found, event in world.protected():
        ways[event.origin.partition, found.partition].append((found, event))
    (a, first), (b, second) = max(ways.values(), key=len)[7:9]
    assert first.origin < second.origin
    world.replace(Topic.PROTECTED, a, key=b.key, value=b.value)
    world.replace(Topic.PROTECTED, b, key=a.key, value=a.value)
    finding = world.only(Check.ORDER)
    assert finding.first == [place(first.origin)]
    assert finding.count == 1


def test_a_replay_is_in_order(world: Topology) -> None:
    """A writer that begins again at a committed offset repeats, and goes on."""
    log = world.topics[Topic.PROTECTED][2]
    last = log.pop()
    for found in log[-10:]:
        world.repeat(Topic.PROTECTED, found)
    world.repeat(Topic.PROTECTED, last)
    report = world.report()
    assert report.ok, report.findings
    assert report.duplicates["events.protected"] == 10


def test_a_record_on_another_partition(world: Topology) -> None:
    found, event = max(world.protected(), key=lambda both: both[1].origin)  # so that the order is kept
    world.drop(Topic.PROTECTED, found)
    world.append(Topic.PROTECTED, (found.partition + 1) % PARTITIONS, found.key, found.value)
    assert world.only(Check.PARTITION).first == [place(event.origin)]


def test_a_record_under_another_key(world: Topology) -> None:
    found, event = world.protected()[picked(world)[0]]
    keys = (b"other-%d" % i for i in range(100))
    world.replace(Topic.PROTECTED, found, key=next(k for k in keys if partition_of(k, PARTITIONS) == found.partition))
    assert world.only(Check.ANCHOR).first == [place(event.origin)]


def test_offsets_moved_ahead_of_the_outputs(world: Topology) -> None:
    new = [world.append(Topic.RAW, 3, b"k", b"{}") for _ in range(15)]
    report = world.report()
    assert report.ok, "not committed, and so not missing"
    world.committed[3] = new[-1].offset + 1
    finding = world.only(Check.AHEAD)
    assert finding.count == 15
    assert finding.first == [f"events.raw/{NOW}/3/{f.offset}" for f in new[:10]]


def test_offsets_beyond_the_end(world: Topology) -> None:
    end = world.committed[0]
    world.committed[0] += 7
    finding = world.only(Check.AHEAD)
    assert finding.count == 7
    assert finding.first == [f"events.raw/{NOW}/0/{end}"]


def test_a_leg_that_is_behind(world: Topology) -> None:
    for found in [*world.records(Topic.PROFILES)][::2]:
        world.drop(Topic.PROFILES, found)
    world.behind, world.settled = {"identify": 12}, False
    report = world.report()
    assert [(f.check, f.count) for f in report.findings] == [(Check.BEHIND, 1), (Check.BEHIND, 12)]
    assert "profiles" in report.findings[0].what
    assert report.behind == {"identify": 12}
    assert not report.ok


def test_profiles_are_not_proved_from_a_part_of_the_events(world: Topology) -> None:
    world.starts[Topic.PROTECTED, 0] = 1
    assert "lost its beginning" in world.only(Check.PROFILES).what


# -- resolved ---------------------------------------------------------------------------------------------------------


def test_an_event_that_is_not_resolved(world: Topology) -> None:
    found = next(world.records(Topic.RESOLVED))
    world.drop(Topic.RESOLVED, found)
    assert world.only(Check.RESOLVED).first == [place(origin_in(found.value))]


def test_a_resolved_event_that_is_not_protected(world: Topology) -> None:
    found = next(world.records(Topic.RESOLVED))
    origin = Origin("events.raw", NOW, 0, 1_000_000)
    world.repeat(Topic.RESOLVED, found, with_origin(found.value or b"", origin))
    assert world.only(Check.RESOLVED).first == [place(origin)]


def test_what_expired_of_resolved_is_not_asked_for_beyond_what_raw_holds(world: Topology) -> None:
    for name in (Topic.RAW, Topic.RESOLVED):
        for p in range(PARTITIONS):
            world.starts[name, p] = 1
    world.topics[Topic.RAW] = [[f for f in log if f.offset > 40] for log in world.topics[Topic.RAW]]
    for found in [*world.records(Topic.RESOLVED)]:
        if origin_in(found.value).offset <= 40:
            world.drop(Topic.RESOLVED, found)
    report = world.report()
    assert report.ok, report.findings
    assert report.events["resolved"] < report.events["protected"]


# -- profiles ---------------------------------------------------------------------------------------------------------


def live(world: Topology) -> dict[bytes, bytes]:
    """Profile id → record, of profiles that are part of no other."""
    last = {f.key: f.value for f in world.records(Topic.PROFILES)}
    return {k: v for k, v in last.items() if k and v and not v.startswith(b'{"merged_into"')}


def oldest_of(world: Topology, profile: bytes) -> str:
    tokens = {t for group in msgspec.json.decode(profile)["tokens"].values() for t in group}
    events = [e for _, e in world.protected() if e.anchor in tokens]
    return place(min(events, key=lambda e: (e.received_at, e.origin)).origin)


def test_a_profile_changed_by_a_byte(world: Topology) -> None:
    key, value = next(iter(live(world).items()))
    world.append(
        Topic.PROFILES, partition_of(key, PARTITIONS), key, value.replace(b'"first_seen":1', b'"first_seen":2')
    )
    finding = world.only(Check.PROFILES)
    assert "differs" in finding.what
    assert finding.first == [oldest_of(world, value)]


@pytest.mark.parametrize("tombstone", [True, False])
def test_a_profile_that_is_not_there(world: Topology, tombstone: bool) -> None:
    key, value = next(iter(live(world).items()))
    if tombstone:
        world.append(Topic.PROFILES, partition_of(key, PARTITIONS), key, None)
    else:
        for found in [f for f in world.records(Topic.PROFILES) if f.key == key]:
            world.drop(Topic.PROFILES, found)
    finding = world.only(Check.PROFILES)
    assert "not there" in finding.what
    assert finding.first == [oldest_of(world, value)]


def test_an_old_profile_that_comes_again(world: Topology) -> None:
    value = next(iter(live(world).values()))
    found = world.append(Topic.PROFILES, partition_of(b"0" * 32, PARTITIONS), b"0" * 32, value)
    finding = world.only(Check.PROFILES)
    assert finding.first == [f"profiles//{found.partition}/{found.offset}"]


def test_a_profile_that_is_said_to_be_merged(world: Topology) -> None:
    key, value = next(iter(live(world).items()))
    other = list(live(world))[1]
    into = b'{"merged_into":"%b"}' % other
    world.append(Topic.PROFILES, partition_of(key, PARTITIONS), key, into)
    assert world.only(Check.PROFILES).first == [oldest_of(world, value)]


@pytest.mark.parametrize("into", [b"7" * 32, b"0" * 32, b"1" * 32])
def test_merged_into_what_is_no_profile(world: Topology, into: bytes) -> None:
    """Nothing, itself, and a circle."""
    found = world.append(Topic.PROFILES, partition_of(b"0" * 32, PARTITIONS), b"0" * 32, b'{"merged_into":"%b"}' % into)
    if into == b"1" * 32:
        world.append(Topic.PROFILES, partition_of(into, PARTITIONS), into, b'{"merged_into":"%b"}' % (b"0" * 32))
    assert f"profiles//{found.partition}/{found.offset}" in world.only(Check.PROFILES).first


def test_merged_over_several_hops(world: Topology) -> None:
    key = next(iter(live(world)))
    world.append(Topic.PROFILES, partition_of(b"0" * 32, PARTITIONS), b"0" * 32, b'{"merged_into":"%b"}' % (b"1" * 32))
    world.append(Topic.PROFILES, partition_of(b"1" * 32, PARTITIONS), b"1" * 32, b'{"merged_into":"%b"}' % key)
    assert world.report().ok


# -- tables -----------------------------------------------------------------------------------------------------------


def a_row(world: Topology, good: Callable[[Row], bool]) -> tuple[str, Row]:
    """The token of a row with at least three events, and the row."""
    for found in world.records(TOKENS):
        row = decode_row(found.value or b"")
        if row.facts is not None and row.facts.version > 2 and good(row):
            return unpack(found.key or b""), row
    raise AssertionError("no such row")


def put(world: Topology, token: str, row: Row | None) -> None:
    at = partition_of(token.encode(), PARTITIONS)
    world.append(TOKENS, at, pack(token), None if row is None else encode(row))


def origins_of(world: Topology, token: str) -> list[Origin]:
    return sorted(e.origin for _, e in world.protected() if e.anchor == token)


def is_root(row: Row) -> bool:
    return not row.parent


def is_member(row: Row) -> bool:
    return bool(row.parent)


@pytest.mark.parametrize("which", [is_root, is_member])
def test_a_row_that_counts_an_origin_twice(world: Topology, which: Callable[[Row], bool]) -> None:
    token, row = a_row(world, which)
    assert row.facts is not None
    row.facts.version += 1
    row.facts.events[next(iter(row.facts.events))] += 1
    put(world, token, row)
    assert world.only(Check.TABLES).first == [place(origins_of(world, token)[0])]


def test_a_row_whose_counters_say_another_number(world: Topology) -> None:
    token, row = a_row(world, is_root)
    assert row.facts is not None
    row.facts.events[next(iter(row.facts.events))] += 1
    put(world, token, row)
    assert world.only(Check.TABLES).first == [place(origins_of(world, token)[0])]


def test_a_row_that_has_not_seen_an_origin(world: Topology) -> None:
    token, row = a_row(world, is_root)
    at, seen = next((at, s) for at, s in row.seen.items() if len(s.above) > 4)
    seen.above = seen.above[4:]
    put(world, token, row)
    lost = min(o for o in origins_of(world, token) if o.partition == at & 0xFFFFFFFF)
    assert world.only(Check.TABLES).first == [place(lost)]


def test_a_row_that_has_seen_an_origin_of_another_token(world: Topology) -> None:
    token, row = a_row(world, is_root)
    at, seen = next(iter(row.seen.items()))
    seen.above += (100_000).to_bytes(4, "little")
    put(world, token, row)
    assert world.only(Check.TABLES).first == [f"events.raw/{NOW}/{at & 0xFFFFFFFF}/{seen.floor + 100_000}"]


def test_a_floor_counts_for_all_below_it_and_not_above(world: Topology) -> None:
    token, row = a_row(world, is_root)
    seen = next(s for s in row.seen.values() if len(s.above) > 4)
    seen.floor, seen.above = seen.high, b""
    put(world, token, row)
    assert world.report().ok
    seen.floor += 1
    put(world, token, row)
    assert world.only(Check.TABLES).first == [place(origins_of(world, token)[0])]


@pytest.mark.parametrize("which", [is_root, is_member])
def test_a_row_that_was_deleted(world: Topology, which: Callable[[Row], bool]) -> None:
    token, _ = a_row(world, which)
    put(world, token, None)
    assert world.only(Check.TABLES).first == [place(origins_of(world, token)[0])]


def test_a_row_of_no_token(world: Topology) -> None:
    found = world.append(TOKENS, 1, pack("email.1." + "0" * 32), encode(Row()))
    assert world.only(Check.TABLES).first == [f"{TOKENS}//1/{found.offset}"]


def test_a_row_on_another_partition(world: Topology) -> None:
    token, row = a_row(world, is_root)
    at = (partition_of(token.encode(), PARTITIONS) + 1) % PARTITIONS
    found = world.append(TOKENS, at, pack(token), encode(row))
    assert world.only(Check.TABLES).first == [f"{TOKENS}//{at}/{found.offset}"]


def test_a_pointer_that_was_lost(world: Topology) -> None:
    token, row = a_row(world, is_member)
    row.parent = b""
    put(world, token, row)
    assert place(origins_of(world, token)[0]) in world.only(Check.TABLES).first


def a_cluster(world: Topology) -> tuple[str, list[tuple[str, Row]]]:
    """A root, and its members with their rows."""
    members = defaultdict(list)
    for found in world.records(TOKENS):
        row = decode_row(found.value or b"")
        if row.parent:
            members[unpack(row.parent)].append((unpack(found.key or b""), row))
    return max(members.items(), key=lambda both: len(both[1]))


@pytest.mark.parametrize("turned", [False, True])
def test_a_pointer_may_lead_over_others(world: Topology, turned: bool) -> None:
    _, members = a_cluster(world)
    (first, row), (second, other) = members[:2]
    if turned:
        first, row, second = second, other, first
    row.parent = pack(second)
    put(world, first, row)
    assert world.report().ok


def test_pointers_in_a_circle(world: Topology) -> None:
    root, members = a_cluster(world)
    at = partition_of(root.encode(), PARTITIONS)
    row = decode_row(next(f.value for f in world.topics[TOKENS][at] if f.key == pack(root)) or b"")
    row.parent = pack(members[0][0])
    put(world, root, row)
    finding = world.only(Check.TABLES)
    assert "pointer" in finding.what
    assert finding.count == 1 + len(members)


def test_a_pointer_to_itself(world: Topology) -> None:
    token, row = a_row(world, is_member)
    row.parent = pack(token)
    put(world, token, row)
    finding = world.only(Check.TABLES)
    assert "pointer" in finding.what
    assert finding.count == 1


def test_a_row_with_another_profile_id(world: Topology) -> None:
    token, row = a_row(world, is_member)
    row.profile = bytes(16)
    put(world, token, row)
    assert world.only(Check.TABLES).first == [place(origins_of(world, token)[0])]


def evidence_of(world: Topology, member: bool) -> tuple[int, bytes, bytes]:
    found = next(f for f in world.records(EVIDENCE) if ((f.key or b"")[0] == 0) == member)
    assert found.key is not None
    assert found.value is not None
    return found.partition, found.key, found.value


def test_evidence_that_is_stale(world: Topology) -> None:
    at, key, value = evidence_of(world, True)
    facts = msgspec.msgpack.decode(value)
    facts[0] -= 1
    world.append(EVIDENCE, at, key, encode(facts))
    token = next(e.anchor for _, e in world.protected() if bytes.fromhex(e.anchor[-32:]) == key[17:])
    finding = world.only(Check.TABLES)
    assert "evidence" in finding.what
    assert finding.first == [place(origins_of(world, token)[0])]


@pytest.mark.parametrize("member", [True, False])
def test_evidence_that_was_deleted(world: Topology, member: bool) -> None:
    at, key, _ = evidence_of(world, member)
    world.append(EVIDENCE, at, key, None)
    assert world.only(Check.TABLES).count == 1


def test_evidence_of_no_token(world: Topology) -> None:
    found = world.append(EVIDENCE, 2, b"\0" + bytes(32), b"x")
    assert world.only(Check.TABLES).first == [f"{EVIDENCE}//2/{found.offset}"]


def test_a_claim_on_a_changelog_is_no_row(world: Topology) -> None:
    for name in (TOKENS, EVIDENCE, SUBJECT_KEYS):
        for value in (b"claim", None):
            world.append(name, 1, CLAIM + b"7", value)
    assert world.report().ok


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["tombstone", "lost", "on another partition"])
def test_a_subject_key_that_is_not_there(world: Topology, how: str) -> None:
    row = next(world.records(SUBJECT_KEYS))
    assert row.key is not None
    if how == "tombstone":
        world.append(SUBJECT_KEYS, row.partition, row.key, None)
    else:
        world.drop(SUBJECT_KEYS, row)
    if how == "on another partition":
        world.append(SUBJECT_KEYS, (row.partition + 1) % PARTITIONS, row.key, row.value)
    sealed = [e for _, e in world.protected() if e.sealed and e.origin.partition == row.partition]
    mine = sorted(e.origin for e in sealed if e.key and e.key.subject.encode() == row.key[:-9])
    finding = world.only(Check.KEYS)
    assert finding.count == len(mine)
    assert finding.first == [place(o) for o in mine[:10]]


def test_a_subject_key_that_was_written_again(world: Topology) -> None:
    row = next(world.records(SUBJECT_KEYS))
    world.append(SUBJECT_KEYS, row.partition, row.key, None)
    world.append(SUBJECT_KEYS, row.partition, row.key, row.value)
    assert world.report().ok


# -- garbage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED])
def test_garbage_is_unreadable(world: Topology, name: Topic) -> None:
    found = [world.append(name, 1, b"key", value) for value in GARBAGE]
    finding = world.only(Check.UNREADABLE)
    assert finding.count == len(GARBAGE)
    assert finding.first == [f"{name}//1/{f.offset}" for f in found[:10]]


@pytest.mark.parametrize(
    "changed",
    [
        {"anchor": "nobody"},
        {"anchor": "email.1." + "G" * 32},
        {"tokens": {"a": "email.1.short"}},
        {"time": 1 << 70},
        {"received_at": -(1 << 70)},
    ],
)
def test_an_event_that_no_leg_can_have_written_is_unreadable(world: Topology, changed: dict[str, object]) -> None:
    event = msgspec.to_builtins(world.protected()[0][1]) | changed
    world.append(Topic.PROTECTED, 1, b"key", msgspec.json.encode(event))
    assert world.only(Check.UNREADABLE).count == 1


def test_garbage_among_the_profiles(world: Topology) -> None:
    values = [v for v in GARBAGE if v is not None and not v.startswith(b'{"origin":{"')]
    for value in values:
        world.append(Topic.PROFILES, partition_of(b"5" * 32, PARTITIONS), b"5" * 32, value)
    assert world.only(Check.UNREADABLE).count == len(values)


@pytest.mark.parametrize("key", [b"", b"x", b"\xff" * 32, b"z" * 32, b"0" * 31, None])
def test_a_profile_under_a_key_that_is_no_id(world: Topology, key: bytes | None) -> None:
    world.append(Topic.PROFILES, 1, key, b"{}")
    assert world.only(Check.UNREADABLE).count == 1


@pytest.mark.parametrize("value", [b"", b"\xff", b"\xc1", b"{}", b"[]"])
def test_a_row_that_does_not_read_back(world: Topology, value: bytes) -> None:
    token, _ = a_row(world, is_root)
    found = world.append(TOKENS, partition_of(token.encode(), PARTITIONS), pack(token), value)
    assert world.only(Check.UNREADABLE).first == [f"{TOKENS}//{found.partition}/{found.offset}"]


def test_members_that_do_not_read_back(world: Topology) -> None:
    at, key, _ = evidence_of(world, False)
    world.append(EVIDENCE, at, key, b"\xc1")
    assert world.only(Check.UNREADABLE).count == 1


@pytest.mark.parametrize("name", [TOKENS, EVIDENCE])
def test_a_changelog_key_that_is_none(world: Topology, name: str) -> None:
    for key in (b"x", b"\0", b"\0" * 16, b"\0" + b"x" * 40):
        world.append(name, 0, key, b"x")
    report = world.report()
    assert {f.check for f in report.findings} <= {Check.UNREADABLE, Check.TABLES}
    assert sum(f.count for f in report.findings) == 4


def test_random_bytes_never_end_it(world: Topology) -> None:
    rng = random.Random(3)
    for name in world.topics:
        records = [*world.records(name)]
        for _ in range(150):
            found = rng.choice(records)
            value = bytearray(found.value or b"x")
            for _ in range(rng.randint(1, 4)):
                value[rng.randrange(len(value))] = rng.randrange(256)
            key = bytearray(found.key or b"x")
            key[rng.randrange(len(key))] ^= rng.choice((0, 0, 0, 1))
            world.append(name, found.partition, bytes(key), bytes(value))
    assert not world.report().ok


# -- the private directory --------------------------------------------------------------------------------------------


def test_nothing_stays_on_disk(world: Topology, tmp_path: Path) -> None:
    assert world.report(tmp_path).ok
    assert os.listdir(tmp_path) == []


def test_a_private_directory_that_a_fault_leaves_nothing_of(
    world: Topology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def away(self: buckets.Buckets, *_: object) -> None:
        modes.extend(stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir())
        raise Transient("Kafka is away")

    monkeypatch.setattr(buckets.Buckets, "write", away)
    with pytest.raises(Transient):
        world.report(tmp_path)
    assert modes == [0o700]
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------------


def origin_in(value: bytes | None) -> Origin:
    return msgspec.convert(msgspec.json.decode(value or b"")["origin"], Origin)


def with_origin(value: bytes, origin: Origin) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(value) | {"origin": msgspec.to_builtins(origin)})


# -- erasures ---------------------------------------------------------------------------------------------------------


def _erase(world: Topology) -> ProtectedEvent:
    """A person is erased, in all raw partitions, and then seen once more; returns an event of before."""
    events = [event for _, event in world.protected()]
    old = next(e for e in events if e.key is not None and sum(o.anchor == e.anchor for o in events) > 3)
    clear = {"erasure": "e" * 32, "partitions": PARTITIONS}
    marker = replace(old, type=ERASE, event=None, tokens={"subject": old.anchor}, clear=clear, key=None, sealed={})
    for partition in range(PARTITIONS):
        _add(world, marker, partition)
    _add(world, replace(old, key=None, sealed={}), 1)
    for row in list(world.records(SUBJECT_KEYS)):
        if (row.key or b"").startswith(old.anchor.encode() + b"\0"):
            world.append(SUBJECT_KEYS, row.partition, row.key, None)
    return old


def _add(world: Topology, event: ProtectedEvent, partition: int) -> None:
    offset = world.append(Topic.RAW, partition, None, b"{}").offset
    world.committed[partition] = offset + 1
    origin = Origin(Topic.RAW, NOW, partition, offset)
    value = msgspec.json.encode(replace(event, origin=origin, event_id=event_id(origin).hex()))
    world.append(Topic.PROTECTED, partition_of(event.anchor.encode(), PARTITIONS), event.anchor.encode(), value)


def test_who_was_erased_is_missed_nowhere() -> None:
    old: list[ProtectedEvent] = []
    world = made(spoil=lambda world: old.append(_erase(world)))
    report = world.report()
    assert report.ok, report.findings
    ident = profile_id(old[0].event_id)
    last = [f.value for f in world.records(Topic.PROFILES) if f.key == ident.encode()]
    assert not last or last[-1] is None


def test_a_key_of_an_event_after_the_erasure_is_missed() -> None:
    def spoil(world: Topology) -> None:
        old = _erase(world)
        _add(world, old, 1)

    assert made(spoil=spoil).only(Check.KEYS).count == 1


def test_nothing_may_stand_under_an_erased_id() -> None:
    old: list[ProtectedEvent] = []
    world = made(spoil=lambda world: old.append(_erase(world)))
    into = next(f for f in world.records(Topic.PROFILES) if f.value and b"merged_into" not in f.value)
    key = profile_id(old[0].event_id).encode()
    value = msgspec.json.encode(Merged((into.key or b"").decode()))
    world.append(Topic.PROFILES, partition_of(key, PARTITIONS), key, value)
    assert world.only(Check.PROFILES).first == [place(old[0].origin)]
