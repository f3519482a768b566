"""The effects of several partitions become one list of phases, in the legs' order."""

from __future__ import annotations

from pipeline.ports import STATE, Effects, Out
from pipeline.worker.engine import merge

A, B = Out(b"a", b"1", 0), Out(b"b", b"2", 0)


def test_no_partitions_no_phases() -> None:
    assert merge([]) == []


def test_phases_keep_their_order_and_records_that_of_the_partitions() -> None:
    effects = [Effects(({"out": [A]}, {"messages": []}, STATE)), Effects(({"out": [B]}, {"messages": [A]}, STATE))]
    assert merge(effects) == [{"out": [A, B]}, {"messages": [A]}, STATE]


def test_state_first_stays_first() -> None:
    assert merge([Effects((STATE, {"out": [A]})), Effects((STATE, {"out": []}))]) == [STATE, {"out": [A]}]
