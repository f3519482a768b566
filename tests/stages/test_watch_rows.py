"""Names in watched keys, and where messages go.

Mutations seen red: separators are not escaped; a long name is cut without a hash.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Misuse
from pipeline.stages.watch_rows import MAX_NAME, WatchConfig, progress_keys, shown, watched_event, watched_source

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(names)
def test_a_name_is_shown_printable_bounded_and_cannot_forge_a_key(name: str) -> None:
    text = shown(name)
    assert text.isprintable()
    assert 0 < len(text) <= MAX_NAME
    assert not re.search("[,=]", text)


@given(names, names)
def test_two_sources_never_share_a_watched_key(one: str, other: str) -> None:
    assert (watched_source(one) == watched_source(other)) == (one == other or {one, other} == {"", "(none)"})


def test_plain_names_are_shown_as_they_are() -> None:
    assert watched_source("shop") == "source=shop"
    assert watched_event("shop", "order_completed") == "source=shop,event=order_completed"


@pytest.mark.parametrize("partitions", [1, 3, 4, 12])
def test_progress_reaches_each_partition_once(partitions: int) -> None:
    keys = progress_keys(partitions)
    assert [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys] == list(range(partitions))


@pytest.mark.parametrize(
    "wrong", [{"partitions": 0}, {"window_ms": 0}, {"history_windows": 7}, {"max_held": 2}, {"calm": 0}]
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        WatchConfig(**{"partitions": 1, **wrong})


def test_a_short_history_shortens_the_warm_up() -> None:
    assert WatchConfig(partitions=1, history_windows=8).needed == 8
    assert WatchConfig(partitions=1).needed == 20


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert len({shown("x" * 200 + end) for end in "abc"}) == 3
