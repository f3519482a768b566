"""Sources as values: which secret is valid when, and what commands may make of them.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Misuse
from pipeline.stages.sources import Secret, Source, merged

ONE, TWO, THREE = (Secret(f"0000000{n}", 1, n * 100) for n in (1, 2, 3))
SHOP = Source("shop", (ONE,))


def valid(source: Source, at: int) -> list[str]:
    return [secret.kid for secret in source.secrets if secret.valid(at)]


def test_a_secret_is_valid_from_its_first_to_before_its_last_millisecond() -> None:
    ended = ONE.ended(150)
    assert [ended.valid(at) for at in (99, 100, 149, 150)] == [False, True, True, False]
    assert ONE.valid(10**15)
    assert ended.ended(200) == ended
    assert ended.ended(120).until == 120


def test_two_secrets_overlap_after_a_rotation_and_then_the_former_ends() -> None:
    rotated = SHOP.rotated(TWO, overlap_ms=50)
    assert [valid(rotated, at) for at in (99, 100, 200, 249, 250)] == [
        [],
        [ONE.kid],
        [ONE.kid, TWO.kid],
        [ONE.kid, TWO.kid],
        [TWO.kid],
    ]
    assert valid(rotated.rotated(THREE, 0), 300) == [THREE.kid]
    assert rotated.since == SHOP.since == 100


def test_no_third_secret_beside_two() -> None:
    rotated = SHOP.rotated(TWO, overlap_ms=101)
    with pytest.raises(Misuse, match="two secrets are valid"):
        rotated.rotated(THREE, 0)
    assert valid(rotated.revoked(ONE.kid, 299).rotated(THREE, 5), 300) == [TWO.kid, THREE.kid]


def test_a_revoked_secret_ends_then_and_not_later() -> None:
    rotated = SHOP.rotated(TWO, overlap_ms=500)
    assert valid(rotated.revoked(ONE.kid, 220), 220) == [TWO.kid]
    assert valid(rotated.revoked(ONE.kid, 220), 219) == [ONE.kid, TWO.kid]
    with pytest.raises(Misuse, match="no such secret; it has 00000001"):
        SHOP.revoked("ffffffff", 200)
    with pytest.raises(Misuse, match="not valid any more"):
        SHOP.revoked(ONE.kid, 200).revoked(ONE.kid, 200)


def test_a_source_that_is_disabled_and_enabled_remembers_when() -> None:
    off = SHOP.disabled_from(200)
    on = off.enabled_from(300)
    again = on.disabled_from(400)
    assert [again.enabled(at) for at in (199, 200, 299, 300, 399, 400, 10**15)] == [
        True, False, False, True, True, False, False,
    ]  # fmt: skip
    for wrong, change in ((off, Source.disabled_from), (SHOP, Source.enabled_from), (on, Source.enabled_from)):
        with pytest.raises(Misuse):
            change(wrong, 500)


def test_one_that_is_enabled_before_it_was_disabled_never_was() -> None:
    assert all(SHOP.disabled_from(200).enabled_from(100).enabled(at) for at in range(100, 300))


def test_a_rotation_of_a_source_that_is_to_sign_later_does_not_begin_sooner() -> None:
    rotated = SHOP.rotated(Secret("00000004", 1, 50), overlap_ms=10)
    assert rotated.since == 100
    assert [valid(rotated, at) for at in (99, 100, 110)] == [[], [ONE.kid, "00000004"], ["00000004"]]


# -- several rows ----------------------------------------------------------------------------------------------------

TIMES = st.integers(0, 12)
SECRETS = st.builds(Secret, st.sampled_from([ONE.kid, TWO.kid, THREE.kid]), st.just(1), TIMES, st.none() | TIMES)
OFF = st.dictionaries(TIMES, st.none() | TIMES, max_size=3).map(lambda off: tuple(sorted(off.items())))
ROWS = st.builds(
    Source, st.just("shop"), st.lists(SECRETS, min_size=1, max_size=3, unique_by=lambda s: s.kid).map(tuple), OFF
)


@given(ROWS, ROWS, ROWS)
def test_in_which_order_rows_are_merged_and_how_often_is_no_matter(one: Source, two: Source, three: Source) -> None:
    both = merged(one, two)
    assert both == merged(two, one) == merged(both, both) == merged(both, two)
    assert merged(both, three) == merged(one, merged(two, three))


@given(ROWS, ROWS)
def test_a_merged_secret_is_valid_where_all_rows_that_have_it_say_so(one: Source, two: Source) -> None:
    both = merged(one, two)
    for at in range(14):
        for kid in {secret.kid for secret in both.secrets}:
            rows = [row for row in (one, two) if any(secret.kid == kid for secret in row.secrets)]
            assert (kid in valid(both, at)) == all(kid in valid(row, at) for row in rows)


@given(ROWS, ROWS)
def test_a_merged_source_is_disabled_unless_it_was_enabled_later(one: Source, two: Source) -> None:
    both = merged(one, two)
    for at in range(14):
        for row, other in ((one, two), (two, one)):
            for start, end in row.off:
                if start <= at and (end is None or at < end) and both.enabled(at):
                    assert any(began == start and ends is not None and ends <= at for began, ends in other.off)
        if one.enabled(at) and two.enabled(at):
            assert both.enabled(at)


def test_one_that_two_have_disabled_at_once_is_enabled_by_one_command() -> None:
    off = merged(SHOP.disabled_from(200), SHOP.disabled_from(201))
    assert off.disabled
    on = off.enabled_from(300)
    assert (on.disabled, on.enabled(299), on.enabled(300)) == (False, False, True)
    assert merged(off, on) == on
