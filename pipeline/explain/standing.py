"""What stands on `profiles`: of each id the newest record, and which profile an id has become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from ..stages.profile_records import follow, profile_id, said


class Record(Protocol):
    """A record of `profiles`, as `adapters.reader.Found` is one; `timestamp` in ms."""

    @property
    def partition(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


class Newest(NamedTuple):
    """The last record of an id: `at` in ms. `held`: which of the tokens asked for it names."""

    at: int
    partition: int
    merged_into: str | None
    held: frozenset[str]


def newest(records: Iterable[Record], wanted: frozenset[str] = frozenset()) -> dict[str, Newest]:
    """Return id → its newest record that is no tombstone; `records`: each partition's in offset order.

    An id stands in two partitions where the topic grew: the newer of their last records counts.
    """
    by_partition: dict[tuple[str, int], Newest] = {}
    for record in records:
        ident = profile_id(record.key)
        if ident is None:
            continue
        if record.value is None:
            by_partition.pop((ident, record.partition), None)
            continue
        content = said(record.value)
        if content is not None:
            held = content.tokens & wanted
            by_partition[ident, record.partition] = Newest(
                record.timestamp, record.partition, content.merged_into, held
            )
    last: dict[str, Newest] = {}
    for (ident, _), found in by_partition.items():
        if ident not in last or last[ident][:2] < found[:2]:
            last[ident] = found
    return last


def today(last: Mapping[str, Newest]) -> dict[str, str]:
    """Return id → the id of its profile today, of every id that leads to a profile."""

    def merged_into(ident: str) -> str | None:
        return last[ident].merged_into if ident in last else None

    ends = {ident: follow(ident, merged_into) for ident in last}
    return {ident: end for ident, end in ends.items() if end is not None and end in last}
