"""Every fault by its name."""

from __future__ import annotations

from tests.faults.fault import Fault
from tests.faults.of_brokers import BrokerKill, BrokerStop, Cut, Delay, LeaderChange, LeaderCut, Stall
from tests.faults.of_data import Ahead, Poison, Recreate, Rewind
from tests.faults.of_workers import (
    ClockStep,
    DiskFull,
    KillAssigned,
    KillChangelog,
    KillOutput,
    KillRandom,
    KillRecovery,
    KillRevoked,
    KillRows,
    KillSettled,
    Terminate,
    Zombie,
)

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        KillRandom,
        KillOutput,
        KillChangelog,
        KillRows,
        KillSettled,
        KillRecovery,
        KillAssigned,
        KillRevoked,
        Terminate,
        Zombie,
        BrokerKill,
        BrokerStop,
        LeaderChange,
        LeaderCut,
        Cut,
        Stall,
        Delay,
        Rewind,
        Ahead,
        Recreate,
        DiskFull,
        ClockStep,
        Poison,
    )
}
