"""More partitions for an installation that stands still: topics grow, and keyed rows move to their new partitions.

The order makes every interruption harmless, and a repetition goes on where the last one ended:

1. The changelogs grow. From here on no worker starts, since a leg's topics must have one number of partitions
   (`worker.startup`). One whose changelogs have not grown yet works on in the old order, in which everything still is.
2. The topics that no leg reads grow.
3. Rows move, topic by topic, until a last look finds none that is not where it belongs.
4. The legs' source topics grow, along the stream from its end, `events.raw` last. A leg can start again with its last
   source, and then all of its rows are where it looks for them.

A row is written to its new partition, and when that is durable its old place gets a tombstone, with the header
`moved-to`. An interruption in between leaves it in both places, equal; the repetition writes it once more.

Records that were consumed stay where they are, and so do rows that belong to a partition instead of a key. Nothing
may be left to consume (`standstill`): what waited in an old partition would be folded by the wrong owner. Before the
sources grow, `control` is told how many partitions there were, for those who ask why old records are where they are.

Cost: four reads of each moved topic for each million records in it, with 300 bytes of memory for each row that moves
of that million; and what `Rows.homes` needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from uuid import uuid4
from zlib import crc32

import msgspec

from ..errors import Fatal, Misuse
from . import control, topics
from .partitioner import partitions
from .reader import Found, Reader
from .topic_specs import CHANGELOG, CLAIM, is_row
from .writer import Writer

MOVED_TO = "moved-to"
RECORDS = 1_000_000
"""About so many records, of some share of the keys, are looked at together: bounds the memory."""
_BATCH = 1_000

Home = Callable[[bytes], bytes | None]
"""A row's key → the key by whose murmur2 it lives; None: nobody can say."""
Blockers = Callable[[bool], Sequence[str]]
"""Whether the changelogs have begun to grow → what must be done before anything else can be."""
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, of how much."""


class Rows(msgspec.Struct, frozen=True):
    """A compacted topic whose rows move. `homes` makes `Home` of the topic's keys, which it may leave unread."""

    topic: str
    homes: Callable[[Iterable[bytes]], Home]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Topics by the part that they play, by their names on the broker."""

    control: str
    changelogs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Read by no leg."""
    rows: tuple[Rows, ...]
    """Of the changelogs and outputs, those whose rows live by a key."""
    sources: tuple[str, ...]
    """What the legs read, in the order in which they grow; the first of the stream is the last."""

    @property
    def topics(self) -> tuple[str, ...]:
        return (*self.changelogs, *self.outputs, *self.sources)


class Moved(msgspec.Struct):
    """Rows of a topic that moved, or in a dry run would.

    `stray`: rows of which nobody can say where they belong; they stay.
    """

    rows: int = 0
    stray: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    to: int
    dry_run: bool
    partitions: dict[str, int]
    """Of each topic before."""
    moved: dict[str, Moved]
    blocked: tuple[str, ...] = ()
    """What must be done first; only in a dry run, else it is an error."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where a row is that belongs elsewhere. `digest`: its value's, in this process."""

    partition: int
    offset: int
    digest: int
    home: int


class _Share(msgspec.Struct, frozen=True):
    """A part of all keys, whatever they are."""

    number: int
    shares: int

    def has(self, key: bytes) -> bool:
        return crc32(key) % self.shares == self.number


class _Earlier(msgspec.Struct, frozen=True):
    partitions: list[int]


_EARLIER = b"partitions/earlier"


def earlier_counts(bootstrap: str, security: Mapping[str, str], topic: str) -> tuple[int, ...]:
    """How many partitions the topics had before they grew, ascending. Raises as `Reader` does."""
    return earlier_of(control.standing(bootstrap, security, topic))


def earlier_of(standing: Mapping[bytes, bytes]) -> tuple[int, ...]:
    """The same, of what stands on `control`."""
    value = standing.get(_EARLIER)
    return () if value is None else tuple(msgspec.json.decode(value, type=_Earlier).partitions)


class Resize:
    """One run. Raises `Transient` when the broker does not answer, and then can be repeated."""

    def __init__(
        self,
        bootstrap: str,
        security: Mapping[str, str],
        plan: Plan,
        to: int,
        blockers: Blockers,
        progress: Progress,
        records: int = RECORDS,
    ) -> None:
        self._kafka = (bootstrap, security)
        self._plan, self._to, self._blockers, self._progress = plan, to, blockers, progress
        self._records = records

    def run(self, *, dry_run: bool = False) -> Report:
        """Raises `Misuse` for fewer partitions than there are, and if the installation does not stand still."""
        before = topics.counts(*self._kafka, self._plan.topics)
        most = max(before.values())
        if self._to < most:
            raise Misuse(f"there are {most} partitions, and Kafka takes none away: give --partitions {most} or more")
        grown = min(before.values()) == self._to
        if dry_run or grown:
            moved = {rows.topic: self._look(rows) for rows in self._plan.rows}
            if dry_run:
                blocked = () if grown and not any(m.rows for m in moved.values()) else tuple(self._blocked(before))
                return Report(to=self._to, dry_run=True, partitions=before, moved=moved, blocked=blocked)
            if not any(m.rows for m in moved.values()):
                return Report(to=self._to, dry_run=False, partitions=before, moved=moved)
        self._stands_still(before)
        self._grow(self._plan.changelogs)
        self._stands_still(topics.counts(*self._kafka, self._plan.topics))  # nobody came in meanwhile
        self._grow(self._plan.outputs)
        moved = {rows.topic: self._move(rows) for rows in self._plan.rows}
        self._remember(before)
        for topic in self._plan.sources:
            self._grow([topic])
        return Report(to=self._to, dry_run=False, partitions=before, moved=moved)

    def _blocked(self, counts: Mapping[str, int]) -> Sequence[str]:
        return self._blockers(any(counts[name] == self._to for name in self._plan.changelogs))

    def _stands_still(self, counts: Mapping[str, int]) -> None:
        if blocked := self._blocked(counts):
            raise Misuse("; ".join(blocked))

    def _remember(self, counts: Mapping[str, int]) -> None:
        """Note how many partitions the sources have before they grow."""
        earlier = earlier_counts(*self._kafka, self._plan.control)
        more = {counts[name] for name in self._plan.sources} - {self._to, *earlier}
        if more:
            value = msgspec.json.encode(_Earlier(sorted({*earlier, *more})))
            control.put(*self._kafka, self._plan.control, _EARLIER, value)

    def _grow(self, names: Sequence[str]) -> None:
        self._progress(f"growing {', '.join(names)}", 0, len(names))
        topics.grow(*self._kafka, names, self._to)
        self._progress(f"growing {', '.join(names)}", len(names), len(names))

    # -- rows ----------------------------------------------------------------------------------------------------

    def _look(self, rows: Rows) -> Moved:
        home, moved = self._homes(rows), Moved()
        for share in self._shares(rows.topic):
            found, stray = self._misplaced(rows.topic, home, share)
            moved.rows, moved.stray = moved.rows + len(found), moved.stray + stray
        return moved

    def _move(self, rows: Rows) -> Moved:
        home, moved = self._homes(rows), Moved()
        for share in self._shares(rows.topic):
            found, stray = self._misplaced(rows.topic, home, share)
            moved.stray += stray
            while found:
                self._compare(rows.topic, found)
                self._put(rows.topic, found)
                self._clear(rows.topic, found)
                moved.rows += len(found)
                found, _ = self._misplaced(rows.topic, home, share)
        return moved

    def _shares(self, topic: str) -> list[_Share]:
        with self._reader(topic) as reader:
            shares = 1 + reader.total // self._records
        return [_Share(number, shares) for number in range(shares)]

    def _homes(self, rows: Rows) -> Home:
        def keys() -> Iterator[bytes]:
            with self._reader(rows.topic) as reader:
                for record in reader:
                    if is_row(record.key):
                        yield record.key

        return rows.homes(keys())

    def _misplaced(self, topic: str, home: Home, share: _Share) -> tuple[dict[bytes, _Place], int]:
        """Return the rows that are not where they belong, by key, and how many belong nowhere; of a share of the keys.

        Of a row in two wrong places (of two resizes that were interrupted) one: the other one is found the next time.
        """
        found: dict[bytes, _Place] = {}
        stray: set[bytes] = set()
        with self._reader(topic) as reader:
            seen = 0
            for batch in _batches(reader):
                for record, key, at in self._located(batch, home, share):
                    if at is None:
                        (stray.discard if record.value is None else stray.add)(key)
                        continue
                    known = found.get(key)
                    if at == record.partition or (known is not None and known.partition != record.partition):
                        continue
                    if record.value is None:
                        found.pop(key, None)
                    else:
                        found[key] = _Place(record.partition, record.offset, hash(record.value), at)
                seen += len(batch)
                self._progress(f"reading {topic}", seen, reader.total)
        return found, len(stray)

    def _located(self, batch: Sequence[Found], home: Home, share: _Share) -> Iterator[tuple[Found, bytes, int | None]]:
        """The records of a share of the keys, with the partition where their row belongs."""
        keyed = [
            (record, record.key, home(record.key)) for record in batch if is_row(record.key) and share.has(record.key)
        ]
        placed = iter(partitions([h for _, _, h in keyed if h is not None], self._to))
        for record, key, h in keyed:
            yield record, key, None if h is None else next(placed)

    def _compare(self, topic: str, found: Mapping[bytes, _Place]) -> None:
        """`Fatal` if a row stands in its new place already, as another one: no interruption of ours leaves that."""
        there: dict[bytes, int] = {}
        with self._reader(topic, {place.home for place in found.values()}) as reader:
            for record in reader:
                place = found.get(record.key or b"")
                if place is None or record.key is None or record.partition != place.home:
                    continue
                if record.value is None:
                    there.pop(record.key, None)
                else:
                    there[record.key] = hash(record.value)
        differing = sum(digest != found[key].digest for key, digest in there.items())
        if differing:
            raise Fatal(
                f"{topic}: {differing} keys have rows in two partitions that differ. Partitions were added by other "
                "means, and workers ran on them: their state must be restored from a backup of before"
            )

    def _put(self, topic: str, found: Mapping[bytes, _Place]) -> None:
        writer, done = self._owner(topic, {place.home for place in found.values()}), 0
        with self._reader(topic, {place.partition for place in found.values()}) as reader:
            for record in reader:
                place = found.get(record.key or b"")
                if place is None or (record.partition, record.offset) != (place.partition, place.offset):
                    continue
                writer.send(
                    topic,
                    record.key,
                    record.value,
                    timestamp=max(0, record.timestamp),
                    headers=record.headers,
                    partition=place.home,
                )
                done += 1
                if done % _BATCH == 0:
                    self._progress(f"moving {topic}", done, len(found))
        writer.flush()
        assert done == len(found), "a row was not found again"
        self._progress(f"moving {topic}", done, len(found))

    def _clear(self, topic: str, found: Mapping[bytes, _Place]) -> None:
        """Tombstones where the rows were; only when they are durable where they are now."""
        writer = self._owner(topic, {place.partition for place in found.values()})
        for done, (key, place) in enumerate(found.items(), 1):
            headers = [(MOVED_TO, b"%d" % place.home)]
            writer.send(topic, key, None, headers=headers, partition=place.partition)
            if done % _BATCH == 0:
                self._progress(f"clearing {topic}", done, len(found))
        writer.flush()
        self._progress(f"clearing {topic}", len(found), len(found))

    def _owner(self, topic: str, partitions: Iterable[int]) -> Writer:
        """A writer whose records count there: of a changelog it is the owner, by a claim."""
        writer = Writer(*self._kafka)
        if topic.endswith(CHANGELOG):
            for partition in partitions:
                writer.send(topic, CLAIM + uuid4().bytes, b"resize", partition=partition)
        return writer

    def _reader(self, topic: str, only: set[int] | None = None) -> Reader:
        return Reader(*self._kafka, topic, only=only)


def _batches(reader: Reader) -> Iterator[list[Found]]:
    records = iter(reader)
    while batch := list(islice(records, _BATCH)):
        yield batch
