"""The KEK of the ring where a provider keeps it: wrapped in the key file, in clear in memory alone.

A provider takes milliseconds and a network, a new subject key is made in 15 µs. So the provider's key wraps one key,
and that one wraps all others as the KEK of a key file does: `wrapped` = KEK id (8) ‖ record(KEK, KEK id,
frame("sealstream/data-kek/1", KEK id)), a record as in `crypto.kek`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import Corrupt
from ..events import frame
from .aead import KEY_BYTES
from .kek import KEK_ID_BYTES, Kek, LocalKek, unwrap_key, wrap_key


class DataKek(LocalKek):
    """A `LocalKek` that a provider has wrapped; `wrapped` stands in the key file in place of the key."""

    __slots__ = ("wrapped",)

    def __init__(self, key: bytes, wrapped: bytes) -> None:
        super().__init__(key)
        self.wrapped = wrapped

    @classmethod
    def generate(cls, provider: Kek, random: Callable[[int], bytes]) -> DataKek:
        """Return a new one; asks the provider."""
        key = random(KEY_BYTES)
        kek_id = bytes.fromhex(LocalKek(key).kek_id)
        return cls(key, kek_id + wrap_key(provider, key, kek_id, _aad(kek_id)))

    @classmethod
    def open(cls, provider: Kek, wrapped: bytes) -> DataKek:
        """Return it unwrapped; asks the provider. `Corrupt` if anything of `wrapped` differs, `Transient` if away."""
        kek_id = wrapped[:KEK_ID_BYTES]
        opened = cls(unwrap_key(provider, wrapped[KEK_ID_BYTES:], kek_id, _aad(kek_id)), wrapped)
        if bytes.fromhex(opened.kek_id) != kek_id:
            raise Corrupt("a wrapped KEK is not the one that it is called")
        return opened


def _aad(kek_id: bytes) -> bytes:
    return frame(b"sealstream/data-kek/1", kek_id)
