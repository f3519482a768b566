"""What the watch leg sends on `watch`, keeps in its tables, and may be set to. Pure data.

Time: a *window* is a number, `received_at // window_ms`; its end is `(window + 1) * window_ms` (ms since 1970).
`received_at` is Kafka's time of the raw record, so that a replay counts into the same window.

A *watched key* reads `source=<source>` or `source=<source>,event=<name>`, where the name is that of the event's
*schema*, never the producer's text of a `track` event: anybody can write an e-mail address there. So names are
bounded by the schemas that are loaded, and sources by `WatchConfig.max_sources`.
"""

from __future__ import annotations

import hashlib

import msgspec
from aiokafka.partitioner import murmur2

from ..errors import Corrupt, Misuse
from ..events import RUNBOOKS, Alert, Severity

MAX_NAME = 80
"""Characters of a name in a watched key, after escaping; a longer one ends in `~` and 8 hex of its SHA-256."""

OTHER = "(other)"
"""Stands for the sources beyond the cap."""


class WatchConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set, with its reason. Times are ms: `window_ms` and `lateness_ms` of record time, the
    others of the worker's clock. `Misuse` for what cannot work.
    """

    partitions: int  # of the topics events.raw, .protected, .rejected and watch: one number (DESIGN §3)
    window_ms: int = 60_000  # an alert within two minutes; 1,440 judgements per key and day
    history_windows: int = 120  # own past: two hours, in which a daily season moves little; a tail rank of 1 %
    lateness_ms: int = 5_000  # disorder of the record times within one raw partition
    idle_ms: int = 15_000  # a raw partition that brings nothing for this long, caught up, holds up no window
    impatience: int = 6  # × idle_ms while not caught up: then a slow partition looks like an idle one
    settle_ms: int = 1_000  # a window closes when the watermark has been past its end for this long
    stale_ms: int = 60_000  # nor does a partition whose worker says nothing for this long (session time-out: 30 s)
    grace_ms: int = 60_000  # when nothing at all comes, the worker's clock less this closes windows
    max_ahead_ms: int = 300_000  # a record time further in the worker's future is wrong, and not counted
    max_sources: int = 200  # per partition, at one time; more are `source=(other)`
    max_cells: int = 100_000  # open counts per partition (100 B each); the oldest windows are closed beyond
    max_keys: int = 5_000  # watched keys per partition of `watch` (1.5 KB each); new ones beyond are not watched
    warm_up: int = 20  # windows before the first alert: the median of 20 is good to a quarter of sigma
    trigger_z: float = 6.0  # one window this far out alarms: 2e-9 for a Gaussian, a false alarm in years per key
    sustained_z: float = 3.2  # or `sustain` windows in a row this far: 2e-13
    sustain: int = 4
    release_z: float = 2.5  # hysteresis: an alarm holds down to here …
    calm: int = 2  # … and ends after this many windows below it
    tail_rank: float = 0.02  # and at most this share of the own past may be as extreme (jobs every few minutes)
    habit: int = 2  # nor is it news when so many bouts of the own past were as high and as long (jobs every hour)
    rate_noise: float = 0.1  # relative noise that is always granted: below a change of 35 % nobody is woken
    share_noise: float = 0.02  # the same for reject shares (arcsine scale): 1 % → 5 % alarms for the largest source
    min_silent: int = 3  # windows: a restart of a producer is no silence
    silence_gaps: float = 3.0  # times the longest gap of the own past
    silence_surprise: float = 14.0  # and events missed at least: e^-14 = 8e-7
    max_held: int = 60  # alarmed windows in a row before they are accepted as the new normal: an hour
    forget: int = 10_080  # silent windows before the key is forgotten and its alert resolved: 7 days
    runbooks: str = RUNBOOKS  # put before `<kind>.md`: a path or an address

    def __post_init__(self) -> None:
        if min(self.partitions, self.window_ms, self.warm_up, self.sustain, self.calm, self.min_silent) < 1:
            raise Misuse("watch: partitions, windows and counts of windows must be at least 1")
        if self.history_windows < 8 or self.max_held < 8:
            raise Misuse("watch: fewer than 8 windows are no history")

    @property
    def needed(self) -> int:
        """Windows of history before anything can alarm."""
        return min(self.warm_up, self.history_windows)


class Partial(msgspec.Struct, frozen=True, omit_defaults=True, tag="partial", tag_field="is"):
    """A record of `watch`, keyed by `watched`: what one partition of the source topics counted in one window.

    The *absolute* counts, which only grow: partials of one partition merge by maximum, so that a second or an older
    sending changes nothing.
    """

    watched: str
    size: int  # window_ms of the sender
    window: int
    partition: int
    accepted: int = 0
    rejected: int = 0


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress", tag_field="is"):
    """A record of `watch`, one to each of its partitions: the sender has sent all its partials before `until`.

    It tells "zero" from "not arrived yet". An `idle` sender has sent what it has of its open windows as well, and
    holds up nobody. Sent when it changes, and while not idle as a sign of life: for P partitions P² small records
    per window.
    """

    size: int
    partition: int
    until: int
    idle: bool = False


class CellRow(msgspec.Struct, array_like=True):
    """Table `watch-open`: the open counts of (topic, window, source), and which origins are in them.

    Counts and marks stand in one row, so that no crash can part them: an origin is counted here if and only if its
    offset is at or below the mark of its raw partition.
    """

    size: int
    rejected: bool
    window: int
    source: str
    names: dict[str, int]  # schema ("<name>/<version>", "" if unknown) → events
    marks: list[tuple[str, int, int]]  # raw topic's incarnation, partition, highest offset

    def key(self) -> bytes:
        return b"%s/%d/%s" % (b"r" if self.rejected else b"a", self.window, self.source.encode())


class ClockRow(msgspec.Struct, array_like=True):
    """Table `watch-open`, the row `CLOCKS`: how far this partition is in record time."""

    size: int
    until: int  # windows before this one are closed and sent
    accepted: list[int]  # by raw partition: latest received_at in events.protected, -1 if none
    rejected: list[int]


CLOCKS = b"clocks"


class Bout(msgspec.Struct, array_like=True):
    """Windows in a row that were far out on one side, alarmed or not."""

    first: int
    windows: int
    z: float  # the most extreme one


class Track(msgspec.Struct, array_like=True):
    """One detector's memory and episode. `past`/`held`: (events, rejected) per window, newest last."""

    past: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []  # suspect and alarmed windows, kept out of `past`
    open: bool = False
    up: bool = True
    hot: int = 0  # suspect windows in a row
    calm: int = 0
    first: int = 0  # window
    last: int = 0
    count: int = 0
    score: int = 0
    severity: Severity = Severity.INFO
    bouts: list[Bout] = []  # of the last `history_windows`, oldest first


class KeyRow(msgspec.Struct, array_like=True):
    """Table `watch-state`, one row per watched key. Self-contained: any mix of old and new rows replays correctly."""

    size: int
    done: int = -1  # windows up to here are judged; -1: none
    last: int = -1  # the last one of them that had events
    open: dict[int, dict[int, tuple[int, int]]] = {}  # window → partition → (accepted, rejected)
    rate: Track = msgspec.field(default_factory=Track)
    share: Track = msgspec.field(default_factory=Track)
    silence: Track = msgspec.field(default_factory=Track)
    outbox: list[tuple[int, Alert]] = []  # alerts of the write that made this row, with their times; see `gather`


_clocks = msgspec.msgpack.Decoder(ClockRow).decode
_cell = msgspec.msgpack.Decoder(CellRow).decode
_watched = msgspec.msgpack.Decoder(KeyRow).decode


def check_row(table: str, key: bytes, value: bytes) -> None:
    """`Corrupt` if these bytes are no row of the table `watch-open` or `watch-state`."""
    try:
        if table == "watch-state":
            key.decode()
            _watched(value)
            return
        if key == CLOCKS:
            _clocks(value)
            return
        known = _cell(value).key() == key
    except (msgspec.MsgspecError, UnicodeDecodeError):
        known = False
    if not known:
        raise Corrupt(f"a row of the table {table} does not read back")


def shown(name: str) -> str:
    """`name` for a watched key: unprintable characters and `,=%` percent-encoded, the length bounded."""
    if not name:
        return "(none)"
    if not name.isprintable() or "," in name or "=" in name or "%" in name:
        name = "".join(c if c.isprintable() and c not in ",=%" else _percent(c) for c in name)
    if len(name) > MAX_NAME:
        name = name[: MAX_NAME - 9] + "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return name


def _percent(c: str) -> str:
    return "".join(f"%{b:02X}" for b in c.encode("utf-8", "surrogatepass"))


def watched_source(source: str) -> str:
    return f"source={shown(source)}"


def watched_event(source: str, name: str) -> str:
    return f"source={shown(source)},event={shown(name)}"


def progress_keys(partitions: int) -> list[bytes]:
    """For each partition of `watch` a key that falls on it (about `partitions` tries each)."""
    keys: dict[int, bytes] = {}
    i = 0
    while len(keys) < partitions:
        key = b"~progress/%d" % i
        keys.setdefault((murmur2(key) & 0x7FFFFFFF) % partitions, key)
        i += 1
    return [keys[p] for p in range(partitions)]
