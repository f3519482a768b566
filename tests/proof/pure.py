"""Many cases without a broker, shared among processes; and of a case that fails the least that still does."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import msgspec

from .cases import Case, drawn
from .schedule import tried

CHUNK = 25


class Failure(msgspec.Struct, frozen=True):
    case: int
    what: str
    events: int
    """Of the case."""
    prefix: int
    """So many of its first events fail as well, and no fewer."""


class Tally(msgspec.Struct):
    counts: dict[str, int] = {}
    failures: list[Failure] = []


def run(seed: int, numbers: range, jobs: int, done: Callable[[int], None]) -> Tally:
    """Try the cases `numbers`; `done` is told how many more are through.

    Each process hashes by the seed, since a set's order may matter to a fault: a case fails again wherever it is run.
    """
    os.environ["PYTHONHASHSEED"] = str(seed % 2**32)
    total: Counter[str] = Counter()
    failures: list[Failure] = []
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for chunk, tally in zip(chunks, pool.map(several, [seed] * len(chunks), chunks), strict=True):
            total.update(tally.counts)
            failures += tally.failures
            done(len(chunk))
    return Tally(dict(sorted(total.items())), failures)


def several(seed: int, numbers: range) -> Tally:
    total: Counter[str] = Counter()
    failures = []
    for number in numbers:
        case = drawn(seed, number)
        try:
            total.update(tried(case))
        except Exception as error:  # whatever it is, it is what is looked for
            failures.append(Failure(number, _what(error), len(case.events), least(case)))
    return Tally(dict(total), failures)


def least(case: Case) -> int:
    """Of how many of its first events the case still fails."""
    for first in range(1, len(case.events)):
        try:
            tried(case, first=first)
        except Exception:
            return first
    return len(case.events)


def _what(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) else type(error).__name__
