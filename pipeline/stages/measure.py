"""Measure: count the events of one source topic's partition by (source, event) and window.

In: records of `events.protected` or `events.rejected` (JSON), of one partition. Out: `Partial`s of closed windows.
Rejects: none; what cannot be counted is an outcome: `unreadable`, `untimed`, `ahead` (a record time in the future),
`late` (its window is closed), `duplicate` (its origin was counted). Metrics: those, and `watched`.
Cost: 1.9 µs per event in batches of 5,000 (decoding 1.3 of it), measured by `flow.watch.cost`.

An origin counts once: the stream holds each raw partition's events in offset order, restarting from earlier after a
crash, so one high-water mark per raw partition is enough. The watermark is the *minimum* over the raw partitions of
the latest time seen, less the allowed lateness: while the protect leg catches up, its partitions are far apart, and a
maximum would call the slower ones late. A raw partition without news for `idle_ms` does not hold it up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from ..events import Record
from .watch_rows import OTHER, MeasureRow, Partial, WatchSettings, watched_event, watched_source

GENERIC = frozenset(("identify", "track", "page", "screen", "group", "alias"))
_IMPATIENCE = 6  # × idle_ms: a silent partition is idle then even while others are behind

_Name = tuple[str, str, str]  # source, schema ("<name>/<version>" or ""), event ("" if none)
_NONE: dict[_Name, int] = {}


class _SeenOrigin(msgspec.Struct, gc=False):
    topic: str
    incarnation: str
    partition: int
    offset: int


class _Seen(msgspec.Struct, gc=False):
    """What is needed of a `ProtectedEvent` or a `RejectedRecord`; the other fields are skipped, not decoded."""

    source: str
    received_at: int
    origin: _SeenOrigin
    schema: str = ""
    event: str | None = None


class _Raw:
    """Progress of one raw partition within this one."""

    __slots__ = ("at", "idle", "mark", "moved", "since")

    def __init__(self, mark: int = -1, at: int = -1) -> None:
        self.mark = mark  # highest offset counted
        self.at = at  # latest received_at, ms
        self.moved = True  # since the last tick
        self.since = 0  # worker's time of the tick that last saw it move, ms
        self.idle = False


def event_name(schema: str, event: str, free_names: bool) -> str:
    """The watched event name: the schema's, or the producer's text for the generic track schema; "" if unknown."""
    base = schema.partition("/")[0]
    return event if event and free_names and (base in GENERIC or not base) else base


class Measure:
    """Open windows of one topic's partition. `row()` is all of its durable state."""

    def __init__(self, topic: str, partition: int, settings: WatchSettings, row: MeasureRow | None = None) -> None:
        self._topic, self._partition, self._set = topic, partition, settings
        self._rejects = topic.endswith("rejected")
        self._decode = msgspec.json.Decoder(_Seen).decode
        self._raws: dict[tuple[str, str, int], _Raw] = {}
        self._open: dict[int, dict[_Name, int]] = {}
        self._sizes: dict[int, Counter[str]] = {}  # of open windows: names by source
        self._flushed: dict[tuple[int, str], int] = {}  # sent without closing
        self._early: list[Partial] = []
        self._now: int | None = None
        self._start = _Raw()  # holds the watermark until the first record, or until idle
        self.until = 0
        self.idle = False
        self.changed = False
        self.counts: Counter[tuple[str, str]] = Counter()
        self._incarnation: str | None = None
        if row is not None and row.size == settings.window_ms:
            self._incarnation, self.until = row.incarnation, row.until
            self._raws = {(t, i, p): _Raw(mark, at) for t, i, p, mark, at in row.raws}
            self._open = {w: {(s, c, e): n for s, c, e, n in names} for w, names in row.open}

    def row(self) -> MeasureRow:
        return MeasureRow(
            self._set.window_ms,
            self._incarnation or "",
            self.until,
            [(t, i, p, raw.mark, raw.at) for (t, i, p), raw in sorted(self._raws.items())],
            [(w, [(s, c, e, n) for (s, c, e), n in names.items()]) for w, names in sorted(self._open.items())],
        )

    def fold(self, incarnation: str, records: Sequence[Record]) -> None:
        """Count a batch. Amortised cost per event: decode 1.3 µs, the rest 0.6 µs."""
        if incarnation != self._incarnation:
            self._reincarnate(incarnation)
        decode, raws, windows, size = self._decode, self._raws, self._open, self._set.window_ms
        until, limit = self.until, self._limit()
        bad = duplicate = 0
        current, names = -1, _NONE
        for record in records:
            value = record.value
            try:
                seen = decode(value)  # type: ignore[arg-type]  # None is a TypeError, as wanted
            except (TypeError, msgspec.DecodeError, UnicodeDecodeError):
                bad += 1
                continue
            origin = seen.origin
            raw = raws.get((origin.topic, origin.incarnation, origin.partition))
            if raw is None:
                raw = raws[(origin.topic, origin.incarnation, origin.partition)] = _Raw()
            if origin.offset <= raw.mark:
                duplicate += 1
                continue
            raw.mark = origin.offset
            at = seen.received_at
            window = at // size
            if window != current:
                if at < 0 or at > limit or window < until:
                    self._refuse(raw, at, limit)
                    continue
                current, names = window, windows.setdefault(window, {})
            if at > raw.at:
                raw.at = at
            raw.moved = True
            name = (seen.source, seen.schema, seen.event or "")
            n = names.get(name)
            if n is None:
                name = self._admit(window, name)
                n = names.get(name, 0)
            names[name] = n + 1
        self.changed = True
        self.idle = False
        self.counts["unreadable", self._topic] += bad
        self.counts["duplicate", self._topic] += duplicate
        self.counts["watched", self._topic] += len(records) - bad - duplicate

    def tick(self, now: int, caught_up: bool) -> None:
        """Learn the time: what is idle, and which record times lie in the future."""
        self._now = now
        limit = self._limit()
        patience = self._set.idle_ms * (1 if caught_up else _IMPATIENCE)
        for raw in self._holding():
            if raw.moved:
                raw.moved, raw.since, raw.idle = False, now, False
            elif now - raw.since >= patience:
                raw.idle = True
            raw.at = min(raw.at, limit)
        for window in [w for w in self._open if w * self._set.window_ms > limit]:
            self.counts["ahead", self._topic] += sum(self._open.pop(window).values())
        self.idle = all(raw.idle for raw in self._holding())

    def close(self) -> list[Partial]:
        """Close the windows that the watermark has passed and return their partials, in order.

        An idle partition sends its open windows as well, but keeps them open: a partial is absolute, so it can be
        sent again when more has come. Nothing closes before the first tick (a record from 2100 could close all).
        """
        out, self._early = self._early, []
        if self._now is None:
            return out
        size = self._set.window_ms
        active = [raw.at for raw in self._holding() if raw.moved or not raw.idle]
        watermark = min(active) - self._set.lateness_ms if active else -1
        until = max(self.until, watermark // size)
        if len(self._open) > self._set.max_open:
            until = max(until, sorted(self._open)[-self._set.max_open])
        for window in sorted(w for w in self._open if w < until):
            out += self._partials(window, self._open.pop(window))
        if until != self.until:
            self.until, self.changed = until, True
            self._flushed = {k: n for k, n in self._flushed.items() if k[0] >= until}
            self._sizes = {w: n for w, n in self._sizes.items() if w >= until}
        if self.idle:
            out += self._flush()
        return out

    def sent_until(self) -> int:
        """Windows before this one have been sent: all that are open, too, when idle."""
        return max(self.until, max(self._open, default=-1) + 1) if self.idle else self.until

    def _holding(self) -> list[_Raw]:
        return list(self._raws.values()) or [self._start]

    def _limit(self) -> int:
        return 1 << 62 if self._now is None else self._now + self._set.max_ahead_ms

    def _refuse(self, raw: _Raw, at: int, limit: int) -> None:
        outcome = "untimed" if at < 0 else "ahead" if at > limit else "late"
        self.counts[outcome, self._topic] += 1
        if outcome == "late":
            raw.at, raw.moved = max(raw.at, at), True

    def _admit(self, window: int, name: _Name) -> _Name:
        """A name new to its window: itself, or what stands for the names beyond a cap."""
        sizes = self._sizes.get(window)
        if sizes is None:
            sizes = self._sizes[window] = Counter(s for s, _, _ in self._open[window])
        source = name[0]
        if source not in sizes and len(sizes) >= self._set.max_sources:
            return (OTHER, "", OTHER)
        if sizes[source] >= self._set.max_names:
            return (source, "", OTHER)
        sizes[source] += 1
        return name

    def _partials(self, window: int, names: dict[_Name, int]) -> list[Partial]:
        totals: Counter[str] = Counter()
        for (source, schema, event), n in names.items():
            totals[watched_source(source)] += n
            name = OTHER if event == OTHER else event_name(schema, event, self._set.free_names)
            if name:
                totals[watched_event(source, name)] += n
        out = []
        for watched, n in totals.items():
            counted = (0, n) if self._rejects else (n, 0)
            incarnation = self._incarnation or ""
            size = self._set.window_ms
            out.append(Partial(watched, size, window, self._topic, incarnation, self._partition, *counted))
        return out

    def _flush(self) -> list[Partial]:
        out = []
        for window in sorted(self._open):
            for p in self._partials(window, self._open[window]):
                n = p.accepted + p.rejected
                if self._flushed.get((window, p.watched)) != n:
                    self._flushed[window, p.watched] = n
                    out.append(p)
        return out

    def _reincarnate(self, incarnation: str) -> None:
        """The source topic was made anew: what was counted stands in the old one's slots, and counting starts again."""
        if self._incarnation is not None:
            for window in sorted(self._open):
                self._early += self._partials(window, self._open[window])
            self._open.clear()
            self._sizes.clear()
            self._flushed.clear()
        self._incarnation = incarnation
