"""Which records a worker died at work on: narrowed to one in three deaths, kept across restarts, never a wrong one.

Mutations seen red: deaths that are not written down; no narrowing after the first or the second death; a range is
rejected; rejected after two deaths; a death elsewhere counts on; struck one offset too early; struck on disk only; a
living process counts as dead; a dead one is counted twice; a death that found no room is lost; a full disk is wrong
use; files that others may read; suspects of another leg or incarnation count.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipeline.errors import Misuse, Transient
from pipeline.events import RawRecord, SourceBatch
from pipeline.worker.book import TopicPartition
from pipeline.worker.journal import (
    BYTES,
    DEATHS,
    PIECE,
    SLOTS,
    Journal,
    LegJournal,
    Range,
    Suspect,
    after_death,
    pieces,
)

TOPIC, IDS = "t.events.raw", {"t.events.raw": "id-1"}
AT = TopicPartition(TOPIC, 2)


def batch(first: int, last: int, partition: int = 2) -> SourceBatch:
    return SourceBatch("events.raw", "id-1", partition, records(first, last))


def records(first: int, last: int) -> list[RawRecord]:
    return [RawRecord(offset, 0, None, None) for offset in range(first, last + 1)]


def range_(first: int, last: int, *, leg: str = "protect", partition: int = 2) -> Range:
    return Range(leg=leg, topic=TOPIC, incarnation="id-1", partition=partition, first=first, last=last)


def suspect(first: int, last: int, deaths: int) -> Suspect:
    return Suspect(**msgspec.structs.asdict(range_(first, last)), deaths=deaths)


# -- the rule ------------------------------------------------------------------------------------------------------


def life(total: int, size: int, suspects: Sequence[Suspect], kills: Sequence[int]) -> tuple[Range | None, list[int]]:
    """One life from offset 0 on, in batches of `size`: the range it dies at work on, and the offsets left out."""
    left_out: list[int] = []
    for start in range(0, total, size):
        for piece, killer in pieces(records(start, min(start + size, total) - 1), suspects):
            offsets = [r.offset for r in piece]
            if killer:
                left_out += offsets
            elif any(o in kills for o in offsets):
                return range_(offsets[0], offsets[-1]), left_out
    return None, left_out


@given(st.integers(1, 700), st.data())
def test_three_deaths_name_one_record_however_the_batches_fall(total: int, data: st.DataObject) -> None:
    killer = data.draw(st.integers(0, total - 1))
    suspects: tuple[Suspect, ...] = ()
    for _ in range(DEATHS):
        dead, left_out = life(total, data.draw(st.integers(max(1, killer // 3), 900)), suspects, [killer])
        assert dead is not None
        assert not left_out
        suspects = after_death(suspects, dead)
    dead, left_out = life(total, data.draw(st.integers(1, 900)), suspects, [killer])
    assert dead is None
    assert left_out == [killer]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=4, unique=True), st.integers(1, 500))
def test_several_killers_are_named_one_after_the_other(killers: list[int], size: int) -> None:
    suspects: tuple[Suspect, ...] = ()
    for deaths in range(DEATHS * len(killers) + 1):
        dead, left_out = life(401, size, suspects, killers)
        if dead is None:
            assert deaths == DEATHS * len(killers)
            assert left_out == sorted(killers)
            return
        suspects = after_death(suspects, dead)
    pytest.fail("it was not done in time")


@given(st.lists(st.integers(0, 99), max_size=8, unique=True), st.integers(1, 900))
def test_kills_at_records_that_come_through_the_next_time_leave_nothing_out(kills: list[int], size: int) -> None:
    """As an operator's: each at another record; nothing was passed in between."""
    suspects: tuple[Suspect, ...] = ()
    for at in [k * PIECE for k in kills]:
        dead, left_out = life(6_400, size, suspects, [at])
        assert not left_out
        if dead is not None:
            suspects = after_death(suspects, dead)
    assert not [s for s in suspects if s.deaths >= DEATHS]


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(1, 4)), max_size=4), st.data())
def test_pieces_are_the_batch(found: list[tuple[int, int, int]], data: st.DataObject) -> None:
    suspects = [suspect(min(a, b), max(a, b), d) for a, b, d in found]
    offsets = sorted(data.draw(st.sets(st.integers(0, 400), min_size=1)))  # with gaps, as compaction leaves
    whole = [RawRecord(o, 0, None, None) for o in offsets]
    cut = list(pieces(whole, suspects))
    assert [r for piece, _ in cut for r in piece] == whole
    for piece, killer in cut:
        assert not killer or suspect(piece[0].offset, piece[0].offset, 3).holds(
            range_(piece[0].offset, piece[-1].offset)
        )
        for s in suspects:
            inside = [s.first <= r.offset <= s.last for r in piece]
            assert all(inside) or not any(inside) or len(suspects) > 1


def test_the_pieces_after_the_first_and_the_second_death() -> None:
    cut = [[r.offset for r in p] for p, _ in pieces(records(0, 299), [suspect(100, 250, 1)])]
    assert [(p[0], p[-1]) for p in cut] == [(0, 99), (100, 163), (164, 227), (228, 250), (251, 299)]
    cut = [[r.offset for r in p] for p, _ in pieces(records(0, 9), [suspect(3, 5, 2)])]
    assert cut == [[0, 1, 2], [3], [4], [5], [6, 7, 8, 9]]
    assert [k for _, k in pieces(records(0, 2), [suspect(1, 1, 3)])] == [False, True, False]
    assert [k for _, k in pieces(records(0, 2), [suspect(0, 1, 3)])] == [False] * 3, "a range is no record"


def test_a_death_that_may_have_another_cause_counts_anew() -> None:
    once = after_death((), range_(10, 20))
    assert [s.deaths for s in after_death(once, range_(10, 10))] == [2]
    for other in (range_(5, 20), range_(10, 21), range_(15, 15, leg="identify"), range_(15, 15, partition=1)):
        assert sorted(s.deaths for s in after_death(once, other)) == [1, 1]


# -- the files -----------------------------------------------------------------------------------------------------


def opened(directory: Path, leg: str = "protect") -> tuple[Journal, LegJournal]:
    journal = Journal(directory)
    return journal, journal.leg(leg, IDS)


def dies(directory: Path, *at_work: SourceBatch) -> None:
    """A life that takes batches in and dies at work on the last one: its locks go with it, its note stays."""
    journal, leg = opened(directory)
    for each in at_work[:-1]:
        leg.begin(TOPIC, each)
        leg.end()
    leg.begin(TOPIC, at_work[-1])
    journal.close()


def test_what_was_at_work_at_death_is_suspect_and_what_was_done_is_not(tmp_path: Path) -> None:
    dies(tmp_path, batch(0, 9), batch(10, 19))
    journal, _ = opened(tmp_path)
    assert journal.suspects == (suspect(10, 19, 1),)
    journal.close()


def test_an_end_without_work_leaves_nothing(tmp_path: Path) -> None:
    journal, leg = opened(tmp_path)
    leg.begin(TOPIC, batch(0, 9))
    leg.end()
    journal.close()
    journal, _ = opened(tmp_path)
    assert journal.suspects == ()
    assert not (tmp_path / "suspects.json").exists()
    journal.close()


def test_the_count_is_kept_across_lives_and_each_death_counts_once(tmp_path: Path) -> None:
    dies(tmp_path, batch(0, 1_999))
    dies(tmp_path, batch(64, 127))
    for _ in range(3):  # lives that end without work
        Journal(tmp_path).close()
    dies(tmp_path, batch(70, 70))
    journal, leg = opened(tmp_path)
    assert journal.suspects == (suspect(70, 70, 3),)
    cut = [(p.records[0].offset, p.records[-1].offset, killer) for p, killer in leg.pieces(TOPIC, batch(0, 99))]
    assert cut == [(0, 69, False), (70, 70, True), (71, 99, False)]
    journal.close()


def test_suspects_are_struck_when_what_lies_behind_them_is_committed_and_not_before(tmp_path: Path) -> None:
    dies(tmp_path, batch(10, 19))
    journal, leg = opened(tmp_path)
    for committed in ({AT: 19}, {TopicPartition(TOPIC, 1): 99}, {TopicPartition("another", 2): 99}):
        leg.passed(committed)
        assert len(list(leg.pieces(TOPIC, batch(0, 29)))) == 3
    leg.passed({AT: 20})
    assert leg.pieces(TOPIC, (whole := batch(0, 29))) == ((whole, False),)
    journal.close()
    again = Journal(tmp_path)
    assert again.suspects == ()
    again.close()


def test_only_its_own_legs_topics_incarnations_and_partitions_concern_a_leg(tmp_path: Path) -> None:
    dies(tmp_path, batch(10, 19))
    journal = Journal(tmp_path)
    for leg, topic, ids, partition in (
        ("identify", TOPIC, IDS, 2),
        ("protect", "another", {"another": "id-1"}, 2),
        ("protect", TOPIC, {TOPIC: "id-2"}, 2),
        ("protect", TOPIC, IDS, 1),
    ):
        whole = batch(0, 29, partition)
        assert journal.leg(leg, ids).pieces(topic, whole) == ((whole, False),)
    journal.close()


CHILD = """
import os, signal, sys, time
from pathlib import Path
from pipeline.events import RawRecord, SourceBatch
from pipeline.worker.journal import Journal
leg = Journal(Path(sys.argv[1])).leg("protect", {"t.events.raw": "id-1"})
leg.begin("t.events.raw", SourceBatch("events.raw", "id-1", 2, [RawRecord(o, 0, None, None) for o in range(5, 8)]))
print("at work", flush=True)
time.sleep(60)
"""


def test_a_note_survives_kill_9_and_one_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"at work\n"
        journal, leg = opened(tmp_path)
        assert list(journal.suspects) == []
        leg.look()
        assert leg.pieces(TOPIC, (whole := batch(0, 9))) == ((whole, False),)
    finally:
        child.kill()
        child.communicate()
    leg.look()  # as when its partitions come to us
    assert [(p.records[0].offset, p.records[-1].offset) for p, _ in leg.pieces(TOPIC, batch(0, 9))] == [
        (0, 4),
        (5, 7),
        (8, 9),
    ]
    assert journal.suspects == (suspect(5, 7, 1),)
    journal.close()


def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "state"
    dies(directory, batch(0, 1))
    Journal(directory).close()
    for name in ("journal", "suspects.json"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert not list(directory.glob("*.new"))
    assert (directory / "journal").stat().st_size == BYTES


def test_one_leg_too_many_for_a_directory_is_wrong_use(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for _ in range(SLOTS):
        journal.leg("protect", IDS)
    with pytest.raises(Misuse, match="SEALSTREAM_STATE_DIR"):
        journal.leg("protect", IDS)
    journal.close()


def test_names_as_long_as_kafka_allows_have_room(tmp_path: Path) -> None:
    topic = "t" * 249
    journal = Journal(tmp_path)
    journal.leg("l" * 32, {topic: "i" * 40}).begin(topic, batch(2**62, 2**62))
    journal.close()
    journal = Journal(tmp_path)
    assert [(s.topic, s.first) for s in journal.suspects] == [(topic, 2**62)]
    journal.close()


# -- what may be wrong with them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"garbage", bytes(BYTES), b"x" * BYTES, b"x" * (2 * BYTES)])
def test_a_journal_that_does_not_read_back_is_said_and_begun_anew(damage: bytes, tmp_path: Path) -> None:
    dies(tmp_path, batch(0, 9))
    (tmp_path / "journal").write_bytes(damage)
    with capture_logs() as logs:
        journal, leg = opened(tmp_path)
    assert [log["event"] for log in logs if "journal" in log["event"]] or not damage
    assert journal.suspects == ()
    leg.begin(TOPIC, batch(3, 4))
    journal.close()
    journal = Journal(tmp_path)
    assert journal.suspects == (suspect(3, 4, 1),)
    journal.close()


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"\0" * 60])
def test_a_note_that_does_not_read_back_is_said_and_not_counted(damage: bytes, tmp_path: Path) -> None:
    dies(tmp_path, batch(0, 9))
    with (tmp_path / "journal").open("r+b") as file:
        file.seek(512 + 1 + 22)
        file.write(damage)
    with capture_logs() as logs:
        journal = Journal(tmp_path)
    assert "does not read back" in logs[0]["event"]
    assert journal.suspects == ()
    journal.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'{"format":"another","suspects":[]}', b'{"suspects":[{}]}'])
def test_suspects_that_do_not_read_back_are_said_and_begun_anew(damage: bytes, tmp_path: Path) -> None:
    dies(tmp_path, batch(0, 9))
    Journal(tmp_path).close()
    (tmp_path / "suspects.json").write_bytes(damage)
    with capture_logs() as logs:
        journal = Journal(tmp_path)
    assert "suspects.json does not read back" in logs[0]["event"]
    assert journal.suspects == ()
    journal.close()


def test_a_directory_that_cannot_be_made_is_wrong_use_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Misuse, match=r"file/state: cannot be written \(Not a directory\); SEALSTREAM_STATE_DIR"):
        Journal(tmp_path / "file" / "state")
    (tmp_path / "journal").mkdir()
    with pytest.raises(Misuse, match="journal: cannot be written"):
        Journal(tmp_path)


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EACCES, Misuse), (errno.EROFS, Misuse), (errno.ENOSPC, Transient)]
)
def test_refusals_say_what_to_do(
    number: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(error, match=rf"{tmp_path}/journal: cannot be written .*(make room|SEALSTREAM_STATE_DIR)"):
        Journal(tmp_path)


def test_a_death_that_cannot_be_kept_is_counted_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(tmp_path, batch(0, 9))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Transient, match=r"suspects\.json: cannot be written .* make room"):
            Journal(tmp_path)
    journal, leg = opened(tmp_path)
    assert list(journal.suspects) == [suspect(0, 9, 1)]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        leg.passed({AT: 10})  # work goes on
    leg.passed({AT: 11})
    assert journal.suspects == ()
    journal.close()
