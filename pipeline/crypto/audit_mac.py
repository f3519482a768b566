"""That an audit record is ours: an HMAC of it, under a key that writers to the topic do not have.

audit-mac = v1.<version>.<hex of HMAC-SHA256(audit key of that version, frame("sealstream/audit/1", value))>

It finds what others wrote or changed. That a record was taken away, it does not find.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..events import frame

_MAC = re.compile(rb"v1\.([1-9][0-9]{0,8})\.[0-9a-f]{64}\Z")


class AuditKey(NamedTuple):
    version: int
    active_from: int
    key: bytes

    def __repr__(self) -> str:
        return f"AuditKey({self.version}, …)"

    def mac(self, value: bytes) -> bytes:
        digest = hmac.new(self.key, frame(b"sealstream/audit/1", value), "sha256").hexdigest()
        return f"v1.{self.version}.{digest}".encode()


class AuditKeys:
    """The audit keys of a ring that were not destroyed; there may be none."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[AuditKey]) -> None:
        self._keys = sorted(keys)

    def __repr__(self) -> str:
        return f"AuditKeys({[key.version for key in self._keys]})"

    def mac(self, value: bytes, now: int) -> bytes | None:
        """Return the header `audit-mac` of a record that is written at `now` (ms); None without a key."""
        in_use = [key for key in self._keys if key.active_from <= now] or self._keys[:1]
        return in_use[-1].mac(value) if in_use else None

    def ours(self, value: bytes, mac: bytes | None) -> bool:
        """Is it one of ours? Without a key nobody can tell, and every record counts as such."""
        if not self._keys:
            return True
        found = None if mac is None else _MAC.match(mac)
        key = None if found is None else next((k for k in self._keys if k.version == int(found[1])), None)
        return key is not None and mac is not None and hmac.compare_digest(mac, key.mac(value))
