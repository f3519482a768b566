"""The offset book never runs ahead.

Mutations seen red: `settle` takes `read` instead of the mark; `mark` returns the live map; `note` keeps `last`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.worker.book import OffsetBook, TopicPartition

A = TopicPartition("events.raw", 0)
B = TopicPartition("events.raw", 1)


def test_a_new_book_has_nothing_to_commit() -> None:
    book = OffsetBook()
    assert book.to_commit() == {}
    assert book.next_offset(A) is None


def test_what_was_read_is_not_committed_before_it_is_durable() -> None:
    book = OffsetBook()
    book.note(A, 0, 9)
    assert book.to_commit() == {}
    mark = book.mark()
    book.note(A, 10, 19)
    book.settle(mark)
    assert book.to_commit() == {A: 10}


def test_a_confirmed_offset_is_committed_once() -> None:
    book = OffsetBook()
    book.note(A, 0, 9)
    book.settle(book.mark())
    book.committed_at(book.to_commit())
    assert book.to_commit() == {}


def test_gaps_left_by_compaction_or_transactions_are_fine() -> None:
    book = OffsetBook()
    book.note(A, 3, 9)
    book.note(A, 50, 51)
    book.settle(book.mark())
    assert book.to_commit() == {A: 52}


def test_a_partition_that_goes_back_is_our_fault() -> None:
    book = OffsetBook()
    book.note(A, 0, 9)
    with pytest.raises(AssertionError, match="went back"):
        book.note(A, 9, 12)


def test_flushes_that_settle_out_of_order_are_our_fault() -> None:
    book = OffsetBook()
    book.note(A, 0, 9)
    first = book.mark()
    book.note(A, 10, 19)
    book.settle(book.mark())
    with pytest.raises(AssertionError, match="in order"):
        book.settle(first)


def test_a_forgotten_partition_is_read_again_from_anywhere() -> None:
    book = OffsetBook()
    book.note(A, 0, 9)
    book.note(B, 0, 9)
    book.settle(book.mark())
    book.forget([A])
    assert book.to_commit() == {B: 10}
    book.note(A, 0, 4)
    assert book.next_offset(A) == 5
    book.forget()
    assert book.to_commit() == {}


@given(st.lists(st.sampled_from(["note", "mark", "settle", "commit"]), max_size=60), st.data())
def test_read_is_never_behind_durable_nor_durable_behind_committed(steps: list[str], data: st.DataObject) -> None:
    book = OffsetBook()
    read = durable = committed = 0
    marks: list[tuple[dict[TopicPartition, int], int]] = []
    for step in steps:
        if step == "note":
            first = read + data.draw(st.integers(0, 3))
            last = first + data.draw(st.integers(0, 5))
            book.note(A, first, last)
            read = last + 1
        elif step == "mark":
            marks.append((book.mark(), read))
        elif step == "settle" and marks:
            mark, at = marks.pop(0)
            book.settle(mark)
            durable = max(durable, at)
        elif step == "commit":
            offsets = book.to_commit()
            assert all(o == durable for o in offsets.values())
            assert bool(offsets) == (durable != committed)
            book.committed_at(offsets)
            committed = durable
        assert read >= durable >= committed
