"""People's values, which occur nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import msgspec

KINDS = ("name", "email", "phone", "address", "card")
_LETTERS = "bcdfghjklmnpqrstvwxz"
_STREETS = ("Straße", "Allée", "Lane", "улица")


class Person(msgspec.Struct, frozen=True):
    """One of each kind. Unlike anything that occurs by chance: 10 random letters or 11 random digits at least.

    `plan` is nothing personal: its schema has it in clear.
    """

    name: str
    email: str
    phone: str
    address: str
    card: str
    plan: str

    def __repr__(self) -> str:
        return "Person(…)"


def people(seed: int, count: int) -> list[Person]:
    rng = Random(seed)

    def word(length: int) -> str:
        return "".join(rng.choice(_LETTERS) for _ in range(length))

    def digits(length: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(length))

    return [
        Person(
            f"Zoë {word(6).capitalize()} O'{word(8).capitalize()}",
            f"{word(8)}.{word(8)}@{word(6)}.example",
            f"+49151{rng.randrange(2, 9)}{digits(7)}",
            f"{digits(5)} {word(9).capitalize()}{rng.choice(_STREETS)} {digits(3)}",
            f"4{digits(15)}",
            f"plan-{word(12)}",
        )
        for _ in range(count)
    ]


def values(persons: Sequence[Person], kinds: Iterable[str] = KINDS) -> dict[str, tuple[str, int]]:
    """Value → its kind, and whose it is."""
    return {getattr(p, kind): (kind, n) for n, p in enumerate(persons) for kind in kinds}
