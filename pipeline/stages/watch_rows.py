"""What the watch leg sends on `watch`, keeps in its tables, and may be set to. Pure data.

Time: a *window* is a number, `received_at // window_ms`; its end is `(window + 1) * window_ms` (ms since 1970).
`received_at` is Kafka's time of the raw record, so that a replay counts into the same window; `events.raw` should have
`message.timestamp.type=LogAppendTime`, else that time is the producer's word (see `WatchSettings.max_ahead_ms`).

A *watched key* reads `source=<name>` or `source=<name>,event=<name>`. For an event with a schema of its own the name is
the schema's, bounded and never personal. For the generic `track` schema it is the producer's text, and a producer can
write personal data there: the names are cut to `MAX_NAME` characters and counted against a cap, and
`WatchSettings.free_names = False` watches such events under `track` alone.
"""

from __future__ import annotations

import hashlib

import msgspec

from ..events import Alert, Severity

MAX_NAME = 80
"""Characters of a name in a watched key, after escaping; a longer one ends in `~` and 8 hex of its SHA-256."""

OTHER = "(other)"
"""Stands for the names beyond a cap."""


class WatchSettings(msgspec.Struct, frozen=True):
    """Everything that can be set, with its reason. `for_window` scales the times to another window."""

    window_ms: int = 10_000  # 10 s: an alert within half a minute; 8,640 rows per key and day
    lateness_ms: int = 5_000  # raw partitions reach one protected partition out of step by the protect leg's lag
    idle_ms: int = 5_000  # a partition that brings nothing for this long, caught up, no longer holds up the others
    stale_ms: int = 60_000  # nor does one whose worker says nothing for this long
    max_ahead_ms: int = 300_000  # a record time further in the future than this is wrong, and not counted
    max_open: int = 64  # windows that one partition keeps open at most; the oldest is closed then
    max_sources: int = 200  # per window and partition; more are `source=(other)`
    max_names: int = 200  # event names per source, window and partition; more are `event=(other)`
    max_keys: int = 20_000  # per partition of `watch`; new ones beyond it are counted and not watched
    free_names: bool = True  # watch the producer's own event names of the generic track schema
    past: int = 120  # windows of own past: 20 minutes, in which a daily season moves by 2 % at most
    warm_up: int = 20  # windows before the first alert: the median of 20 is good to a quarter of sigma
    trigger_z: float = 6.0  # one window this far out alarms: 2e-9 for a Gaussian, a false alarm in years per key
    sustained_z: float = 4.0  # or `sustain` windows in a row this far
    sustain: int = 3
    release_z: float = 3.0  # hysteresis: an alarm holds down to here …
    calm: int = 2  # … and ends after this many windows below it
    tail_rank: float = 0.02  # and at most this share of the own past may be as extreme (cron jobs, bursts every hour)
    rate_noise: float = 0.05  # relative noise that is always granted: below a change of 30 % nobody is woken
    share_noise: float = 0.02  # the same for reject shares (arcsine scale): 1 % → 5 % alarms for the largest source
    min_silent: int = 3  # windows: a deploy of the protect leg is no silence
    silence_gaps: float = 3.0  # times the longest gap of the own past
    silence_surprise: float = 14.0  # and events missed at least: e^-14 = 8e-7
    max_held: int = 60  # alarmed windows in a row before they are accepted as the new normal: 10 minutes
    forget: int = 60_480  # silent windows before the key is forgotten and its alert resolved: 7 days

    @classmethod
    def for_window(cls, window_ms: int) -> WatchSettings:
        """Settings for windows of `window_ms` with lateness and idle time in proportion (demo: 1,000)."""
        return cls(
            window_ms=window_ms,
            lateness_ms=window_ms // 2,
            idle_ms=max(1_000, window_ms // 2),
            stale_ms=max(5_000, 6 * window_ms),
        )


class Partial(msgspec.Struct, frozen=True, omit_defaults=True, tag="partial", tag_field="is"):
    """A record of `watch`, keyed by `watched`: what one partition of one source topic counted in one window.

    The *absolute* count, so that a second sending changes nothing; counts of one slot merge by maximum.
    """

    watched: str
    size: int  # window_ms of the sender
    window: int
    topic: str
    incarnation: str
    partition: int
    accepted: int = 0
    rejected: int = 0

    def slot(self) -> str:
        return f"{self.topic}/{self.partition}/{self.incarnation}"


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress", tag_field="is"):
    """A record of `watch`, one to each of its partitions: the sender has sent all its partials before `until`.

    It tells "zero" from "not arrived yet". `until` 0: nothing seen yet. An `idle` sender has sent everything that it
    has and does not hold up the others. Sent when it changes, and once per window as a sign of life: for P
    partitions P² small records per window.
    """

    size: int
    partition: int
    until: int
    idle: bool = False


class MeasureRow(msgspec.Struct, array_like=True):
    """Table `watch-open`, one row per source topic: all that `Measure` knows, written as a whole."""

    size: int
    incarnation: str
    until: int
    raws: list[tuple[str, str, int, int, int]]  # raw topic, incarnation, partition; highest offset, latest received_at
    open: list[tuple[int, list[tuple[str, str, str, int]]]]  # window → (source, schema name, event, count)


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


class KeyRow(msgspec.Struct, array_like=True):
    """Table `watch-state`, one row per watched key. Self-contained: any mix of old and new rows replays correctly."""

    size: int
    done: int  # windows up to here are judged
    last: int  # the last one of them that had events
    open: dict[int, dict[str, tuple[int, int]]] = {}  # window → slot → (accepted, rejected)
    rate: Track = msgspec.field(default_factory=Track)
    share: Track = msgspec.field(default_factory=Track)
    silence: Track = msgspec.field(default_factory=Track)
    outbox: list[tuple[int, Alert]] = []  # alerts of the write that made this row, with their times; see flow.watch


def shown(name: str) -> str:
    """`name` for a watched key: unprintable characters and `,=%` percent-encoded, the length bounded. Injective."""
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


def murmur2(data: bytes) -> int:
    """Kafka's murmur2, positive: `murmur2(key) % partitions` is the partition that every client chooses."""
    m, mask, length = 0x5BD1E995, 0xFFFFFFFF, len(data)
    h = 0x9747B28C ^ length
    whole = length - length % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def progress_keys(partitions: int) -> list[bytes]:
    """For each partition of `watch` a key that falls on it (about `partitions` tries each)."""
    keys: dict[int, bytes] = {}
    i = 0
    while len(keys) < partitions:
        key = b"~progress/%d" % i
        keys.setdefault(murmur2(key) % partitions, key)
        i += 1
    return [keys[p] for p in range(partitions)]
