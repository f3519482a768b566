"""Many cases without a broker, shared among processes; and of a case that fails the least that still does."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from unittest.mock import patch

from .cases import Case, drawn
from .report import Failure, Part, part
from .schedule import tried

CHUNK = 25


def run(seed: int, numbers: range, jobs: int, done: Callable[[int], None] = lambda n: None) -> Part:
    """Try the cases `numbers`; `done` is told how many more are through.

    The processes hash by the seed, as a fault may hang on the order of a set: a case fails again wherever it is run.
    """
    began = time.monotonic()
    total: Counter[str] = Counter()
    failures: list[Failure] = []
    chunks = [numbers[at : at + CHUNK] for at in range(0, len(numbers), CHUNK)]
    with (
        patch.dict(os.environ, PYTHONHASHSEED=str(seed % 2**32)),
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        for chunk, (counts, failed) in zip(chunks, pool.map(several, [seed] * len(chunks), chunks), strict=True):
            total.update(counts)
            failures += failed
            done(len(chunk))
    return part(len(numbers), time.monotonic() - began, total, failures)


def several(seed: int, numbers: range) -> tuple[Counter[str], list[Failure]]:
    total: Counter[str] = Counter()
    failures = []
    for number in numbers:
        case = drawn(seed, number)
        try:
            total.update(tried(case))
        except Exception as error:  # whatever it is, it is what is looked for
            failures.append(_failure(seed, case, error))
    return total, failures


def _failure(seed: int, case: Case, error: Exception) -> Failure:
    what = str(error) if isinstance(error, AssertionError) else type(error).__name__
    few = f"fails from its first {least(case)} of {len(case.events)} events on"
    return Failure(f"case {case.number}: {what}; it {few}", f"--seed {seed} --case {case.number}")


def least(case: Case) -> int:
    """Of how many of its first events alone the case fails."""
    for first in range(1, len(case.events)):
        try:
            tried(case, first=first)
        except Exception:
            return first
    return len(case.events)
