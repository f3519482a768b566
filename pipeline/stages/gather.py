"""Gather: at the owner of a watched key, merge the partials of all partitions and have closed windows judged.

In: records of `watch` (JSON): `Partial`, `Progress`. Out: `Alert`s with their times. Rejects: none; outcomes are
`unreadable`, `resized` (of another window size), `late` (its window is judged), `unwatched` (a new key beyond
`max_keys`), else `merged`; and `trigger`, `update`, `resolve` by kind. Metrics: those.
Cost: 25 µs per partial and 60 µs per window and key judged, so nothing per event.

A window is judged when every partition has sent it: before the smallest `until` of the senders that are not idle, nor
silent for `stale_ms` while we are caught up (their worker is gone). When all are idle, before the greatest `until`;
and when that has lasted for `grace_ms`, before the worker's clock less `grace_ms`: then silence is news, even with
nobody to compare to. In a replay only record time counts, so that one of three hours in seconds judges as it would
have then.

Once only: partials are absolute and merge by maximum; `KeyRow.done` says what is judged. Alerts are written into the
row's outbox and leave *after* the row is durable: no alert is published that a restart would not know of. A row that
is found with a full outbox sends it again, in equal bytes. `save` takes it out one checkpoint later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from ..events import Alert, Record
from ..outcomes import UNDECODABLE
from ..ports import Table
from .alert import Judge
from .score import FeatureRow, Scorer
from .watch_rows import KeyRow, Partial, Progress, WatchConfig


class _Sender:
    __slots__ = ("heard", "idle", "moved", "until")

    def __init__(self) -> None:
        self.until = 0
        self.idle = False
        self.moved = True  # since the last tick
        self.heard = 0  # worker's time of the tick that last saw it move, ms


class Gather:
    """The watched keys of one partition of `watch`. Its durable state is the table `watch-state`."""

    def __init__(self, config: WatchConfig, table: Table, scorer: Scorer) -> None:
        self._config, self._table, self._scorer, self._judge = config, table, scorer, Judge(config)
        self._decode = msgspec.json.Decoder(Partial | Progress).decode
        self._senders = [_Sender() for _ in range(config.partitions)]
        self._live: dict[str, KeyRow] = {}  # touched since the last `save`
        self._due: dict[str, int] = {}  # watched key → first window at which something is to be done
        self._sent: set[str] = set()  # keys whose outbox left with the last `save`
        self._found: set[str] = set()  # keys whose outbox was full when we began
        self._frontier = 0
        self._quiet_since: int | None = None  # worker's time since which all senders are idle
        self.counts: Counter[tuple[str, str]] = Counter()
        self._load()

    # -- merging -------------------------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                message = self._decode(record.value)  # type: ignore[arg-type]  # None is a TypeError, as wanted
            except (TypeError, *UNDECODABLE):
                self.counts["unreadable", ""] += 1
                continue
            if message.size != self._config.window_ms:
                self.counts["resized", ""] += 1
            elif isinstance(message, Progress):
                self._hear(message)
            else:
                self._merge(message)

    def _hear(self, progress: Progress) -> None:
        while progress.partition >= len(self._senders):
            self._senders.append(_Sender())
        sender = self._senders[progress.partition]
        sender.until = max(sender.until, progress.until)
        sender.idle, sender.moved = progress.idle, True

    def _merge(self, partial: Partial) -> None:
        watched, window = partial.watched, partial.window
        row = self._row(watched)
        if row is None:
            self.counts["unwatched", ""] += 1
            return
        if window <= row.done:
            self.counts["late", "partial"] += 1
            self._judge.alive(watched, row, window)
            return
        slots = row.open.setdefault(window, {})
        accepted, rejected = slots.get(partial.partition, (0, 0))
        slots[partial.partition] = max(accepted, partial.accepted), max(rejected, partial.rejected)
        self._due[watched] = min(window, self._due.get(watched, window))
        self.counts["merged", ""] += 1

    def _row(self, watched: str) -> KeyRow | None:
        """The row to be changed; a new one while there is room."""
        row = self._live.get(watched)
        if row is None:
            if watched in self._due:
                value = self._table.get(watched.encode())
                assert value is not None, "a watched key without a row"
                row = _decode_row(value)
                if watched in self._sent:
                    row.outbox = []
            elif len(self._due) < self._config.max_keys:
                row = KeyRow(self._config.window_ms)
            else:
                return None
            self._live[watched] = row
        return row

    # -- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: int, caught_up: bool) -> None:
        """Learn the worker's time, and with it how far windows can be judged."""
        config = self._config
        active = []
        for sender in self._senders:
            if sender.moved or not caught_up:
                sender.moved, sender.heard = False, now
            if not sender.idle and now - sender.heard < config.stale_ms:
                active.append(sender.until)
        if active:
            self._quiet_since = None
            self._frontier = min(active)
            return
        self._frontier = max(sender.until for sender in self._senders)
        if self._quiet_since is None or not caught_up:
            self._quiet_since = now
        if now - self._quiet_since >= config.grace_ms:
            self._frontier = max(self._frontier, (now - config.grace_ms) // config.window_ms)

    def judge(self) -> None:
        """Judge all windows before the frontier, oldest first, those of all keys together in one scoring call."""
        frontier = self._frontier
        due = [watched for watched, window in self._due.items() if window < frontier]
        while due:
            questions: list[FeatureRow] = []
            asked: list[tuple[str, KeyRow]] = []
            for watched in due:
                row = self._row(watched)
                assert row is not None
                if asks := self._next(watched, row, frontier):
                    asked.append((watched, self._live[watched]))
                    questions += asks
            tails = self._scorer.score(questions)
            assert len(tails) == len(questions)
            for i, (watched, row) in enumerate(asked):
                self._judge.busy(watched, row, questions[2 * i], tails[2 * i], tails[2 * i + 1])
            due = [watched for watched, _ in asked]

    def _next(self, watched: str, row: KeyRow, frontier: int) -> tuple[FeatureRow, FeatureRow] | None:
        """The questions of the key's next window with events, or None: it has none before the frontier."""
        window = min(row.open, default=frontier)
        if row.last < 0:
            row.last = row.done = min(window, frontier) - 1
        if not self._judge.quiet(watched, row, min(window, frontier) - 1):
            done = window - 1 if window < frontier else -1
            row = KeyRow(row.size, done=done, last=done, open=row.open, outbox=row.outbox)  # forgotten
            self._live[watched] = row
        if window >= frontier:
            self._due[watched] = self._judge.due(row) if row.last >= 0 else 1 << 62
            if row.open:
                self._due[watched] = min(window, self._due[watched])
            return None
        slots = row.open.pop(window)
        accepted, rejected = (sum(counts) for counts in zip(*slots.values(), strict=True))
        return self._judge.rows(watched, row, window, accepted + rejected, rejected)

    # -- state ---------------------------------------------------------------------------------------------------

    def save(self) -> list[tuple[int, Alert]]:
        """Put changed rows into the table; return the alerts to be published once they are durable.

        Called again only when what the last call returned has been published (`ports.Effects`).
        """
        for watched in self._sent:
            self._row(watched)  # takes out what was sent
        self._sent.clear()
        for watched in self._found:
            self._row(watched)  # sends it again
        self._found.clear()
        alerts: list[tuple[int, Alert]] = []
        for watched, row in self._live.items():
            key = watched.encode()
            if row.last < 0 and not row.open and not row.outbox:
                self._table.delete(key)
                del self._due[watched]
                continue
            self._due.setdefault(watched, 1 << 62)
            self._table.put(key, _encode(row))
            if row.outbox:
                self._sent.add(watched)
                alerts += row.outbox
        self._live.clear()
        for _, alert in alerts:
            self.counts["alert", f"{alert.status}_{alert.kind}"] += 1
        return alerts

    def _load(self) -> None:
        """Rows of another window size are let go: their past says nothing about these windows."""
        other = []
        for key, value in self._table.items():
            row = _decode_row(value)
            watched = key.decode()
            if row.size != self._config.window_ms:
                other.append(key)
                continue
            times = [self._judge.due(row)] if row.last >= 0 else []
            self._due[watched] = min([*row.open, *times], default=1 << 62)
            if row.outbox:
                self._found.add(watched)
        for key in other:
            self._table.delete(key)


_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(KeyRow).decode
