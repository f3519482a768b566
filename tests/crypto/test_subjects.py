"""Guarantee: a person has one key at each offset, the same after a restart and in any order of rows. Erasure: see
`tests/flow/test_erasure_of_keys.py`.

Mutations seen red: the largest id of a race; a made key not put; the AAD without subject, key id, place or offset; the
cache without bound, or none; rows that are not chosen unread; a key held beyond its offsets, an erasure, or its
incarnation.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto import subject_rows
from pipeline.crypto.epochs import Epochs
from pipeline.crypto.kek import LocalKek
from pipeline.crypto.seal import SealPath, SubjectKey
from pipeline.crypto.subjects import SubjectKeys
from pipeline.errors import Corrupt
from pipeline.ports import Table

ANN, BEN = "email.1.aa", "email.1.bb"
MADE = 5
"""The offset at which `rows` are made."""
EVENT, AT = bytes(16), SealPath("identify/1", "traits.email")
KEY_IDS = st.binary(min_size=8, max_size=8)
SUBJECTS = st.from_regex(r"[a-z_]{1,8}\.[0-9]\.[0-9a-f]{0,6}", fullmatch=True)


class CountingKek:
    """A local KEK that counts what it is asked, as a provider would charge for it."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        self._kek, self.wraps, self.unwraps = LocalKek(key), 0, 0
        self.aads: list[bytes] = []

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        self.wraps += 1
        self.aads.append(aad)
        return self._kek.wrap(plain, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        self.unwraps += 1
        return self._kek.unwrap(wrapped, aad)


def dice(seed: int = 0, *first: bytes) -> Callable[[int], bytes]:
    """Bytes that are other ones at each call; `first` come before them."""
    given_first, numbers = iter(first), itertools.count()
    return lambda n: next(given_first, None) or hashlib.sha512(b"%d/%d" % (seed, next(numbers))).digest()[:n]


def fresh(table: Table | None = None, kek: CountingKek | None = None, seed: int = 0, cached: int = 100) -> SubjectKeys:
    keys = SubjectKeys(MemoryTable() if table is None else table, Epochs((), kek or CountingKek()), dice(seed), cached)
    keys.enter("id")
    return keys


def proof(key: SubjectKey | None) -> bytes:
    """What stands for a key: what it seals. Sealing is deterministic."""
    assert key is not None
    return key.seal_all(EVENT, [(AT, b"plain")])[AT.path]


def row(subject: str, key_id: bytes) -> bytes:
    return subject.encode() + b"\0" + key_id


def rows(*made: tuple[str, bytes]) -> MemoryTable:
    """A table with a row for each subject and key id, in this order, each made by another worker."""
    table = MemoryTable()
    for seed, (subject, key_id) in enumerate(made):
        own = MemoryTable()
        maker = SubjectKeys(own, Epochs((), CountingKek()), dice(seed, key_id))
        maker.enter("id")
        maker.get(subject, MADE)
        for key, value in own.items():
            table.put(key, value)
    return table


# -- made and found --------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_is_in_the_table_before_it_is_used() -> None:
    table, kek = MemoryTable(), CountingKek()
    keys = fresh(table, kek)
    made = keys.get(ANN, MADE)
    assert [key for key, _ in table.items()] == [row(ANN, made.key_id)]
    assert {proof(keys.get(ANN, MADE)) for _ in range(10)} == {proof(made)}
    assert (len(table), kek.wraps, kek.unwraps) == (1, 1, 0)


def test_each_person_has_a_key_of_her_own() -> None:
    table = MemoryTable()
    keys = fresh(table)
    assert len({proof(keys.get(f"email.1.{n}", MADE)) for n in range(50)}) == 50
    assert len(table) == 50


@given(st.lists(SUBJECTS, max_size=20))
def test_after_a_restart_the_table_gives_the_same_keys_again(subjects: list[str]) -> None:
    table = MemoryTable()
    before = fresh(table)
    made = {subject: proof(before.get(subject, MADE)) for subject in subjects}
    after = fresh(table, seed=1)
    assert {subject: proof(after.get(subject, MADE)) for subject in reversed(subjects)} == made
    assert len(table) == len(made)


def test_the_table_holds_no_key_in_clear() -> None:
    table, secret = MemoryTable(), b"S" * 32
    SubjectKeys(table, Epochs((), CountingKek()), dice(0, b"key-id-8", secret)).get(ANN, MADE)
    [(key, value)] = table.items()
    assert key == row(ANN, b"key-id-8")
    assert b"SSSS" not in value
    assert len(value) == 107


@given(st.lists(KEY_IDS, min_size=1, max_size=5, unique=True))
def test_of_the_keys_of_a_race_all_open_and_the_smallest_id_is_active(ids: list[bytes]) -> None:
    table = rows(*((ANN, key_id) for key_id in ids), (BEN, bytes(8)))
    keys = fresh(table)
    assert keys.get(ANN, MADE).key_id == min(ids)
    assert proof(keys.get(ANN, MADE)) == proof(keys.find(ANN, min(ids)))
    assert len({proof(keys.find(ANN, key_id)) for key_id in ids}) == len(ids)
    assert len(table) == len(ids) + 1


@pytest.mark.parametrize("ids", [(b"\x01" * 8, b"\xfe" * 8), (b"\xfe" * 8, b"\x01" * 8)], ids=["rising", "falling"])
def test_the_order_of_two_rows_does_not_matter(ids: tuple[bytes, bytes]) -> None:
    assert fresh(rows(*((ANN, key_id) for key_id in ids))).get(ANN, MADE).key_id == b"\x01" * 8


def test_key_ids_with_zero_bytes_and_subjects_that_begin_alike_are_kept_apart() -> None:
    made = [("a", bytes(8)), ("a", b"\0" * 7 + b"b"), ("ab", bytes(8)), ("a.1", b"\0x\0\0\0\0\0\0"), ("é", bytes(8))]
    keys = fresh(rows(*made))
    assert {subject: keys.get(subject, MADE).key_id for subject, _ in made} == {
        "a": bytes(8),
        "ab": bytes(8),
        "a.1": b"\0x\0\0\0\0\0\0",
        "é": bytes(8),
    }
    assert len({proof(keys.find(*each)) for each in made}) == len(made)


def test_a_key_that_is_not_there_is_none_until_its_row_comes() -> None:
    there = rows((ANN, b"key-id-8"))
    table = MemoryTable()
    keys = fresh(table)
    assert keys.find(ANN, b"key-id-8") is None
    for key, value in there.items():
        table.put(key, value)
    assert proof(keys.find(ANN, b"key-id-8")) == proof(fresh(there).get(ANN, MADE))
    assert keys.find(BEN, b"key-id-8") is None


# -- bound to its place ----------------------------------------------------------------------------------------------


ONE, TWO = b"key-id-1", b"key-id-2"


@pytest.mark.parametrize(
    ("here", "there"),
    [((ANN, ONE), (BEN, ONE)), ((ANN, ONE), (ANN, TWO)), ((ANN, ONE), (BEN, TWO))],
    ids=["another subject", "another key id", "both"],
)
def test_rows_that_were_swapped_are_corrupt(here: tuple[str, bytes], there: tuple[str, bytes]) -> None:
    table = rows(here, there)
    content = dict(table.items())
    table.put(row(*here), content[row(*there)])
    table.put(row(*there), content[row(*here)])
    for subject, key_id in (here, there):
        with pytest.raises(Corrupt):
            fresh(table).find(subject, key_id)
        with pytest.raises(Corrupt):
            fresh(table).get(subject, MADE)


def test_a_kek_is_told_for_whom_under_which_id_and_where_a_key_was_made() -> None:
    kek, places = CountingKek(), [(ANN, ONE), (ANN, TWO), (BEN, ONE)]
    for subject, key_id in places:
        for offset, incarnation in ((MADE, "id"), (MADE + 1, "id"), (MADE, "")):
            keys = SubjectKeys(MemoryTable(), Epochs((), kek), dice(0, key_id))
            keys.enter(incarnation)
            keys.get(subject, offset)
    assert len(set(kek.aads)) == 9
    for (subject, key_id), aad in zip(places, kek.aads[::3], strict=True):
        assert subject.encode() in aad
        assert key_id in aad


def test_a_row_with_any_bit_changed_or_cut_off_is_corrupt_and_makes_no_new_key() -> None:
    [(key, value)] = rows((ANN, ONE)).items()
    broken = [value[:at] for at in range(len(value))] + [value + b"\0"]
    for bit in range(len(value) * 8):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(changed))
    for each in broken:
        table = MemoryTable()
        table.put(key, each)
        keys = fresh(table)
        with pytest.raises(Corrupt):
            keys.get(ANN, MADE)
        with pytest.raises(Corrupt):
            keys.find(ANN, ONE)
        assert list(table.items()) == [(key, each)]


def test_another_kek_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="another KEK"):
        fresh(rows((ANN, ONE)), CountingKek(b"k" * 32)).get(ANN, MADE)


def test_a_key_that_does_not_match_its_commitment_is_corrupt() -> None:
    class Agreeable(CountingKek):
        """Unwraps anything, to a key that was never wrapped."""

        def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
            return b"forged".ljust(32)

    keys = fresh(rows((ANN, ONE)), Agreeable())
    with pytest.raises(Corrupt, match="key commitment"):
        keys.get(ANN, MADE)
    with pytest.raises(Corrupt, match="key commitment"):
        keys.find(ANN, ONE)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "get", "get", "erase", "enter", "committed"]),
        st.integers(0, 20),
        st.sampled_from(["id", "other"]),
    ),
    min_size=3,
    max_size=30,
)


@example([("get", 5, "id"), ("erase", 7, "id"), ("get", 8, "id")])
@example([("get", 5, "id"), ("enter", 0, "other"), ("get", 6, "other")])
@given(STEPS)
def test_what_is_held_in_memory_changes_nothing(steps: list[tuple[str, int, str]]) -> None:
    """Whatever came before, in whichever order of offsets, a key is the one that the table gives."""
    table, at = MemoryTable(), "id"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject_rows, "SPAN", 8)
        keys = fresh(table)
        for what, offset, incarnation in steps:
            if what == "get":
                used = proof(keys.get(ANN, offset))
                again = fresh(table, seed=1)
                again.enter(at)
                assert proof(again.get(ANN, offset)) == used
            elif what == "enter":
                at = incarnation
                keys.enter(at)
            elif what == "erase":
                keys.erase(ANN, offset)
            else:
                keys.committed(at, offset)


# -- what it costs ---------------------------------------------------------------------------------------------------


def test_a_key_that_is_used_often_is_unwrapped_once() -> None:
    kek = CountingKek()
    keys = fresh(rows((ANN, ONE), (BEN, TWO)), kek)
    for _ in range(20):
        keys.get(ANN, MADE)
    assert (kek.wraps, kek.unwraps) == (0, 1)


@settings(max_examples=20)
@given(st.integers(1, 10))
def test_only_so_many_keys_stay_unwrapped(cached: int) -> None:
    kek, people = CountingKek(), [f"email.1.{n:02}" for n in range(12)]
    table = rows(*((person, ONE) for person in people))
    keys = fresh(table, kek, cached=cached)
    for person in people:
        keys.get(person, MADE)
    kek.unwraps = 0
    for person in people[-cached:]:
        keys.get(person, MADE)
    assert kek.unwraps == 0
    for person in people[:-cached]:
        keys.get(person, MADE)
    assert kek.unwraps == len(people) - cached


def test_nothing_of_a_key_or_person_is_in_a_repr() -> None:
    keys = fresh()
    secret = SubjectKeys(MemoryTable(), Epochs((), CountingKek()), dice(0, ONE, b"S" * 32)).get(ANN, MADE)
    assert "S" * 4 not in repr(secret)
    keys.get(ANN, MADE)
    assert repr(keys) == "SubjectKeys(…)"
