"""Guarantee: what a person sent before the marker of her erasure opens for nobody once the marker was committed, and
what she sends after it, and what others send, opens; and whatever is protected again until then gives the same bytes.

A protect leg is crashed between any two steps, in the middle of a write too, and goes on where it had committed. A
backup of everything from before the erasure opens nothing of anybody once the epoch was rolled and destroyed.

Mutations seen red. Erasure: keys deleted at the marker, or when what is before it was committed, or never; what a
former owner or a replay left is not looked for; an earlier marker counts; a key in memory outlives it; keys of other
incarnations stay, or of version 1, or those of later incarnations go. The choice: the first key; the larger id; one
made later; one of before the erasure, here or in another incarnation; held beyond a later key, the erasure or the
span; no span, or one longer; the incarnation not heeded. The leg: the marker ignored; not told of commits. Epochs:
before its time; the oldest; not of the clock at the start; opened by the one in use alone; nothing wrapped anew, or
all, without bound, not stored, or in the first epoch only.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto import subject_rows
from pipeline.crypto.kek import LocalKek, wrap_key
from pipeline.crypto.keyring import KeyRing, Purpose
from pipeline.crypto.seal import SealPath
from pipeline.crypto.subject_rows import Erasure, KeyRow, by_kek, place_of
from pipeline.crypto.subjects import SubjectKeys
from pipeline.errors import Corrupt, Transient
from pipeline.events import ERASE, ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow import protect
from pipeline.flow.protect import ProtectLeg
from pipeline.ports import Acknowledged, Out
from pipeline.stages.tokenize import tokenize
from pipeline.worker.tables import PartitionTable
from tests.stages.event_world import RECEIVED, registry, rules

NOW, BEFORE = "a" * 32, "b" * 32
RAW = Topic.RAW.value
ROLLED = RECEIVED + 1_000
FIRST = KeyRing.generate(os.urandom, 0)
SECOND = FIRST.rotated(Purpose.SUBJECTS, b"another epoch, for these tests..", ROLLED, RECEIVED)
DESTROYED = SECOND.destroyed("subjects.1", ROLLED)
Sent = tuple[int, bool]
"""A person's number, and whether it is the marker of her erasure."""


@pytest.fixture(autouse=True)
def markers() -> Iterator[None]:
    """An event named Erase stands for the marker that an operator sends: its anchor is the person's token."""

    def marking(*given: Any) -> Any:
        found, dropped = tokenize(*given)
        for e in found.passed:
            if e.event == "Erase":
                e.type, e.event, e.secrets = ERASE, None, []
        return found, dropped

    with patch.object(protect, "tokenize", marking):
        yield


def raw(offset: int, person: int, erases: bool = False, plain: str = "") -> RawRecord:
    name = "Erase" if erases else "Something Done"
    value = {"type": "track", "event": name, "messageId": "m", "userId": f"u-{person}", "properties": {"p": plain}}
    return RawRecord(offset, RECEIVED + offset, None, json.dumps(value).encode())


def protected(out: Out) -> ProtectedEvent:
    assert out.value is not None
    return msgspec.json.decode(out.value, type=ProtectedEvent)


def opens(rows: dict[bytes, bytes], event: ProtectedEvent, keys: KeyRing = SECOND) -> bool:
    """Does anything of the event open with these rows? If so, all of it must."""
    if event.key is None:
        return False
    table = MemoryTable()
    for key, value in rows.items():
        table.put(key, value)
    try:
        found = SubjectKeys(table, keys.epochs()).find(event.key.subject, bytes.fromhex(event.key.key_id))
    except Corrupt:
        return False
    if found is None:
        return False
    assert event.sealed
    for path, value in event.sealed.items():
        found.open(SealPath(event.schema, path), bytes.fromhex(event.event_id), value)
    return True


class Partition:
    """`events.raw`, the changelog, `events.protected` and what was committed; and a worker that may die."""

    def __init__(self, sent: list[Sent], keys: KeyRing = SECOND, incarnation: str = NOW) -> None:
        self.raw = [raw(offset, *each) for offset, each in enumerate(sent)]
        self.leg = ProtectLeg(registry(), keys, rules().blocked, clock=lambda: RECEIVED + self.now)
        self.incarnation = incarnation
        self.changelog: dict[bytes, bytes] = {}
        self.published: dict[int, bytes] = {}
        self.committed = self.settled = self.at = 0
        self.now = 0
        """ms since `RECEIVED`."""
        self.start()

    def start(self) -> None:
        """A worker takes over; whatever was in memory is lost."""
        self.table = PartitionTable(subject_rows.check)
        self.table.rows = dict(self.changelog)
        self.part = self.leg.open(0, {"subject-keys": self.table})
        self.settled = self.at = self.committed
        self.tell()

    def tell(self) -> None:
        assert isinstance(self.part, Acknowledged)
        self.part.on_committed(RAW, self.incarnation, self.committed)

    def take(self, count: int) -> None:
        batch = self.raw[self.at : self.at + count]
        if batch:
            self.part.on_batch(SourceBatch(RAW, self.incarnation, 0, batch))
            self.at += len(batch)

    def checkpoint(self, rng: random.Random | None = None) -> None:
        """State, then outputs; with `rng` it dies somewhere in it, unless it does not."""
        effects, changes = self.part.drain(), self.table.changes(0)
        outputs = effects.phases[1]
        assert isinstance(outputs, dict)
        steps: list[Out | tuple[bytes, bytes | None]] = [(o.key, o.value) for o in changes]
        steps += outputs[Topic.PROTECTED.value]
        lives = rng.randrange(len(steps) + 2) if rng else len(steps) + 1
        for step in steps[:lives]:
            if isinstance(step, Out):
                event = protected(step)
                assert self.published.setdefault(event.origin.offset, step.value or b"") == step.value
            elif step[1] is None:
                self.changelog.pop(step[0], None)
            else:
                self.changelog[step[0]] = step[1]
        if lives > len(steps):
            self.settled = self.at
        else:
            self.start()

    def commit(self) -> None:
        self.committed = self.settled
        self.tell()

    def tick(self) -> None:
        self.now += 400
        self.part.on_tick(RECEIVED + self.now, True)

    def wander(self, rng: random.Random, steps: int) -> None:
        for _ in range(steps):
            rng.choice(
                [
                    lambda: self.take(rng.randrange(1, 4)),
                    lambda: self.take(1),
                    self.checkpoint,
                    lambda: self.checkpoint(rng),
                    self.commit,
                    self.tick,
                    self.start,
                ]
            )()

    def finish(self) -> None:
        self.take(len(self.raw))
        self.checkpoint()
        self.commit()
        self.checkpoint()

    def events(self) -> list[ProtectedEvent]:
        return [msgspec.json.decode(value, type=ProtectedEvent) for _, value in sorted(self.published.items())]

    def rows(self) -> list[KeyRow | Erasure]:
        return [subject_rows.read(*row) for row in self.changelog.items()]


def should_open(sent: list[Sent], offset: int) -> bool:
    person, erases = sent[offset]
    return not erases and (person, True) not in sent[offset:]


sends = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([False, False, True])), min_size=1, max_size=14)
dice = st.randoms(use_true_random=False)


@settings(max_examples=150, deadline=None)
@given(sends, dice, st.sampled_from([2, 3, 1 << 26]))
def test_wherever_it_dies_replays_are_equal_and_the_erased_are_gone_in_the_end(
    sent: list[Sent], rng: random.Random, span: int
) -> None:
    with patch.object(subject_rows, "SPAN", span):
        world = Partition(sent)
        world.wander(rng, 40)
        world.finish()
    assert world.published.keys() == set(range(len(sent)))
    events = world.events()
    assert [opens(world.changelog, e) for e in events] == [should_open(sent, o) for o in range(len(sent))]
    used: dict[str, list[int]] = {}
    for e in events:
        if e.key is not None:
            used.setdefault(e.key.key_id, []).append(e.origin.offset)
    assert all(max(offsets) - min(offsets) < span for offsets in used.values())
    assert sum(isinstance(row, Erasure) for row in world.rows()) == len({p for p, erases in sent if erases})


@settings(max_examples=100, deadline=None)
@given(sends, dice)
def test_until_the_marker_is_committed_all_of_it_opens(sent: list[Sent], rng: random.Random) -> None:
    world = Partition(sent)
    world.commit = lambda: None  # type: ignore[method-assign]
    world.wander(rng, 30)
    world.take(len(sent))
    world.checkpoint()
    assert [opens(world.changelog, e) for e in world.events()] == [not erases for _, erases in sent]


@settings(max_examples=100, deadline=None)
@given(sends, dice, st.integers(0, 14))
def test_after_somebody_has_set_offsets_back_replays_are_equal_and_the_erased_are_gone_again(
    sent: list[Sent], rng: random.Random, back: int
) -> None:
    world = Partition(sent)
    world.finish()
    before = [opens(world.changelog, e) for e in world.events()]
    events, world.published = world.events(), {}
    world.committed = min(back, len(sent))
    world.start()
    world.wander(rng, 30)
    world.finish()
    assert [opens(world.changelog, e) for e in world.events()] == before[min(back, len(sent)) :]
    assert [opens(world.changelog, e) for e in events] == before
    for e in world.events():  # of the living nothing has changed
        if before[e.origin.offset]:
            assert e == events[e.origin.offset]


def test_a_marker_that_comes_again_changes_nothing() -> None:
    world = Partition([(0, False), (0, True), (0, False)])
    world.finish()
    rows = dict(world.changelog)
    for committed in (2, 1):
        world.committed = committed
        world.start()
        world.finish()
        assert world.changelog == rows
    assert [opens(rows, e) for e in world.events()] == [False, False, True]


def test_the_last_of_several_markers_stays_when_an_earlier_one_comes_again() -> None:
    world = Partition([(0, False), (0, True), (0, False), (0, True)])
    world.finish()
    rows = dict(world.changelog)
    assert [(type(row), getattr(row, "offset", None)) for row in world.rows()] == [(Erasure, 3)]
    world.committed = 1
    world.start()
    world.take(1)
    world.checkpoint()
    assert world.changelog == rows


def test_a_restart_without_traffic_finishes_what_is_pending() -> None:
    world = Partition([(0, False), (0, True)])
    world.take(2)
    world.checkpoint()
    world.committed = 2  # and it dies before it deletes
    world.start()
    assert world.part.drain().counts == {("keys_erased", ""): 1}
    world.checkpoint()
    assert [type(row) for row in world.rows()] == [Erasure]


def test_a_marker_is_no_reason_to_delete_before_it_is_committed_itself() -> None:
    world = Partition([(0, False), (0, True)])
    world.take(2)
    world.checkpoint()
    world.committed = 1  # it is read again
    world.tell()
    assert world.part.drain().counts == {}
    assert len(world.rows()) == 2


def test_of_an_earlier_topic_of_that_name_nothing_of_the_erased_is_left() -> None:
    world = Partition([(0, False), (1, False)], incarnation=BEFORE)
    world.finish()
    old = world.events()
    later = Partition([(0, False), (0, True), (0, False), (1, False)])
    later.changelog = dict(world.changelog)
    later.start()
    later.finish()
    assert [opens(later.changelog, e) for e in old] == [False, True]
    assert [opens(later.changelog, e) for e in later.events()] == [False, False, True, True]
    third = Partition([(0, False)], incarnation="c" * 32)  # and an erasure of before is none of what comes later
    third.changelog = dict(later.changelog)
    third.start()
    third.finish()
    assert [opens(third.changelog, e) for e in (*later.events(), *third.events())] == [False, False, True, True, True]


def test_what_was_pending_when_the_topic_was_made_anew_is_deleted() -> None:
    world = Partition([(0, False), (0, True), (0, False)], incarnation=BEFORE)
    world.take(3)
    world.checkpoint()
    later = Partition([(0, False)])
    later.changelog = dict(world.changelog)
    later.start()
    later.finish()
    assert [opens(later.changelog, e) for e in (*world.events(), *later.events())] == [False, False, True, True]


def test_a_row_of_version_1_is_of_before_any_erasure() -> None:
    world = Partition([(0, False), (1, False)])
    world.finish()
    for row in world.rows():
        assert isinstance(row, KeyRow)
        bare = msgspec.structs.replace(row, place=None, made=-1)
        key = row.open(SECOND.epochs())
        record = wrap_key(FIRST.kek, key, row.key_id, bare.aad())
        world.changelog[row.key] = record
    old, world.published = world.events(), {}
    world.raw += [raw(2, 0, True), raw(3, 0), raw(4, 1)]
    world.start()
    world.finish()
    assert [opens(world.changelog, e) for e in (*old, *world.events())] == [False, True, False, True, True]
    assert world.events()[2].key == old[1].key


# -- epochs ----------------------------------------------------------------------------------------------------------


def epochs_of(world: Partition) -> dict[str, int]:
    names = SECOND.epoch_names()
    return {names[kek_id]: n for kek_id, n in by_kek(world.changelog.items()).items()}


def test_after_the_epoch_was_rolled_every_row_is_wrapped_anew_and_seals_as_it_did() -> None:
    sent = [(n, False) for n in range(9)]
    world = Partition(sent)
    world.take(5)
    world.checkpoint()
    assert epochs_of(world) == {"subjects.1": 5}
    with patch.object(protect, "REWRAPPED", 2):
        world.now = 1_000
        world.tick()
        assert world.part.drain().counts["keys_rewrapped", ""] == 2
        world.checkpoint()
        assert epochs_of(world) == {"subjects.1": 3, "subjects.2": 2}
        world.start()  # what is left is seen in the rows
        world.take(9)
        world.checkpoint()
        for _ in range(3):
            world.tick()
        world.checkpoint()
        assert epochs_of(world) == {"subjects.2": 9}
        world.tick()
        assert world.part.drain().counts == {}
    world.committed = 0
    world.start()
    world.finish()
    assert all(opens(world.changelog, e, DESTROYED) for e in world.events())


def test_nothing_is_wrapped_anew_while_the_kek_may_not_be_used() -> None:
    world = Partition([(0, False)])
    world.finish()

    def away() -> None:
        raise Transient("the provider is away")

    world.leg.available = away
    world.now = 1_000
    world.tick()
    assert world.part.drain().counts == {}
    world.leg.available = lambda: None
    world.tick()
    assert world.part.drain().counts == {("keys_rewrapped", ""): 1}


def test_a_ring_without_epochs_goes_on_with_its_kek_and_its_rows_move_to_the_first_one() -> None:
    bare = KeyRing(FIRST.kek, [k for k in FIRST.keys if k.purpose is not Purpose.SUBJECTS])
    world = Partition([(0, False), (1, False)], bare)
    world.tick()
    world.finish()
    assert isinstance(bare.kek, LocalKek)
    assert by_kek(world.changelog.items()) == {bare.kek.kek_id: 2}
    rolled = bare.rotated(Purpose.SUBJECTS, b"e" * 32, ROLLED, RECEIVED)
    world.leg = ProtectLeg(registry(), rolled, rules().blocked)
    world.start()
    world.tick()
    assert world.part.drain().counts == {}
    world.now = 1_000
    world.tick()
    world.finish()
    names = rolled.epoch_names()
    assert {names[kek_id]: n for kek_id, n in by_kek(world.changelog.items()).items()} == {"subjects.1": 2}
    assert all(opens(world.changelog, e, rolled) for e in world.events())


def test_a_restored_backup_of_topics_and_state_opens_nothing_of_the_erased() -> None:
    sent = [(0, False), (1, False), (2, False)]
    world = Partition(sent)
    world.tick()
    world.finish()
    backup, copies = dict(world.changelog), world.events()
    assert [opens(backup, e) for e in copies] == [True, True, True]

    world.raw += [raw(3, 0, True), raw(4, 1), raw(5, 0)]
    world.start()
    world.finish()
    world.now = 1_000
    world.tick()
    world.checkpoint()
    assert epochs_of(world) == {"subjects.2": 3}
    assert [opens(world.changelog, e, DESTROYED) for e in world.events()] == [False, True, True, False, True, True]
    assert [opens(backup, e, DESTROYED) for e in copies] == [False, False, False]
    assert [opens({**backup, **world.changelog}, e, DESTROYED) for e in copies] == [False, True, True]


def test_a_worker_is_opened_in_the_epoch_of_its_clock() -> None:
    world = Partition([(0, False), (1, False)])
    world.now = 1_000
    world.start()
    world.finish()
    assert epochs_of(world) == {"subjects.2": 2}


# -- the rows --------------------------------------------------------------------------------------------------------


def test_of_two_workers_keys_made_at_one_offset_the_smaller_id_seals_and_one_made_later_changes_nothing() -> None:
    place = place_of(NOW)
    rows = [KeyRow("s", bytes([n]) * 8, place, made, b"") for n, made in ((3, 5), (2, 5), (1, 7), (9, 7))]
    for order in (rows, rows[::-1]):
        chosen = [subject_rows.choose(order, None, place, o).row for o in range(4, 9)]
        assert [None if row is None else row.key_id[0] for row in chosen] == [None, 2, 2, 1, 1]


places = st.sampled_from([place_of(NOW), place_of(BEFORE)])
key_rows = st.one_of(
    st.builds(KeyRow, st.just("s"), st.binary(min_size=8, max_size=8), places, st.integers(0, 12), st.just(b"")),
    st.builds(KeyRow, st.just("s"), st.binary(min_size=8, max_size=8), st.none(), st.just(-1), st.just(b"")),
)
erasures = st.one_of(st.none(), st.builds(Erasure, st.just("s"), places, st.integers(0, 12)))


@settings(max_examples=150)
@given(st.lists(key_rows, max_size=5), erasures, st.integers(0, 12), st.sampled_from([3, 20]))
def test_a_choice_is_the_same_for_all_offsets_of_its_span_and_in_any_order_of_rows(
    rows: list[KeyRow], erasure: Erasure | None, offset: int, span: int
) -> None:
    place = place_of(NOW)
    with patch.object(subject_rows, "SPAN", span):
        choice = subject_rows.choose(rows, erasure, place, offset)
        assert choice.since <= offset < choice.until
        assert subject_rows.choose(rows[::-1], erasure, place, offset) == choice
        held = rows
        if choice.row is None:
            made = KeyRow("s", b"made now", place, offset, b"")
            held = [*rows, made]
        for o in range(max(0, choice.since), min(choice.until, 16)):
            assert subject_rows.choose(held, erasure, place, o).row == (choice.row or made)
        if choice.row is not None and erasure is not None:
            assert choice.since < choice.until
            assert not (erasure.dooms(choice.row) and (erasure.place != place or erasure.offset <= offset))
