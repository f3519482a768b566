"""A broker for those who have none: tests, benchmarks, the demo. Never for production.

`find_or_start` takes the first of (DESIGN §10): the servers given → Docker → a local Kafka from Maven artifacts with a
JVM → librdkafka's embedded mock cluster. The guarantees (durable, compacting, with topic ids and an admin API) need a
real one; who does not need them gets the embedded one at once, without a download.

A broker that was started dies with the process that started it, even after kill -9 (`leash`), and leaves no directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ...errors import Transient
from .docker import DockerBroker
from .embedded import EmbeddedBroker
from .local import LocalBroker
from .process import Broker, Kind, ProcessBroker

__all__ = ["Broker", "DockerBroker", "EmbeddedBroker", "Kind", "LocalBroker", "ProcessBroker", "find_or_start"]


@contextmanager
def find_or_start(
    kafka: str | None,
    *,
    need_real: bool,
    config: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[Broker]:
    """Yield a broker, and end it afterwards if it was started here.

    Args:
        kafka: bootstrap servers of one that runs already; it is used as it is, not tried.
        need_real: False takes the embedded one where none is given.
        config: properties for a real one that is started, over the defaults (`process.properties`).
        say: is told what takes long, and which way was not open and why.

    Raises:
        Transient: no real broker can be had here; the message gives the reason for each way that was tried.
    """
    if kafka is not None:
        yield Given(kafka)
        return
    broker = _start_real(config or {}, say) if need_real else EmbeddedBroker()
    try:
        yield broker
    finally:
        broker.close()


def _start_real(config: Mapping[str, str], say: Callable[[str], None]) -> ProcessBroker:
    reasons = []
    for kind in (DockerBroker, LocalBroker):
        try:
            return kind.started(config, say)
        except Transient as error:
            reasons.append(f"{kind.kind}: {error}")
            say(reasons[-1])
    raise Transient("no Kafka broker can be had here. " + "; ".join(reasons) + ". Or set SEALSTREAM_KAFKA=host:port")


class Given:
    """A broker that somebody else runs."""

    kind = Kind.GIVEN

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def close(self) -> None:
        """Leave it alone."""
