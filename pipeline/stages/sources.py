"""Sources and the secrets that they sign with, and from when to when: what stands on `control` for each.

Pure values. A record is judged by its own Kafka time, so a source keeps what was: a record that is protected again
comes out as it did. Hence every change is for a time ahead (`LEAD_MS`), when all workers know of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..errors import Misuse

LEAD_MS = 2_000
"""From when a change is announced until it holds."""

Kid = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """For records of Kafka time `since` ≤ t < `until` (ms; None: for good), derived from the sources key `version`."""

    kid: Kid
    version: int
    since: int
    until: int | None = None

    def valid(self, at: int) -> bool:
        return self.since <= at and (self.until is None or at < self.until)

    def ended(self, at: int) -> Secret:
        """Return it with an end at `at`, or sooner if it has one."""
        return msgspec.structs.replace(self, until=at if self.until is None else min(at, self.until))


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`secrets`: oldest first. `off`: from when to when it was disabled (ms; None: it still is)."""

    name: str
    secrets: tuple[Secret, ...]
    off: tuple[tuple[int, int | None], ...] = ()

    @property
    def since(self) -> int:
        """The Kafka time (ms) from which it must sign."""
        return self.secrets[0].since

    def enabled(self, at: int) -> bool:
        return not any(start <= at and (end is None or at < end) for start, end in self.off)

    def rotated(self, new: Secret, overlap_ms: int) -> Source:
        """Return it with one more secret; those of before end `overlap_ms` after it begins. `Misuse` if two overlap."""
        if sum(secret.valid(new.since) for secret in self.secrets) > 1:
            raise Misuse("two secrets are valid already: revoke one of them, or wait until one ends")
        ended = tuple(secret.ended(new.since + overlap_ms) for secret in self.secrets)
        return msgspec.structs.replace(self, secrets=(*ended, new))

    def revoked(self, kid: str, at: int) -> Source:
        """Return it with that secret's end at `at`. `Misuse` if it has no such secret, or it has ended by then."""
        if not any(secret.kid == kid for secret in self.secrets):
            raise Misuse(f"the source has no such secret; it has {', '.join(secret.kid for secret in self.secrets)}")
        if not any(secret.kid == kid and (secret.until is None or secret.until > at) for secret in self.secrets):
            raise Misuse(f"the secret {kid} is not valid any more")
        secrets = tuple(secret.ended(at) if secret.kid == kid else secret for secret in self.secrets)
        return msgspec.structs.replace(self, secrets=secrets)

    def disabled_from(self, at: int) -> Source:
        """`Misuse` if it is."""
        if self.off and self.off[-1][1] is None:
            raise Misuse("the source is disabled already")
        return msgspec.structs.replace(self, off=(*self.off, (at, None)))

    def enabled_from(self, at: int) -> Source:
        """`Misuse` if it is not disabled."""
        if not self.off or self.off[-1][1] is not None:
            raise Misuse("the source is not disabled")
        start, _ = self.off[-1]
        return msgspec.structs.replace(self, off=(*self.off[:-1], (start, max(start, at))))
