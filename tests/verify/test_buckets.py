"""Clusters are those of a plain union-find; records come back whole, and clusters are not torn.

Mutations seen red: pairs merged without those before; ways not shortened to the end; a value of None becomes empty.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters.reader import Found
from pipeline.verify import buckets
from pipeline.verify.buckets import Buckets, Kind, Pairs, id_of, id_of_digest

IDS = st.integers(0, 40) | st.sampled_from([2**64 - 1, 2**63, 2**63 - 1])


def clusters(pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    found: list[set[int]] = []
    for pair in pairs:
        met = [c for c in found if c & set(pair)]
        found = [c for c in found if not c & set(pair)] + [set(pair).union(*met)]
    return {frozenset(c) for c in found}


def components(pairs: Pairs) -> set[frozenset[int]]:
    by_label: dict[int, set[int]] = {}
    ids, labels = pairs.components()
    for ident, label in zip(ids.tolist(), labels.tolist(), strict=True):
        by_label.setdefault(label, set()).add(ident)
    return {frozenset(c) for c in by_label.values()}


@given(st.lists(st.tuples(IDS, IDS), max_size=120), st.sampled_from([1, 2, 7, 1_000]))
def test_components_are_those_of_a_plain_union_find(pairs: list[tuple[int, int]], gathered: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_GATHERED", gathered)
        made = Pairs()
        for a, b in pairs:
            made.add(a, b)
        assert components(made) == clusters(pairs)


def test_a_long_chain_and_a_star() -> None:
    chain = [(i, i + 1) for i in range(5_000)]
    star = [(10_000, 10_000 + i) for i in range(5_000)]
    made = Pairs()
    for a, b in [*chain[::2], *star, *chain[1::2]]:
        made.add(a, b)
    assert {len(c) for c in components(made)} == {5_001, 5_000}


def test_records_come_back_as_they_were_and_clusters_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "EVENTS", 10)
    pairs = Pairs()
    for i in range(100):
        pairs.add(i, i)
        pairs.add(i, i % 20)
    records = [Found(i % 3, i, -1, b"k%d" % i, (None, b"", b"v" * i)[i % 3], ()) for i in range(100)]
    with Buckets(tmp_path, pairs, 100) as made:
        made.write(Kind.EVENT, records[:50], list(range(50)))
        made.write(Kind.TOKEN, records[50:], list(range(50, 100)))
    assert made.count == 11
    back = [list(part) for part in made.read()]
    assert not list(tmp_path.iterdir())
    assert sorted((found for part in back for _, found in part), key=lambda f: f.offset) == records
    assert all(kind == (Kind.EVENT if found.offset < 50 else Kind.TOKEN) for part in back for kind, found in part)
    where = {found.offset: n for n, part in enumerate(back) for _, found in part}
    assert all(where[i] == where[i % 20] for i in range(100))
    assert len(set(where.values())) > 3


def test_nothing_to_divide(tmp_path: Path) -> None:
    with Buckets(tmp_path, Pairs(), 0) as made:
        made.write(Kind.TOKEN, [Found(0, 0, -1, b"k", b"v", ())], [7])
        made.write(Kind.EVENT, [], [])
    assert [[kind for kind, _ in part] for part in made.read()] == [[Kind.TOKEN]]


def test_an_id_is_the_same_by_token_and_by_digest() -> None:
    token = "email.1." + "0123456789abcdef" * 2
    assert id_of(token) == id_of_digest(bytes.fromhex(token[-32:])) == 0x0123456789ABCDEF
