"""Measure: count the events of one partition of `events.protected` and `events.rejected` by source, schema, window.

In: records of both topics (JSON). Out: `Partial`s of closed windows, and how far it is. Rejects: none; what cannot be
counted is an outcome: `unreadable`, `untimed`, `ahead` (a record time in the future), `late` (its window is closed),
`duplicate` (its origin was counted), else `watched`. Metrics: those. Cost: see `tests/stages/test_measure.py`,
which measures it: 1.7 µs per event in batches of 4,000, decoding 1.1 of it.

Once only: within a partition, the stream holds the events of each raw partition in offset order, starting again from
an earlier one after a crash of the protect leg or of this one. So a high-water mark per raw partition and row of
counts says which origins a row holds.

Watermark: the *minimum* over raw partitions, and over both topics, of the latest time seen, less the lateness: while
a leg catches up these are far apart, and a maximum would call the slower ones late. One without news for `idle_ms` of
the worker's clock does not hold up the others; when none has news, it is the maximum: everything that will come now
is newer. It moves at ticks only, and closes what it had passed a tick earlier, too: a partition that wakes up within
that time is still waited for. The worker's clock itself closes nothing here; see `gather`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from ..events import Record
from ..outcomes import UNDECODABLE
from ..ports import Table
from .watch_rows import CLOCKS, OTHER, CellRow, ClockRow, Partial, Progress, WatchConfig, watched_event, watched_source


class _SeenOrigin(msgspec.Struct, gc=False):
    incarnation: str
    partition: int
    offset: int


class _Seen(msgspec.Struct, gc=False):
    """What is needed of a `ProtectedEvent` or a `RejectedRecord`; the other fields are skipped, not decoded."""

    source: str
    received_at: int
    origin: _SeenOrigin
    schema: str = ""


class _Clock:
    """Progress in record time of one raw partition within one topic of this partition."""

    __slots__ = ("at", "idle", "moved", "since")

    def __init__(self, at: int = -1) -> None:
        self.at = at  # latest received_at, ms
        self.moved = True  # since the last tick
        self.since = 0  # worker's time of the tick that last saw it move, ms
        self.idle = False


class _Cell:
    """Open counts of a source in a window, in one topic."""

    __slots__ = ("changed", "marks", "names", "unsent")

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.marks: dict[tuple[str, int], int] = {}
        self.changed = False  # since the last `save`
        self.unsent = False  # since the last partial


_Window = dict[str, _Cell]
_NONE: _Window = {}  # never written to


class Measure:
    """Open windows of one partition. Its durable state is the table `watch-open`."""

    def __init__(self, partition: int, config: WatchConfig, table: Table) -> None:
        self._partition, self._config, self._table = partition, config, table
        self._decode = msgspec.json.Decoder(_Seen).decode
        self._windows: tuple[dict[int, _Window], dict[int, _Window]] = ({}, {})  # protected, rejected
        self._clocks = tuple([_Clock() for _ in range(config.partitions)] for _ in range(2))
        self._sources: dict[str, int] = {}  # admitted → latest window
        self._deleted: list[bytes] = []
        self._passed: list[tuple[int, int]] = []  # (worker's time, watermark) of ticks within settle_ms
        self.until = 0
        self.idle = False
        self.counts: Counter[tuple[str, str]] = Counter()
        self._load()

    # -- counting ------------------------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record], rejected: bool) -> None:
        """Count a batch of one topic."""
        decode, size, windows = self._decode, self._config.window_ms, self._windows[rejected]
        latest: dict[int, int] = {}  # raw partition → last time of this batch
        bad = duplicate = refused = 0
        current: int | None = None  # the window of the record before
        cells = _NONE
        for record in records:
            try:
                seen = decode(record.value)  # type: ignore[arg-type]  # None is a TypeError, as wanted
            except (TypeError, *UNDECODABLE):
                bad += 1
                continue
            at, origin = seen.received_at, seen.origin
            window = at // size
            if window != current:
                found = windows.get(window)
                if found is None:
                    if self._refused(window, at):
                        refused += 1
                        if at >= 0 and window < self.until:
                            latest[origin.partition] = at
                        continue
                    found = windows[window] = {}
                current, cells = window, found
            partition = origin.partition
            latest[partition] = at
            cell = cells.get(seen.source)
            if cell is None:
                cell = self._cell(cells, window, seen.source)
            marks, mark = cell.marks, (origin.incarnation, partition)
            if origin.offset <= marks.get(mark, -1):
                duplicate += 1
                continue
            marks[mark] = origin.offset
            names = cell.names
            names[seen.schema] = names.get(seen.schema, 0) + 1
            cell.changed = cell.unsent = True
        self._moved(latest, rejected)
        self.counts["unreadable", ""] += bad
        self.counts["duplicate", ""] += duplicate
        self.counts["watched", ""] += len(records) - bad - duplicate - refused

    def _refused(self, window: int, at: int) -> bool:
        """Count what has no open window and can have none."""
        if at < 0:
            self.counts["untimed", ""] += 1
        elif window < self.until:
            self.counts["late", "event"] += 1
        else:
            return False
        return True

    def _cell(self, cells: _Window, window: int, source: str) -> _Cell:
        """A source that is new to its window: its own cell, or the one of all beyond the cap.

        Who was there before stays: a flood of new names cannot push out (and so silence) the usual ones.
        """
        if source in self._sources or len(self._sources) < self._config.max_sources:
            self._sources[source] = max(window, self._sources.get(source, 0))
        else:
            source = OTHER
        cell = cells.get(source)
        if cell is None:
            cell = cells[source] = _Cell()
        return cell

    def _moved(self, latest: dict[int, int], rejected: bool) -> None:
        clocks = self._clocks[rejected]
        for partition, at in latest.items():
            while partition >= len(clocks):
                clocks.append(_Clock())
            clock = clocks[partition]
            clock.at, clock.moved = max(clock.at, at), True
        if latest:
            self.idle = False

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: int, caught_up: bool) -> None:
        """Learn the worker's time: what is idle, what lies in the future, and what the watermark has passed."""
        config = self._config
        patience = config.idle_ms * (1 if caught_up else config.impatience)
        clocks = [*self._clocks[0], *self._clocks[1]]
        for clock in clocks:
            if clock.moved:
                clock.moved, clock.since, clock.idle = False, now, False
            elif now - clock.since >= patience:
                clock.idle = True
        self.idle = all(clock.idle for clock in clocks)
        self._drop_ahead(clocks, now + config.max_ahead_ms)
        self._limit_cells()
        times = [clock.at for clock in clocks if not clock.idle]
        watermark = min(now, min(times) if times else max(clock.at for clock in clocks)) - config.lateness_ms
        settled = [p for p in self._passed if now - p[0] >= config.settle_ms][-1:]
        recent = [p for p in self._passed if now - p[0] < config.settle_ms]
        self._passed = [*settled, *recent, (now, watermark)]
        if settled:
            self.until = max(self.until, min(p[1] for p in self._passed) // config.window_ms)

    def _drop_ahead(self, clocks: list[_Clock], limit: int) -> None:
        """Undo what was counted for the future. Only a tick knows the time: the last one may be long ago."""
        for clock in clocks:
            clock.at = min(clock.at, limit)
        for windows in self._windows:
            for window in [w for w in windows if w * self._config.window_ms > limit]:
                self.counts["ahead", ""] += sum(sum(c.names.values()) for c in windows[window].values())
                self._forget(windows, window)

    def close(self) -> list[Partial]:
        """Take the partials of the windows that the watermark has passed, in order.

        An idle partition tells what it has of its open windows, too, and keeps them open: a partial is absolute, so
        it can be sent again when more has come.
        """
        out: list[Partial] = []
        for window in sorted({w for windows in self._windows for w in windows}):
            unsent = any(cell.unsent for windows in self._windows for cell in windows.get(window, _NONE).values())
            if unsent and (self.idle or window < self.until):
                out += self._partials(window)
            if window < self.until:
                for windows in self._windows:
                    self._forget(windows, window)
        oldest = self.until - self._config.history_windows
        if any(w < oldest for w in self._sources.values()):
            self._sources = {s: w for s, w in self._sources.items() if w >= oldest}
        return out

    def progress(self) -> Progress:
        return Progress(self._config.window_ms, self._partition, self.until, self.idle)

    def _limit_cells(self) -> None:
        """Bound the memory: beyond `max_cells` the oldest windows are closed before their time."""
        sizes: Counter[int] = Counter()
        for windows in self._windows:
            for window, cells in windows.items():
                sizes[window] += sum(len(cell.names) for cell in cells.values())
        total = sum(sizes.values())
        for window in sorted(sizes):
            if total <= self._config.max_cells:
                break
            total -= sizes[window]
            self.until = max(self.until, window + 1)
            self.counts["closed_early", ""] += 1

    def _partials(self, window: int) -> list[Partial]:
        totals: dict[str, list[int]] = {}
        for rejected, windows in enumerate(self._windows):
            for source, cell in windows.get(window, _NONE).items():
                cell.unsent = False
                for schema, n in cell.names.items():
                    name = schema.partition("/")[0]
                    for watched in (watched_source(source), *([watched_event(source, name)] if name else ())):
                        totals.setdefault(watched, [0, 0])[rejected] += n
        size, partition = self._config.window_ms, self._partition
        return [Partial(watched, size, window, partition, *counted) for watched, counted in totals.items()]

    # -- state ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Put changed rows into the table."""
        size, table = self._config.window_ms, self._table
        for key in self._deleted:
            table.delete(key)
        self._deleted.clear()
        for rejected, windows in enumerate(self._windows):
            for window, cells in windows.items():
                for source, cell in cells.items():
                    if cell.changed:
                        cell.changed = False
                        marks = [(i, p, offset) for (i, p), offset in sorted(cell.marks.items())]
                        row = CellRow(size, bool(rejected), window, source, cell.names, marks)
                        table.put(row.key(), _encode(row))
        times = ([clock.at for clock in clocks] for clocks in self._clocks)
        table.put(CLOCKS, _encode(ClockRow(size, self.until, *times)))

    def _forget(self, windows: dict[int, _Window], window: int) -> None:
        rejected = windows is self._windows[1]
        for source in windows.pop(window, _NONE):
            self._deleted.append(CellRow(0, rejected, window, source, {}, []).key())

    def _load(self) -> None:
        """Rows of another window size, and of windows that are closed and sent, are let go."""
        size, raw = self._config.window_ms, self._table.get(CLOCKS)
        clocks = msgspec.msgpack.decode(raw, type=ClockRow) if raw is not None else None
        if clocks is not None and clocks.size == size:
            self.until = clocks.until
            self._clocks = tuple(_clocks(at, self._config.partitions) for at in (clocks.accepted, clocks.rejected))
        for key, value in self._table.items():
            if key == CLOCKS:
                continue
            row = msgspec.msgpack.decode(value, type=CellRow)
            if row.size != size or row.window < self.until:
                self._deleted.append(key)
                continue
            cell = self._windows[row.rejected].setdefault(row.window, {}).setdefault(row.source, _Cell())
            cell.names, cell.unsent = row.names, True
            cell.marks = {(i, p): offset for i, p, offset in row.marks}
            if row.source != OTHER:
                self._sources[row.source] = max(row.window, self._sources.get(row.source, 0))


def _clocks(times: Iterable[int], at_least: int) -> list[_Clock]:
    clocks = [_Clock(at) for at in times]
    return clocks + [_Clock() for _ in range(at_least - len(clocks))]


_encode = msgspec.msgpack.Encoder().encode
