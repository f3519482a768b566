"""The workers: started, watched and started again as a supervisor does, and ended, halted or armed as a plan says."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from tests.faults.launch import Orders
from tests.integration.tools import Worker, wait_for

BACKOFF_SECONDS = 0.2
MOST_SECONDS = 2.0
QUICK_SECONDS = 5.0
"""A worker that ends sooner is started again after a longer pause each time."""
LEGS = 3
ARMED_SECONDS = 60.0
STOP_SECONDS = 15.0
NONE = Orders()


class Exit(msgspec.Struct, frozen=True):
    """A worker that ended. `meant`: the harness had asked for it. Negative codes are signals."""

    slot: int
    at: float
    code: int
    meant: bool


class Slot:
    """A worker's place: its process changes, its state directory, orders and log stay."""

    def __init__(self, number: int, directory: Path, env: Mapping[str, str]) -> None:
        self.number = number
        self.orders_path = directory / f"orders-{number}.json"
        self.log_path = directory / f"worker-{number}.log"
        self._env = {**env, "SEALSTREAM_STATE_DIR": str(directory / f"state-{number}")}
        self.worker: Worker | None = None
        self.wanted = False
        self.doomed = False
        self.started_at = 0.0
        self.due_at = 0.0
        self.pause = BACKOFF_SECONDS
        self._log_from = 0

    def start(self, orders: Orders = NONE) -> None:
        self.give(orders)
        self._log_from = self.log_path.stat().st_size if self.log_path.exists() else 0
        self.doomed = bool(orders.point and orders.signal == signal.SIGKILL)
        self.started_at = time.monotonic()
        self.worker = Worker(["-m", "tests.faults.launch", str(self.orders_path), "worker"], self.log_path, self._env)

    def give(self, orders: Orders) -> None:
        self.orders_path.write_bytes(msgspec.json.encode(orders))

    @property
    def log(self) -> str:
        """Of the process that runs, or ran last."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    @property
    def running(self) -> bool:
        return self.worker is not None and self.worker.running

    @property
    def halted(self) -> bool:
        """Stopped by SIGSTOP."""
        assert self.worker is not None
        stat = Path(f"/proc/{self.worker.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"


class Fleet:
    def __init__(self, count: int, directory: Path, env: Mapping[str, str]) -> None:
        self.slots = [Slot(i, directory, env) for i in range(count)]
        self.exits: list[Exit] = []
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._watcher.join()
        for slot in self.slots:
            if slot.worker is not None and slot.running:
                slot.worker.kill()

    def _watch(self) -> None:
        while not self._ending.wait(0.05):
            with self._lock:
                for slot in self.slots:
                    self._look_after(slot)

    def _look_after(self, slot: Slot) -> None:
        now = time.monotonic()
        if slot.worker is not None and not slot.running:
            self._ended(slot, meant=slot.doomed)
            slot.pause = min(2 * slot.pause, MOST_SECONDS) if now - slot.started_at < QUICK_SECONDS else BACKOFF_SECONDS
            slot.due_at = now + slot.pause
        if slot.wanted and slot.worker is None and now >= slot.due_at:
            slot.start()

    def _ended(self, slot: Slot, *, meant: bool) -> None:
        assert slot.worker is not None
        self.exits.append(Exit(slot.number, time.time(), slot.worker.wait(), meant))
        slot.worker, slot.doomed = None, False

    def start(self) -> None:
        with self._lock:
            for slot in self.slots:
                slot.wanted, slot.due_at = True, 0.0

    def kill(self, number: int) -> None:
        """kill -9; the supervisor starts another."""
        with self._lock:
            slot = self.slots[number]
            if slot.worker is not None:
                slot.worker.kill()
                self._ended(slot, meant=True)

    def stop(self, *numbers: int) -> list[int]:
        """SIGTERM, and no start after it, to these (all, if none is named); the exit codes of those that ran."""
        with self._lock:
            chosen = [self.slots[n] for n in numbers] or self.slots
            running = [slot for slot in chosen if slot.worker is not None]
            for slot in chosen:
                slot.wanted = False
            for slot in running:
                assert slot.worker is not None
                slot.worker.process.send_signal(signal.SIGTERM)
            late = []
            for slot in running:
                assert slot.worker is not None
                try:
                    slot.worker.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    slot.worker.kill()
                    late.append(slot.number)
                self._ended(slot, meant=True)
            assert not late, f"workers {late} do not end within {STOP_SECONDS:g} s of SIGTERM"
            return [e.code for e in self.exits[-len(running) :]] if running else []

    def start_one(self, number: int, orders: Orders = NONE) -> None:
        """Start a worker that does not run, with orders from its start on."""
        with self._lock:
            slot = self.slots[number]
            assert slot.worker is None
            slot.start(orders)
            slot.wanted = True

    def order(self, number: int, orders: Orders) -> None:
        """Give orders to a worker at work."""
        with self._lock:
            slot = self.slots[number]
            if slot.worker is None:
                return
            slot.give(orders)
            slot.doomed = bool(orders.point and orders.signal == signal.SIGKILL)
            os.kill(slot.worker.process.pid, signal.SIGUSR1)

    def signal(self, number: int, name: signal.Signals) -> None:
        with self._lock:
            slot = self.slots[number]
            if slot.worker is not None:
                slot.worker.process.send_signal(name)

    def tell(self) -> None:
        """Have every worker write to its log where each of its tasks is."""
        for slot in self.slots:
            self.signal(slot.number, signal.SIGUSR2)

    def deaths(self, number: int) -> int:
        with self._lock:
            return sum(e.slot == number for e in self.exits)

    def await_death(self, number: int, before: int) -> None:
        wait_for(lambda: self.deaths(number) > before, ARMED_SECONDS, f"worker {number} dies where it was told to")

    def await_up(self, *numbers: int) -> None:
        """Each leg of these workers has been given partitions, or none, since its start."""

        def up() -> bool:
            with self._lock:
                return all(
                    slot.worker is not None and slot.log.count("partitions assigned") >= LEGS
                    for slot in ([self.slots[n] for n in numbers] or self.slots)
                )

        wait_for(up, ARMED_SECONDS, f"workers {numbers} have partitions")

    def assignments(self, number: int) -> int:
        """How often legs of this worker were given partitions since its start."""
        with self._lock:
            return self.slots[number].log.count("partitions assigned")
