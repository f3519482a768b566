"""How long a KEK that a provider has opened may be used without asking again.

The worker keeps it in memory, so that a provider may be away for a while. Half-way through that time a thread has it
opened anew; while that fails it is tried again and again. Once the time is over the stream waits (`ports.Dependent`),
and goes on by itself after the next proof.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from ..boottime import clock
from ..errors import Fatal, SealstreamError, Transient

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 10.0
"""At the most, between two questions to a provider that is away."""


class KekLease:
    """Valid for `seconds` from now, and from the beginning of each `prove` (it asks the provider) that succeeds."""

    def __init__(self, prove: Callable[[], object], seconds: float, clock: Callable[[], float] = clock) -> None:
        self._prove, self._seconds, self._clock = prove, seconds, clock
        self._until = clock() + seconds
        self._failure: SealstreamError | None = None

    def check(self) -> None:
        """Return while it is valid; else raise how the provider failed, `Transient` unless that cannot mend itself."""
        if self._clock() < self._until:
            return
        failure = self._failure or Transient("the provider of the key-encryption key was not asked in time")
        raise type(failure)(str(failure))

    def renew(self) -> float | None:
        """Ask the provider once; return the seconds until the next time, None if asking again is of no use."""
        began = self._clock()
        try:
            self._prove()
        except SealstreamError as e:
            return self._failed(e)
        except Exception as e:
            return self._failed(Fatal(f"asking the provider of the key-encryption key failed ({type(e).__name__})"))
        self._until = began + self._seconds
        if self._failure is not None:
            log.info("the provider of the key-encryption key answers")
            self._failure = None
        return self._seconds / 2

    def _failed(self, error: SealstreamError) -> float | None:
        if self._failure is None:
            left = max(0, round(self._until - self._clock()))
            log.warning("the key-encryption key cannot be proved; it is used on", seconds=left, reason=str(error))
        self._failure = error
        return min(AGAIN_SECONDS, self._seconds / 10) if isinstance(error, Transient) else None

    def keep(self) -> None:
        """Renew from now on, in a thread that ends with the process."""
        threading.Thread(target=self._keep, name="kek-lease", daemon=True).start()

    def _keep(self) -> None:
        wait: float | None = self._seconds / 2
        while wait is not None:
            time.sleep(wait)
            wait = self.renew()
