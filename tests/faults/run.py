"""Do a plan, and report."""

from __future__ import annotations

import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from confluent_kafka import KafkaException

from pipeline import __version__
from pipeline.errors import SealstreamError
from tests.faults import world as worlds
from tests.faults.fault import Fault
from tests.faults.oracle import Verdict
from tests.faults.report import Outcome, Report
from tests.faults.world import SESSION_SECONDS, WORKERS, ZERO_SECONDS, World

GAP_SECONDS = 0.5
"""Between lag zero and the next fault."""
MENDED_SECONDS = 12.0
"""By then owners have looked at their changelogs once more, and written again what a zombie put there."""


class Run(msgspec.Struct, frozen=True):
    """What to do. `rate` in events a second; `customers`, `profiles`: see `world.made`."""

    plan: str
    seed: int
    faults: Sequence[Fault]
    rate: float = 500.0
    customers: int = 2_000
    profiles: int = 0


def run(wanted: Run, directory: Path, say: Callable[[str], None]) -> Report:
    """Do it; logs and what else the workers keep go to `directory`."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    wrong: list[str] = []
    verdict: Verdict | None = None
    with worlds.made(directory, wanted.seed, wanted.rate, wanted.customers, wanted.profiles, say) as world:
        for number, fault in enumerate(wanted.faults, 1):
            outcome = do(fault, world)
            outcomes.append(outcome)
            took = "NO LAG ZERO" if outcome.recovery is None else f"{outcome.recovery:.1f} s"
            say(f"{number}/{len(wanted.faults)} {fault.name} {msgspec.to_builtins(fault)}: {took} {outcome.wrong}")
            if outcome.recovery is None:
                break
        try:
            world.rest()
            say("judging")
            world.sleep(MENDED_SECONDS)
            verdict = world.judged()
        except AssertionError as error:
            wrong.append(str(error))
        if world.traffic.failed:
            wrong.append(f"{world.traffic.failed} events were not taken by the brokers")
        exits = Counter(str(e.code) for e in world.fleet.exits if not e.meant)
        logs = [str(slot.log_path) for slot in world.fleet.slots]
    return Report(
        plan=wanted.plan,
        seed=wanted.seed,
        versions=versions(),
        settings={
            "rate": wanted.rate,
            "customers": wanted.customers,
            "profiles": wanted.profiles,
            "workers": WORKERS,
            "session_seconds": SESSION_SECONDS,
        },
        seconds=time.monotonic() - began,
        outcomes=outcomes,
        exits=dict(exits),
        verdict=verdict,
        wrong=wrong,
        logs=logs,
    )


def do(fault: Fault, world: World) -> Outcome:
    at, began, wrong = time.time(), time.monotonic(), ""
    try:
        fault.strike(world)
    except (AssertionError, SealstreamError, KafkaException) as error:
        wrong = str(error) or type(error).__name__
        world.fleet.start()  # whatever it left stopped
        world.traffic.go()
    lacking = world.progress.await_zero(ZERO_SECONDS)
    recovery = None if lacking else time.monotonic() - began
    if lacking:
        wrong = "; ".join(filter(None, [wrong, lacking]))
        world.fleet.tell()
    else:
        try:
            world.cluster.await_whole()
            world.fleet.await_up()
        except AssertionError as error:
            wrong = "; ".join(filter(None, [wrong, str(error)]))
        world.sleep(GAP_SECONDS)
    return Outcome(fault.name, msgspec.to_builtins(fault), at, recovery, wrong)


def versions() -> dict[str, str]:
    packages = ("faust-streaming", "aiokafka", "confluent-kafka")
    return {
        "sealstream": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "system": f"{sys.platform} {platform.machine()}",
    }
