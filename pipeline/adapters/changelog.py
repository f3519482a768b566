"""What the records of a changelog leave: the rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .reader import Found
from .topic_specs import is_row

Row = tuple[int, bytes]
"""Partition and key of a changelog's record: what one table row is."""


def standing(records: Iterable[Found]) -> Iterator[Found]:
    """The records of a changelog that are rows or delete one, in their order."""
    return (found for found in records if is_row(found.key))


def last_values(records: Iterable[Found]) -> dict[Row, Found]:
    """What is left of a changelog's `standing` records: the last of each row, without deleted ones."""
    last: dict[Row, Found] = {}
    for found in records:
        assert found.key is not None
        if found.value is None:
            last.pop((found.partition, found.key), None)
        else:
            last[found.partition, found.key] = found
    return last
