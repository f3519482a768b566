"""The provider of the KEK is away: the protect leg works on for the stated time, then waits, and goes on by itself.

A real leg and engine without a broker, a lease with its thread, and the stub of Vault.

Mutations seen red: no look at the lease; the batch noted before the wait (it would be committed); the generation looked
at before the wait; the leg fails in place of waiting; it waits for ever; a leg that waits is called running.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import settings, wiring
from pipeline.adapters import keyfile
from pipeline.adapters.kek_lease import KekLease
from pipeline.adapters.kek_providers import provider
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.data_kek import DataKek
from pipeline.crypto.kek import Kek
from pipeline.crypto.keyring import KeyRing
from pipeline.errors import Corrupt, Misuse, SealstreamError, Transient
from pipeline.events import RawRecord, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.ports import LegState
from pipeline.telemetry.metrics import PrometheusMetrics
from pipeline.worker.book import TopicPartition
from pipeline.worker.engine import EngineConfig, LegEngine
from pipeline.worker.journal import Journal
from pipeline.worker.startup import answered
from tests.adapters import kek_hosts
from tests.adapters.kek_hosts import Vault
from tests.stages.event_world import RECEIVED, registry, rules

AT = TopicPartition(Topic.RAW.value, 0)
MADE = {"kek": "vault:transit/kek"}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    with kek_hosts.vault(monkeypatch) as found:
        yield found


@pytest.fixture
def vault(stub: Vault) -> Kek:
    found = provider(MADE["kek"])
    assert found is not None
    return found


class States(PrometheusMetrics):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[LegState] = []

    def state(self, leg: str, state: LegState) -> None:
        if not self.seen or self.seen[-1] is not state:
            self.seen.append(state)


class Worker:
    """The protect leg in an engine, on partition 0 and a table in memory."""

    def __init__(self, directory: Path, ring: KeyRing, available: Callable[[], None], journal: Journal) -> None:
        self.table, self.metrics = MemoryTable(), States()
        leg = ProtectLeg(registry(), ring, rules().blocked, available=available)
        config = EngineConfig(bootstrap="127.0.0.1:1", state_dir=str(directory), tick_seconds=0.01)
        self.engine = LegEngine(leg, config, self.metrics, {}, journal)
        self.engine.app.consumer = SimpleNamespace(consumer_generation_id=0, assignment=set)
        self.engine.app.consumer_generation_id = 0
        self.engine._parts[0] = leg.open(0, {"subject-keys": self.table})
        self.engine._accepting = True
        self.engine.go.set()

    def send(self, offset: int, person: str) -> asyncio.Task[None]:
        value = b'{"type":"page","messageId":"m","userId":"%s"}' % person.encode()
        message: Any = SimpleNamespace(
            generation_id=0, topic=AT.topic, partition=0, value=[RawRecord(offset, RECEIVED, None, value)]
        )
        return asyncio.ensure_future(self.engine._take(message))

    def outputs(self) -> int:
        """How many records were protected since the last look."""
        _, outputs = self.engine._parts[0].drain().phases
        assert isinstance(outputs, dict)
        return len(outputs[Topic.PROTECTED.value])


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[Callable[[KeyRing, Callable[[], None]], Worker]]:
    with Journal(tmp_path) as journal:
        yield lambda ring, available: Worker(tmp_path, ring, available, journal)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - what is waited for knows of no event
            await asyncio.sleep(0.01)


async def test_it_works_on_then_waits_and_goes_on_by_itself(
    stub: Vault, vault: Kek, work: Callable[[KeyRing, Callable[[], None]], Worker]
) -> None:
    kek = DataKek.generate(vault, os.urandom)
    clock = [0.0]  # the lease's, so that a slow machine is no outage; its thread asks ten times a real second
    over = asyncio.Event()

    def prove() -> None:
        if over.is_set():
            raise Misuse("the test is over, and its thread ends")
        DataKek.open(vault, kek.wrapped)

    lease = KekLease(prove, 1.0, lambda: clock[0])
    worker = work(KeyRing.generate(os.urandom, 0, kek), lease.check)

    stub.status = 403
    lease.keep()
    await worker.send(0, "ann")  # away, but known
    assert (worker.outputs(), len(worker.table)) == (1, 1)

    clock[0] = 2.0
    waiting = worker.send(1, "ben")
    await until(lambda: LegState.WAITING in worker.metrics.seen)
    assert not waiting.done()
    assert not worker.engine.failed.done()
    assert (worker.outputs(), len(worker.table)) == (0, 1)
    assert worker.engine.book.mark() == {AT: 1}  # what waits would not be acknowledged

    stub.status = None
    await asyncio.wait_for(waiting, 20)
    assert (worker.outputs(), len(worker.table)) == (1, 2)
    assert worker.engine.book.mark() == {AT: 2}
    assert worker.metrics.seen[-2:] == [LegState.WAITING, LegState.RUNNING]
    over.set()


class Switch:
    error: SealstreamError | None = Transient("away")

    def __call__(self) -> None:
        if self.error is not None:
            raise self.error


async def test_a_batch_whose_partition_went_while_it_waited_is_dropped(
    work: Callable[[KeyRing, Callable[[], None]], Worker],
) -> None:
    switch = Switch()
    worker = work(wiring.throw_away_ring(), switch)
    waiting = worker.send(0, "ann")
    await until(lambda: LegState.WAITING in worker.metrics.seen)
    worker.engine.app.consumer_generation_id = 1
    switch.error = None
    await asyncio.wait_for(waiting, 20)
    assert (worker.outputs(), worker.engine.book.mark()) == (0, {})


async def test_a_leg_that_failed_waits_no_longer(work: Callable[[KeyRing, Callable[[], None]], Worker]) -> None:
    worker = work(wiring.throw_away_ring(), Switch())
    waiting = worker.send(0, "ann")
    await until(lambda: LegState.WAITING in worker.metrics.seen)
    worker.engine.fail(RuntimeError("elsewhere"))
    await asyncio.wait_for(waiting, 20)
    assert (worker.outputs(), worker.engine.book.mark()) == (0, {})


async def test_what_cannot_mend_itself_is_raised(work: Callable[[KeyRing, Callable[[], None]], Worker]) -> None:
    switch = Switch()
    switch.error = Corrupt("another key")
    worker = work(wiring.throw_away_ring(), switch)
    with pytest.raises(Corrupt, match="another key"):
        await worker.send(0, "ann")
    assert worker.outputs() == 0


async def test_a_worker_that_starts_while_it_is_away_waits_for_it(stub: Vault, tmp_path: Path) -> None:
    config = settings.load({}, key_file=tmp_path / "keys.json", **MADE)
    keyfile.create(config.keys_path(), wiring.new_ring(config))
    stub.status = 503
    found = provider(config.kek)
    starting = asyncio.ensure_future(answered(lambda: wiring.leased_ring(config, found), "127.0.0.1:1"))
    await until(lambda: starting.done() or len(stub.asked) >= 3)
    assert not starting.done()
    stub.status = None
    ring, available = await asyncio.wait_for(starting, 20)
    available()
    assert ring.keys == wiring.key_ring(config).keys
