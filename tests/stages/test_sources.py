"""Sources as values: which secret is valid when, and what commands may make of them.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import pytest

from pipeline.errors import Misuse
from pipeline.stages.sources import Secret, Source

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
