"""What a fault is: a value, drawn from a seeded generator, that strikes a world and mends it."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Self

import msgspec

from tests.faults.world import World


class Fault(msgspec.Struct, frozen=True):
    name: ClassVar[str]

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        """Draw its parameters; it has none, unless a subclass says otherwise."""
        return cls()

    def strike(self, world: World) -> None:
        """Do it, and return when it is mended: from there on, lag must go to zero. `AssertionError`: it went wrong."""
        raise NotImplementedError
