"""Which records a worker was at work on when it died, and how often that was the same ones.

`<state directory>/journal` is a small memory-mapped file. Before a leg takes a batch in, its engine notes there what
the batch is, and clears the note after it (1 µs a batch). What is written there is the kernel's at once, so it
survives kill -9, a fault in native code and the OOM killer, and whoever opens the journal next finds the *dead range*.
`suspects.json` beside it keeps such ranges with their deaths. A suspect range is taken in pieces (`pieces`): after the
first death 64 records at a time, after the second one by one, so that the third death names one record. That one is
rejected, or where a leg cannot reject, nothing goes on. A range that was passed and acknowledged is struck off.

Several processes may share a directory: each leg of each has a slot of its own, locked for as long as it lives.

Both files are a safety net and hold no state: what does not read back is said and begun anew.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Self

import msgspec
import structlog

from ..adapters.private_file import sync_directory
from ..errors import Misuse, SealstreamError, Transient
from ..events import Record, SourceBatch
from .book import TopicPartition

log = structlog.get_logger(__name__)

DEATHS = 3
"""After so many a record is not touched again."""
PIECE = 64
"""Records taken in at a time after the first death: 2,000 are 32 pieces, and the second death leaves 64."""
SLOTS = 64
SLOT_BYTES = 512
BYTES = (1 + SLOTS) * SLOT_BYTES
"""Of the file: its head and the slots."""
MAGIC = b"sealstream/journal/1"
FORMAT = "sealstream/suspects/1"

_SET = struct.Struct(">IqqH")  # partition, first, last, length of the names; behind the byte that says "set"
_NAMES_AT = 1 + _SET.size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets `first` to `last`, both included, of one partition as one leg reads it. `topic` is the broker's name."""

    leg: str
    topic: str
    incarnation: str
    partition: int
    first: int
    last: int

    def holds(self, other: Range) -> bool:
        return (
            (self.leg, self.topic, self.incarnation, self.partition)
            == (other.leg, other.topic, other.incarnation, other.partition)
            and self.first <= other.first
            and other.last <= self.last
        )


class Suspect(Range, frozen=True, kw_only=True):
    """A range at work on which a worker died, so often in a row."""

    deaths: int


class _File(msgspec.Struct, frozen=True):
    format: str
    suspects: tuple[Suspect, ...]


def after_death(suspects: Sequence[Suspect], dead: Range) -> tuple[Suspect, ...]:
    """Return the suspects after one more death. It counts on only where the dead range lies within a suspect's."""
    around = [s for s in suspects if s.holds(dead)]
    worst = max(around, key=lambda s: s.deaths, default=None)
    deaths = 1 if worst is None else worst.deaths + 1
    return (*(s for s in suspects if s is not worst), Suspect(**msgspec.structs.asdict(dead), deaths=deaths))


def pieces(records: Sequence[Record], suspects: Sequence[Suspect]) -> Iterator[tuple[list[Record], bool]]:
    """Cut the records of one partition, in order, by the suspects of that partition: (piece, may not be touched).

    A function of the records and the suspects alone. A piece lies within one suspect range or in none.
    """

    def place(record: Record) -> tuple[int, int, bool]:
        offset = record.offset
        around = [s for s in suspects if s.first <= offset <= s.last]
        if not around:
            return -1, 0, False
        worst = max(around, key=lambda s: s.deaths)
        if worst.deaths >= DEATHS and worst.first == worst.last:
            return worst.first, 0, True
        return worst.first, offset if worst.deaths > 1 else (offset - worst.first) // PIECE, False

    for (_, _, killer), group in groupby(records, place):
        yield list(group), killer


class Journal:
    """The journal of one directory, open for this process. `close` keeps what is noted."""

    def __init__(self, directory: Path) -> None:
        """Open the directory's journal, made if missing (mode 0600), and take in what the dead were at work on.

        Raises:
            Misuse: directory or files cannot be made or written by this user.
            Transient: their disk is full or failing.
        """
        self._path, self._suspects_path = directory / "journal", directory / "suspects.json"
        self._mine: set[int] = set()
        with self._writing(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._writing(self._path):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with self._writing(self._path), self._locked():
                self._prepare()
                self._map = mmap.mmap(self._fd, BYTES)
            self.suspects = self.look()
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def leg(self, name: str, incarnations: Mapping[str, str]) -> LegJournal:
        """Return the journal of one leg, in a slot of its own.

        Raises:
            Misuse: all slots are taken.
        """
        for at in self._slots():
            if at not in self._mine and self._lock(at):
                if self._map[at]:  # of one who died since we looked
                    self._unlock(at)
                    continue
                self._mine.add(at)
                return LegJournal(self, at, name, incarnations)
        raise Misuse(
            f"{self._path}: {SLOTS} legs work in this directory; give the worker a SEALSTREAM_STATE_DIR of its own"
        )

    def look(self) -> tuple[Suspect, ...]:
        """Return the suspects, after counting what processes that are gone by now were at work on."""
        with self._locked():
            dead = self._take_dead()
            self.suspects = self._read()
            for at, range_ in dead:
                if range_ is None:
                    log.warning("a note of the journal does not read back; its death is not counted")
                else:
                    self._count(at, range_)
        return self.suspects

    def strike(self, gone: Iterable[Suspect]) -> None:
        """Forget suspects: their records were passed, and are acknowledged."""
        gone = set(gone)
        with self._locked():
            self._write(tuple(s for s in self._read() if s not in gone))

    # -- the mapped file -----------------------------------------------------------------------------------------

    def put(self, at: int, names: bytes, partition: int, first: int, last: int) -> None:
        found = self._map
        _SET.pack_into(found, at + 1, partition, first, last, len(names))
        found[at + _NAMES_AT : at + _NAMES_AT + len(names)] = names
        found[at] = 1

    def clear(self, at: int) -> None:
        self._map[at] = 0

    def _slots(self) -> range:
        return range(SLOT_BYTES, BYTES, SLOT_BYTES)

    def _prepare(self) -> None:
        """Give the file its size and head; what is there but not ours is said and overwritten."""
        size = os.fstat(self._fd).st_size
        if (os.pread(self._fd, len(MAGIC), 0), size) == (MAGIC, BYTES):
            return
        if size:
            log.warning("the journal does not read back: begun anew, without what it held", path=str(self._path))
        if os.pwrite(self._fd, bytes(BYTES), 0) != BYTES:  # written, not sparse: a full disk shows now
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(self._fd, BYTES)
        os.pwrite(self._fd, MAGIC, 0)

    def _take_dead(self) -> list[tuple[int, Range | None]]:
        """Clear the slots of processes that are gone; a range is None where a slot does not read back."""
        found: list[tuple[int, Range | None]] = []
        for at in self._slots():
            if self._map[at] and at not in self._mine and self._lock(at):
                found.append((at, self._range(at)))
                self.clear(at)
                self._unlock(at)
        return found

    def _range(self, at: int) -> Range | None:
        partition, first, last, length = _SET.unpack_from(self._map, at + 1)
        try:
            names = self._map[at + _NAMES_AT : at + min(_NAMES_AT + length, SLOT_BYTES)].decode()
            leg, topic, incarnation = names.split("\0")
        except ValueError:
            return None
        if not 0 <= first <= last:
            return None
        return Range(leg=leg, topic=topic, incarnation=incarnation, partition=partition, first=first, last=last)

    def _count(self, at: int, dead: Range) -> None:
        try:
            self._write(after_death(self.suspects, dead))
        except SealstreamError:
            self._map[at] = 1  # to be counted by whoever comes when there is room again
            raise
        worst = self.suspects[-1]
        log.warning(
            "a worker died at work on these records; they are taken in pieces",
            **msgspec.structs.asdict(worst),
        )

    # -- locks: they end with the process ------------------------------------------------------------------------

    def _lock(self, at: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, at: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, at)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time counts, and writes `suspects.json`."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            self._unlock(0)

    # -- suspects.json -------------------------------------------------------------------------------------------

    def _read(self) -> tuple[Suspect, ...]:
        with self._writing(self._suspects_path):
            try:
                content = self._suspects_path.read_bytes()
            except FileNotFoundError:
                return ()
        try:
            found = msgspec.json.decode(content, type=_File)
            if found.format == FORMAT:
                return found.suspects
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        log.warning("suspects.json does not read back: begun anew, no death is known", path=str(self._suspects_path))
        return ()

    def _write(self, suspects: tuple[Suspect, ...]) -> None:
        """Durable on return; a crash leaves the old file or the new one."""
        made = self._suspects_path.with_suffix(".new")
        with self._writing(self._suspects_path):
            fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_File(FORMAT, suspects))) + b"\n")
                file.flush()
                os.fsync(fd)
            made.replace(self._suspects_path)
            sync_directory(self._path.parent)
        self.suspects = suspects

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if e.errno in _FULL:
                raise Transient(f"{path}: cannot be written ({e.strerror}); make room on its disk") from None
            raise Misuse(
                f"{path}: cannot be written ({e.strerror}); SEALSTREAM_STATE_DIR must name a directory "
                "in which the worker's user may write"
            ) from None


class LegJournal:
    """What one leg notes, and the suspects among what it reads."""

    def __init__(self, journal: Journal, at: int, leg: str, incarnations: Mapping[str, str]) -> None:
        self._journal, self._at, self._leg, self._incarnations = journal, at, leg, incarnations
        self._names: dict[str, bytes] = {}
        self._suspects: tuple[Suspect, ...] = ()
        self._keep(journal.suspects)

    def look(self) -> None:
        """Partitions were assigned: learn on what their last owners died, if it was in this directory."""
        try:
            self._keep(self._journal.look())
        except SealstreamError as e:  # counted by whoever opens the journal next; nothing is rejected without a count
            log.warning("what a dead worker was at work on cannot be kept", message=str(e))

    def _keep(self, suspects: Sequence[Suspect]) -> None:
        known = self._incarnations
        self._suspects = tuple(s for s in suspects if s.leg == self._leg and s.incarnation == known.get(s.topic, ""))

    def pieces(self, topic: str, batch: SourceBatch) -> Iterable[tuple[SourceBatch, bool]]:
        """The batch as it may be handed to the leg: (piece, may not be touched); whole, if nothing is suspect."""
        if not self._suspects:
            return ((batch, False),)
        first, last = batch.records[0].offset, batch.records[-1].offset
        here = [
            s
            for s in self._suspects
            if s.topic == topic and s.partition == batch.partition and s.first <= last and first <= s.last
        ]
        if not here:
            return ((batch, False),)
        return [
            (msgspec.structs.replace(batch, records=records), killer) for records, killer in pieces(batch.records, here)
        ]

    def begin(self, topic: str, batch: SourceBatch) -> None:
        """The leg is about to take the batch in: whoever opens the journal after our death finds it."""
        names = self._names.get(topic)
        if names is None:
            names = "\0".join((self._leg, topic, self._incarnations.get(topic, ""))).encode()
            assert len(names) <= SLOT_BYTES - _NAMES_AT, "Kafka's topic names are 249 characters at most"
            self._names[topic] = names
        records = batch.records
        self._journal.put(self._at, names, batch.partition, records[0].offset, records[-1].offset)

    def end(self) -> None:
        """The leg has taken it in."""
        self._journal.clear(self._at)

    def passed(self, committed: Mapping[TopicPartition, int]) -> None:
        """These offsets, the next to read, are committed: strike off what lies before them.

        Not before: what is durable but not acknowledged is read again after a crash, and what was rejected then must
        be rejected again.
        """
        gone = [s for s in self._suspects if s.last < committed.get(TopicPartition(s.topic, s.partition), 0)]
        if not gone:
            return
        try:
            self._journal.strike(gone)
        except SealstreamError as e:  # a death too many is remembered: harmless, and tried again with the next commit
            log.warning("suspects.json is not up to date", message=str(e))
            return
        self._suspects = tuple(s for s in self._suspects if s not in gone)
        log.info("records on which a worker died were passed", leg=self._leg, ranges=len(gone))
