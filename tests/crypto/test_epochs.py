"""Guarantee: one epoch is in use at a time, the last that has begun, and whatever wrapped a key opens it.

Mutations seen red: another one in use; back with the clock; opened by the one in use alone; all is current.
"""

from __future__ import annotations

import pytest

from pipeline.crypto.epochs import Epochs, kek_id_of
from pipeline.crypto.kek import AWS_KMS, LocalKek
from pipeline.errors import Corrupt

RING, ONE, TWO = (LocalKek(bytes([n]) * 32) for n in range(3))
AAD = b"place"


def made() -> Epochs:
    return Epochs([(1_000, ONE), (2_000, TWO)], RING)


@pytest.mark.parametrize(
    ("now", "used"), [(0, RING), (999, RING), (1_000, ONE), (1_999, ONE), (2_000, TWO), (1 << 62, TWO)]
)
def test_the_last_that_has_begun_is_in_use_and_all_open(now: int, used: LocalKek) -> None:
    epochs = made()
    epochs.advance(now)
    assert epochs.in_use is used
    assert kek_id_of(epochs.wrap(b"key", AAD)) == used.kek_id
    for kek in (RING, ONE, TWO):
        wrapped = kek.wrap(b"key", AAD)
        assert epochs.unwrap(wrapped, AAD) == b"key"
        assert epochs.is_current(wrapped) == (kek is used)


def test_it_is_before_all_of_them_until_it_is_told_and_a_clock_that_is_set_back_changes_nothing() -> None:
    epochs = made()
    assert epochs.in_use is RING
    epochs.advance(2_000)
    epochs.advance(1_000)
    assert epochs.in_use is TWO


def test_what_nobody_of_them_has_wrapped_is_corrupt_and_shows_whose_it_is() -> None:
    other = LocalKek(b"o" * 32).wrap(b"key", AAD)
    for wrapped in (other, b"", ONE.wrap(b"key", AAD)[:-1], ONE.wrap(b"key", b"elsewhere")):
        with pytest.raises(Corrupt):
            made().unwrap(wrapped, AAD)
    assert kek_id_of(AWS_KMS + other[1:]) == ""
    assert repr(made()) == "Epochs(…)"
