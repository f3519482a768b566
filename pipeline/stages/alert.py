"""Alert: the life of a watched key's episodes, from trigger over updates to resolve.

In: a key's closed windows in order, with their `Tail`s. Out: `Alert`s with their times. Rejects: none.
Metrics: `("alert", <kind>)`. Cost: 3 µs per window with events; windows without cost nothing until something is due.

Rules, each with its setting in `WatchConfig`:
- An alarm needs one window beyond `trigger_z`, or `sustain` in a row beyond `sustained_z`, on the same side; either
  way at most `tail_rank` of the past may be as extreme, and not `habit` bouts of it as high and long. It holds while
  windows stay beyond `release_z`, and resolves after `calm` windows below. Nothing alarms in warm-up.
- Suspect and alarmed windows stay out of the past, at most `max_held` in a row: then they *are* the past, the alert
  resolves as "the new normal", and a return to the old level is news again.
- A window without events is never a rate or a share: it is a gap. Gaps end as zeros in the past, unless they grew
  into a silence; a silence resolves with the first event, or is forgotten after `forget` windows.
- Updates go out when the severity rises and when the count is a power of two: traffic stays logarithmic.
- All times are window ends, so a replay gives equal bytes.
- Score: how sure, 0–100, from the tail's decades d (10^-d) as 100·d/(d + 10), which does not saturate. Severity: how
  much it matters, by the size of the change: a rate ×3 or ÷3 is an error, ×10 or ÷10 critical; so are 10 and 50
  points of reject share, and 20 and 100 events missed in a silence.
"""

from __future__ import annotations

import math
from operator import itemgetter

from ..events import Alert, AlertStatus, Feature, Severity
from .score import FeatureRow, Kind, Tail, patience, surprise
from .watch_rows import Bout, KeyRow, Track, WatchConfig

_RANK = (Severity.INFO, Severity.WARNING, Severity.ERROR, Severity.CRITICAL)


class Judge:
    """Moves `KeyRow`s; holds nothing but the configuration. Alerts go into the row's outbox."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config

    def rows(self, watched: str, row: KeyRow, window: int, events: int, rejected: int) -> tuple[FeatureRow, FeatureRow]:
        """The questions for the scorer, once `quiet` has brought the row to `window`."""
        return (
            FeatureRow(watched, Kind.RATE, window, events, rejected, row.rate.past),
            FeatureRow(watched, Kind.REJECT_SHARE, window, events, rejected, row.share.past),
        )

    def quiet(self, watched: str, row: KeyRow, upto: int) -> bool:
        """Nothing came in the windows after `row.last` up to `upto`; False: the key can be forgotten.

        In closed form, so that a jump over a day and a day of single steps write the same alerts.
        """
        if upto <= row.done:
            return True
        told = len(row.outbox)
        for track, kind in ((row.rate, Kind.RATE), (row.share, Kind.REJECT_SHARE)):
            if not track.open:
                self._unhold(track)
            elif upto >= row.last + self._config.calm - track.calm:
                self._resolve(watched, row, track, kind, row.last + self._config.calm - track.calm, [], "no events")
        kept = self._silence(watched, row, upto)
        row.outbox[told:] = sorted(row.outbox[told:], key=itemgetter(0))  # single steps tell in order of time
        row.done = upto
        return kept

    def due(self, row: KeyRow) -> int:
        """The first window after `row.done` at which `quiet` would do something."""
        times = [row.last + max(self._config.needed, len(row.rate.past))]
        needed = patience(row.rate.past, self._config)
        if row.silence.open:
            times = [row.last + (1 << (row.done - row.last).bit_length()), row.last + self._config.forget]
        elif needed is not None:
            times = [row.last + needed]
        for track in (row.rate, row.share):
            if track.open or track.held:
                times.append(row.last + self._config.calm - track.calm if track.open else row.last + 1)
        return max(row.done + 1, min(times))

    def busy(self, watched: str, row: KeyRow, question: FeatureRow, rate: Tail | None, share: Tail | None) -> None:
        """Judge a window that has events; `quiet` was called up to the window before it."""
        window, seen = question.window, (question.events, question.rejected)
        gap = window - row.last - 1
        if row.silence.open:
            self._resolve(watched, row, row.silence, Kind.SILENCE, window, _gap(gap, seen[0], row.rate), "events again")
        elif gap:
            row.rate.past = (row.rate.past + [(0, 0)] * min(gap, self._config.history_windows))[
                -self._config.history_windows :
            ]
        for track in (row.rate, row.share):
            track.calm += gap if track.open else 0
        self._window(watched, row, row.rate, Kind.RATE, window, seen, rate)
        self._window(watched, row, row.share, Kind.REJECT_SHARE, window, seen, share)
        row.last = row.done = window

    def alive(self, watched: str, row: KeyRow, window: int) -> None:
        """Events came for a window that was judged without them: too late to count, but the source is not silent."""
        if row.silence.open and window > row.last:
            why = "events came late"
            self._resolve(
                watched, row, row.silence, Kind.SILENCE, row.done, _gap(window - row.last - 1, 1, row.rate), why
            )
            row.last = window

    def _window(
        self, watched: str, row: KeyRow, track: Track, kind: Kind, window: int, seen: tuple[int, int], tail: Tail | None
    ) -> None:
        z = tail.z if tail else 0.0
        if track.open and tail:
            self._hold(watched, row, track, kind, window, seen, tail)
        elif tail is None or abs(z) < self._config.sustained_z or tail.rank > self._config.tail_rank:
            self._unhold(track)
            self._remember(track, seen)
        else:
            track.hot = track.hot + 1 if track.hot and track.up == (z > 0) else 1
            track.first = track.first if track.hot > 1 else window
            track.up, track.last = z > 0, window
            track.held.append(seen)
            habit = self._habit(track, window, z)
            if not habit and (abs(z) >= self._config.trigger_z or track.hot >= self._config.sustain):
                track.open, track.count, track.calm = True, track.hot, 0
                self._weigh(track, surprise(z), _size(kind, tail))
                self._emit(watched, row, track, kind, AlertStatus.TRIGGER, window, _features(kind, seen, tail))

    def _hold(
        self, watched: str, row: KeyRow, track: Track, kind: Kind, window: int, seen: tuple[int, int], tail: Tail
    ) -> None:
        """A window of an open episode: it goes on, calms down, or has become the new normal."""
        features = _features(kind, seen, tail)
        if abs(tail.z) < self._config.release_z:
            track.calm += 1
            self._remember(track, seen)
            if track.calm >= self._config.calm:
                self._resolve(watched, row, track, kind, window, features, "back to normal")
            return
        track.calm, track.last, track.count = 0, window, track.count + 1
        track.held.append(seen)
        self._habit(track, window, tail.z)
        if len(track.held) >= self._config.max_held:
            track.past = track.held[-self._config.history_windows :]
            self._resolve(watched, row, track, kind, window, features, "accepted as the new normal")
        elif self._weigh(track, surprise(tail.z), _size(kind, tail)) or track.count & (track.count - 1) == 0:
            self._emit(watched, row, track, kind, AlertStatus.UPDATE, window, features)

    def _habit(self, track: Track, window: int, z: float) -> bool:
        """Note a window far out; True if the past has `habit` bouts as high (a fifth less) and long (one less)."""
        oldest = window - self._config.history_windows * 5 // 4
        bouts = [b for b in track.bouts if b.first + b.windows >= oldest][-16:]
        if bouts and bouts[-1].first + bouts[-1].windows == window and bouts[-1].z * z > 0:
            now = bouts.pop()
            now = Bout(now.first, now.windows + 1, max(now.z, z, key=abs))
        else:
            now = Bout(window, 1, z)
        track.bouts = [*bouts, now]
        like = [b for b in bouts if b.z / now.z >= 0.8 and b.windows + 1 >= now.windows]
        return len(like) >= self._config.habit

    def _silence(self, watched: str, row: KeyRow, upto: int) -> bool:
        silent, track = upto - row.last, row.silence
        if not track.open:
            needed = patience(row.rate.past, self._config)
            if needed is None:
                return silent < max(self._config.needed, len(row.rate.past))
            if silent < needed:
                return True
            track.open, track.first = True, row.last + 1
            self._quiet_alert(watched, row, needed, AlertStatus.TRIGGER)
        end = min(silent, self._config.forget)
        count = 1 << track.count.bit_length()  # the next power of two
        while count <= end:
            self._quiet_alert(watched, row, count, AlertStatus.UPDATE)
            count *= 2
        track.count, track.last = end, row.last + end
        if silent >= self._config.forget:
            self._resolve(watched, row, track, Kind.SILENCE, row.last + end, [], "no longer expected")
            return False
        return True

    def _quiet_alert(self, watched: str, row: KeyRow, count: int, status: AlertStatus) -> None:
        track = row.silence
        track.count, track.last = count, row.last + count
        missed = count * _mean(row.rate)
        self._weigh(track, missed / math.log(10), (missed >= 20) + (missed >= 100))  # e^-missed by chance
        self._emit(watched, row, track, Kind.SILENCE, status, track.last, _gap(count, 0, row.rate))

    def _weigh(self, track: Track, decades: float, size: int) -> bool:
        """Raise the score to `decades` (−log10 of the tail), the severity to `size` (0–2); True if that rose."""
        track.score = max(track.score, round(100 * decades / (decades + 10)))
        severity = _RANK[1 + size]
        if _RANK.index(severity) <= _RANK.index(track.severity):
            return False
        track.severity = severity
        return True

    def _resolve(
        self, watched: str, row: KeyRow, track: Track, kind: Kind, window: int, features: list[Feature], why: str
    ) -> None:
        self._emit(watched, row, track, kind, AlertStatus.RESOLVE, window, features, why)
        track.open, track.hot, track.calm, track.count, track.score = False, 0, 0, 0, 0
        track.first = track.last = 0
        track.severity, track.held = Severity.INFO, []

    def _unhold(self, track: Track) -> None:
        """Suspects that came to nothing were normal after all."""
        if track.held:
            track.past = (track.past + track.held)[-self._config.history_windows :]
            track.held, track.hot, track.first, track.last = [], 0, 0, 0

    def _remember(self, track: Track, seen: tuple[int, int]) -> None:
        track.past.append(seen)
        del track.past[: -self._config.history_windows]

    def _emit(
        self,
        watched: str,
        row: KeyRow,
        track: Track,
        kind: Kind,
        status: AlertStatus,
        window: int,
        features: list[Feature],
        why: str = "",
    ) -> None:
        size = self._config.window_ms
        alert = Alert(
            dedup_key=f"{kind}:{watched}",
            status=status,
            severity=track.severity,
            score=track.score,
            kind=kind.value,
            watched=watched,
            summary=f"{_WHAT[kind, track.up]}: {why or _tell(kind, features, size)} ({watched})",
            first_at=(track.first + 1) * size,
            last_at=(track.last + 1) * size,
            count=track.count,
            features=features,
            runbook=f"{self._config.runbooks}{kind}.md",
        )
        row.outbox.append(((window + 1) * size, alert))


_WHAT = {
    (Kind.RATE, True): "Too many events",
    (Kind.RATE, False): "Too few events",
    (Kind.REJECT_SHARE, True): "Too many rejects",
    (Kind.SILENCE, True): "Silence",
}


def _size(kind: Kind, tail: Tail) -> int:
    """0, 1 or 2: a change that one looks at in the morning, today, now."""
    if kind is Kind.RATE:
        times = max(tail.seen, 1) / max(tail.expected, 1)
        return (not 1 / 3 < times < 3) + (not 0.1 < times < 10)
    return (tail.seen - tail.expected >= 0.1) + (tail.seen - tail.expected >= 0.5)


def _features(kind: Kind, seen: tuple[int, int], tail: Tail) -> list[Feature]:
    rank = Feature("tail_rank", round(tail.rank, 4), 0.5)
    if kind is Kind.RATE:
        return [Feature("events", tail.seen, tail.expected), Feature("deviations", round(tail.z, 2), 0.0), rank]
    rejected = Feature("rejected", float(seen[1]), round(seen[0] * tail.expected, 2))
    return [Feature("reject_share", round(tail.seen, 4), round(tail.expected, 4)), rejected, rank]


def _gap(windows: int, events: int, rate: Track) -> list[Feature]:
    mean = _mean(rate)
    usual = round(1 / mean, 2) if mean else 0.0
    return [
        Feature("silent_windows", float(windows), usual),
        Feature("events", float(events), round(mean * max(1, windows), 2)),
    ]


def _mean(track: Track) -> float:
    return sum(n for n, _ in track.past) / len(track.past) if track.past else 0.0


def _tell(kind: Kind, features: list[Feature], size: int) -> str:
    first = features[0]
    if kind is Kind.SILENCE:
        return f"nothing for {first.seen * size / 1000:g} s"
    if kind is Kind.REJECT_SHARE:
        return f"{first.seen:.1%} instead of {first.expected:.1%}"
    return f"{first.seen:g} in {size / 1000:g} s instead of {first.expected:g}"
