"""Sources and the secrets that they sign with, and from when to when: what stands on `control` for each.

Pure values. A record is judged by its own Kafka time, so a source keeps what was: a record that is protected again
comes out as it did. Hence every change is for a time ahead (`LEAD_MS`), when all workers know of it. Commands know
nothing of each other, and write over what another has just written; so what was written adds up (`merged`).
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
        return msgspec.structs.replace(self, until=_sooner(self.until, at))

    def merged(self, other: Secret) -> Secret:
        """Return it as valid only where both are."""
        since, version = max(self.since, other.since), min(self.version, other.version)
        return msgspec.structs.replace(self, version=version, since=since, until=_sooner(self.until, other.until))


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`secrets`: oldest first, at least one. `off`: from when to when it was disabled (ms; None: it still is)."""

    name: str
    secrets: tuple[Secret, ...]
    off: tuple[tuple[int, int | None], ...] = ()

    @property
    def since(self) -> int:
        """The Kafka time (ms) from which it must sign."""
        return min(secret.since for secret in self.secrets)

    @property
    def disabled(self) -> bool:
        """Whether it is to be enabled by somebody."""
        return any(end is None for _, end in self.off)

    def enabled(self, at: int) -> bool:
        return not any(start <= at and (end is None or at < end) for start, end in self.off)

    def rotated(self, new: Secret, overlap_ms: int) -> Source:
        """Return it with one more secret; those of before end `overlap_ms` after it begins. `Misuse` if two overlap.

        It begins with the source, if that is to sign from a later time only.
        """
        new = msgspec.structs.replace(new, since=max(new.since, self.since))
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
        if self.disabled:
            raise Misuse("the source is disabled already")
        return msgspec.structs.replace(self, off=(*self.off, (at, None)))

    def enabled_from(self, at: int) -> Source:
        """`Misuse` if it is not disabled."""
        if not self.disabled:
            raise Misuse("the source is not disabled")
        off = tuple((start, max(start, at) if end is None else end) for start, end in self.off)
        return msgspec.structs.replace(self, off=off)


def merged(one: Source, other: Source) -> Source:
    """Return all that two rows of a source say: the order in which rows come, and how often, is no matter.

    A secret of both is valid where both have it valid. Each time of being disabled is known by its beginning, and ends
    when somebody first ended it: whoever enables a source ends those of which he knows.
    """
    secrets: dict[str, Secret] = {}
    off: dict[int, int | None] = {}
    for row in (one, other):
        for secret in row.secrets:
            known = secrets.get(secret.kid)
            secrets[secret.kid] = secret if known is None else secret.merged(known)
        for start, end in row.off:
            off[start] = _sooner(off.get(start), end)
    oldest = sorted(secrets.values(), key=lambda secret: (secret.since, secret.kid))
    return Source(one.name, tuple(oldest), tuple(sorted(off.items())))


def _sooner(one: int | None, other: int | None) -> int | None:
    """Of two ends; None is none."""
    return min((end for end in (one, other) if end is not None), default=None)
