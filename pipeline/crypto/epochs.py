"""What wraps the keys of people: the epoch in use, a key of the ring that is replaced and destroyed.

Erasure deletes a person's key rows; a backup of the topics from before still has them. After the epoch was rolled,
every row that is left was wrapped anew (`SubjectKeys.rewrap`) and the former epoch was destroyed, nothing opens those
of the backup. A row names the key that wrapped it, so rows of several epochs may stand side by side.

A ring without an epoch goes on with its KEK, and so does one before the first of them becomes active.
"""

from __future__ import annotations

from collections.abc import Iterable

from .kek import FORMAT, KEK_ID_BYTES, Kek, LocalKek

_HEAD_BYTES = len(FORMAT) + KEK_ID_BYTES


class Epochs:
    """A `Kek`: wraps under the epoch in use, unwraps under whichever it was, the ring's KEK included.

    `epochs`: (active from, in ms; its KEK), each later than the one before. `advance` says how late it is; until then
    it is before all of them.
    """

    __slots__ = ("_by_head", "_epochs", "_in_use", "_now", "_ring")

    def __init__(self, epochs: Iterable[tuple[int, LocalKek]], ring: Kek) -> None:
        self._epochs = list(epochs)
        self._ring = ring
        self._by_head = {_head(kek): kek for _, kek in self._epochs}
        self._in_use: Kek = ring
        self._now = 0

    def __repr__(self) -> str:
        return "Epochs(…)"

    @property
    def in_use(self) -> Kek:
        return self._in_use

    def advance(self, now: int) -> None:
        """It is `now` (ms) on the wall's clock, and not the time of a record: a row is wrapped when it is made.

        A clock that is set back leads to no former epoch.
        """
        now = self._now = max(now, self._now)
        self._in_use = next((kek for since, kek in reversed(self._epochs) if since <= now), self._ring)

    def is_current(self, wrapped: bytes) -> bool:
        """Has the epoch in use wrapped this? Without epochs always: nobody else could have."""
        kek = self._in_use
        return not isinstance(kek, LocalKek) or wrapped.startswith(_head(kek))

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        return self._in_use.wrap(plain, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        return self._by_head.get(wrapped[:_HEAD_BYTES], self._ring).unwrap(wrapped, aad)


def kek_id_of(wrapped: bytes) -> str:
    """Return the id (16 hex) of the local KEK or epoch that has wrapped this; "" if it was another provider."""
    return wrapped[len(FORMAT) : _HEAD_BYTES].hex() if wrapped.startswith(FORMAT) else ""


def _head(kek: LocalKek) -> bytes:
    return FORMAT + bytes.fromhex(kek.kek_id)
