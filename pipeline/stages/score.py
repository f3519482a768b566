"""Score: how far out a window lies against its own key's past.

In: `FeatureRow`s of one window, all keys together. Out: one `Tail` each, same order; `None` in warm-up or without
evidence. Rejects and metrics: none. Cost: 13 µs per row with a past of 120 windows.

`RobustScorer` is median and MAD in a scale in which counting noise has variance 1, so that no past, however quiet,
makes small counts alarming: 2√(n + 3/8) for counts, 2√(n + 1/2)·asin√((k + 3/8)/(n + 3/4)) for shares (Anscombe 1948).
Other scorers (seasonal, pyod) implement `Scorer`; they must be functions of the row alone, or a replay after a crash
would judge differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from .watch_rows import WatchConfig


class Kind(StrEnum):
    """What an alert is about; also the name of its runbook."""

    RATE = "rate"
    REJECT_SHARE = "reject_share"
    SILENCE = "silence"


class FeatureRow(msgspec.Struct, frozen=True):
    """One window of one key: `events` of which `rejected`; `past` the same for normal windows, newest last."""

    watched: str
    kind: Kind
    window: int
    events: int
    rejected: int
    past: Sequence[tuple[int, int]]


class Tail(msgspec.Struct, frozen=True):
    """`z`: signed, in robust standard deviations. `rank`: share of the past at least as extreme on that side.

    `seen` and `expected` in the row's own unit: events per window, or a share in [0, 1].
    """

    z: float
    rank: float
    seen: float
    expected: float


class Scorer(Protocol):
    def score(self, rows: Sequence[FeatureRow]) -> list[Tail | None]:
        """One `Tail` per row, in order; None: cannot tell (yet)."""


class RobustScorer:
    """Median and MAD against the key's own past."""

    def __init__(self, config: WatchConfig) -> None:
        self._config = config

    def score(self, rows: Sequence[FeatureRow]) -> list[Tail | None]:
        return [self._rate(row) if row.kind is Kind.RATE else self._share(row) for row in rows]

    def _rate(self, row: FeatureRow) -> Tail | None:
        past = sorted(n for n, _ in row.past)
        if len(past) < self._config.needed:
            return None
        middle = _middle(past)
        centre = 2 * math.sqrt(middle + 0.375)
        spread = _middle(sorted(abs(2 * math.sqrt(n + 0.375) - centre) for n in past)) * 1.4826
        scale = max(1.0, spread, self._config.rate_noise * math.sqrt(middle)) * _doubt(len(past))
        z = (2 * math.sqrt(row.events + 0.375) - centre) / scale
        beyond = sum(1 for n in past if (n >= row.events if z > 0 else n <= row.events))
        return Tail(z, beyond / len(past), float(row.events), float(middle))

    def _share(self, row: FeatureRow) -> Tail | None:
        events = sum(n for n, _ in row.past)
        if len(row.past) < self._config.needed or row.events == 0:
            return None
        expected = (sum(k for _, k in row.past) + 0.5) / (events + 1)
        centre = math.asin(math.sqrt(expected))
        spread = _middle(sorted(abs(_share_z(n, k, centre)) for n, k in row.past if n)) * 1.4826
        # the past's own error counts as well: with few events in it nothing is certain
        own = math.sqrt(1 + row.events / (events + 1))
        scale = max(own, spread, self._config.share_noise * 2 * math.sqrt(row.events)) * _doubt(len(row.past))
        z = max(0.0, _share_z(row.events, row.rejected, centre) / scale)
        seen = row.rejected / row.events
        beyond = sum(1 for n, k in row.past if n and k * row.events >= row.rejected * n)
        # one reject alone in a window of one event is a share of 1, and no rank: the scale decides then
        rank = beyond / len(row.past) if row.events > 2 else 0.0
        return Tail(z, rank, seen, expected)


def patience(past: Sequence[tuple[int, int]], config: WatchConfig) -> int | None:
    """Windows without an event until that is a silence; None while the past is too short or too sparse to tell.

    `silence_gaps` times the longest gap of the past, and so many that a Poisson source of the past's rate would do it
    by chance once in e^`silence_surprise`.
    """
    if len(past) < config.needed:
        return None
    counts = sorted(n for n, _ in past)
    rate = sum(counts) / len(counts)
    median = _middle(counts)
    if median >= 1:
        rate = min(rate, median)  # a burst in the past must not make us impatient
    if rate <= 0:
        return None
    longest = run = 0
    for n, _ in past:
        run = 0 if n else run + 1
        longest = max(longest, run)
    needed = max(config.min_silent, math.ceil(config.silence_gaps * longest), math.ceil(config.silence_surprise / rate))
    return needed if needed <= config.history_windows else None


def surprise(z: float) -> float:
    """−log10 of the two-sided Gaussian tail beyond `z`: 6 → 8.7, 10 → 22.8."""
    z = abs(z)
    if z < 30:
        return -math.log10(math.erfc(z / math.sqrt(2)))
    return (z * z / 2 + math.log(z * math.sqrt(math.pi / 2))) / math.log(10)


def _share_z(n: int, k: int, centre: float) -> float:
    return 2 * math.sqrt(n + 0.5) * (math.asin(math.sqrt((k + 0.375) / (n + 0.75))) - centre)


def _middle(values: Sequence[float]) -> float:
    """Median of sorted values."""
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def _doubt(n: int) -> float:
    """Widens the scale while the past is short: 1.25 at 20 windows, 1.04 at 120."""
    return 1 + 5 / n
