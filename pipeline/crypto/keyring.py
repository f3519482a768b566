"""The key ring: the KEK, and all other keys by purpose and version, each with its state.

`to_document` gives JSON in which every key is wrapped under the KEK with a key commitment and a digest of the whole is
sealed under it, too; the KEK itself is not in it. A destroyed key keeps its line without a key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

import msgspec

from ..errors import Corrupt, Misuse
from ..events import frame, iso
from .aead import KEY_BYTES
from .audit_mac import AuditKey, AuditKeys
from .epochs import Epochs
from .kek import Kek, LocalKek, unwrap_key, wrap_key
from .rejects import RejectBox, RejectBoxes
from .sessions import Opener, PublicKey, public_key
from .signatures import SourceKeys
from .tokens import BEGINNING, END, Tokenizer, TokenKey

FORMAT = "sealstream/key-ring/1"
KEK = "kek"
"""What `KeyRing.epoch_names` calls the ring's KEK."""


class KeyState(StrEnum):
    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt-only"  # opens, and protects again what came before the next version became active
    DESTROYED = "destroyed"


class Purpose(StrEnum):
    TOKEN = "token"  # noqa: S105 - a purpose, not a secret
    REJECTS = "rejects"
    PRODUCERS = "producers"  # an X25519 private key, to whose public half producers seal
    SUBJECTS = "subjects"  # an epoch: wraps the keys of people
    SOURCES = "sources"  # what the secrets are derived from by which sources sign
    AUDIT = "audit"  # authenticates audit records


@dataclass(frozen=True, slots=True)
class RingKey:
    """One version of a key; `key` (32 bytes) is None exactly when destroyed. Times in ms of Kafka time.

    A token key overlaps with the next version until it is retired: for records before `retired_from`.
    """

    purpose: Purpose
    version: int
    state: KeyState
    active_from: int
    key: bytes | None = field(repr=False)
    retired_from: int | None = None

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("key versions start at 1")
        if (self.key is None) != (self.state is KeyState.DESTROYED):
            raise ValueError("a key is there unless it was destroyed")
        if self.key is not None and len(self.key) != KEY_BYTES:
            raise ValueError("a key has 32 bytes")

    @property
    def kept_until(self) -> int:
        """The Kafka time until which it is used beside the next version, if it is a token key."""
        if self.state is KeyState.ACTIVE:
            return END
        return BEGINNING if self.retired_from is None else self.retired_from

    @property
    def key_id(self) -> str:
        return f"{self.purpose.value}.{self.version}"


class KeyRing:
    """Immutable; a change is a new ring. `Misuse` if two keys share purpose and version."""

    __slots__ = ("_kek", "_keys")

    def __init__(self, kek: Kek, keys: Iterable[RingKey]) -> None:
        self._kek = kek
        self._keys = tuple(sorted(keys, key=lambda k: (k.purpose, k.version)))
        if len({k.key_id for k in self._keys}) != len(self._keys):
            raise Misuse("two keys of the ring have the same purpose and version")

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(f'{k.key_id}: {k.state.value}' for k in self._keys)})"

    @classmethod
    def generate(cls, random: Callable[[int], bytes], now_ms: int, kek: LocalKek | None = None) -> KeyRing:
        """Return a new ring: `kek` or a new one, and version 1 of every other key, active from `now_ms`."""
        kek = kek or LocalKek(random(KEY_BYTES))
        return cls(kek, [RingKey(p, 1, KeyState.ACTIVE, now_ms, random(KEY_BYTES)) for p in Purpose])

    @property
    def kek(self) -> Kek:
        return self._kek

    @property
    def keys(self) -> tuple[RingKey, ...]:
        """By purpose, then version."""
        return self._keys

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of all token keys that were not destroyed; `Misuse` if none of them is active.

        Decrypt-only ones stay: a replayed record of their period must get the tokens that it got the first time.
        """
        usable = self._usable(Purpose.TOKEN)
        if not any(k.state is KeyState.ACTIVE for k, _ in usable):
            raise Misuse("the key ring has no active token key: `sealstream keys rotate token` makes one")
        return Tokenizer([TokenKey(k.version, k.active_from, key, k.kept_until) for k, key in usable])

    def reject_boxes(self) -> RejectBoxes:
        """Return the boxes of all rejects keys that were not destroyed; `Misuse` if none of them is active."""
        usable = self._usable(Purpose.REJECTS)
        if not any(k.state is KeyState.ACTIVE for k, _ in usable):
            raise Misuse("the key ring has no active rejects key: `sealstream keys rotate rejects` makes one")
        if any(a.active_from >= b.active_from for (a, _), (b, _) in pairwise(usable)):
            raise Misuse("rejects keys: a higher version must become active later than each lower one")
        return RejectBoxes([(k.active_from, RejectBox(k.version, key)) for k, key in usable])

    def reject_box_of(self, key_id: str) -> RejectBox:
        """Return the box that sealed a rejected record with this `key_id`, for opening; `Misuse` if it is not here."""
        for k, key in self._usable(Purpose.REJECTS):
            if k.key_id == key_id:
                return RejectBox(k.version, key)
        raise Misuse("the rejects key that sealed this record is not in the key ring, or was destroyed")

    def opener(self) -> Opener:
        """Return what opens sealed events, under every producers key that was not destroyed; there may be none."""
        return Opener(key for _, key in self._usable(Purpose.PRODUCERS))

    def epochs(self) -> Epochs:
        """Return what wraps the keys of people, under every subjects key that was not destroyed; there may be none."""
        return Epochs(((k.active_from, LocalKek(key)) for k, key in self._usable(Purpose.SUBJECTS)), self._kek)

    def epoch_names(self) -> dict[str, str]:
        """Return the id of each KEK that may wrap the keys of people (16 hex) → `subjects.<version>`, or `KEK`."""
        names = {LocalKek(key).kek_id: k.key_id for k, key in self._usable(Purpose.SUBJECTS)}
        return {self._kek.kek_id: KEK, **names} if isinstance(self._kek, LocalKek) else names

    def source_keys(self) -> SourceKeys:
        """Return every sources key that was not destroyed; there may be none."""
        return SourceKeys({k.version: key for k, key in self._usable(Purpose.SOURCES)})

    def audit_keys(self) -> AuditKeys:
        """Return every audit key that was not destroyed; there may be none."""
        return AuditKeys([AuditKey(k.version, k.active_from, key) for k, key in self._usable(Purpose.AUDIT)])

    def public_keys(self, now_ms: int) -> tuple[PublicKey, ...]:
        """Return what producers seal to: the public half of the version in use at `now_ms`, and of those to come."""
        in_use = self.in_use(Purpose.PRODUCERS, now_ms)
        if in_use is None:
            return ()
        usable = self._usable(Purpose.PRODUCERS)
        return tuple(public_key(k.version, k.active_from, key) for k, key in usable if k.version >= in_use.version)

    def _usable(self, purpose: Purpose) -> list[tuple[RingKey, bytes]]:
        return [(k, k.key) for k in self._keys if k.purpose is purpose and k.key is not None]

    def in_use(self, purpose: Purpose, time_ms: int) -> RingKey | None:
        """Return the version that protects records of Kafka time `time_ms`; None if no version is active.

        Records of before the first version are its own, but before the first epoch it is the KEK that wraps.
        """
        usable = [k for k, _ in self._usable(purpose)]
        if not any(k.state is KeyState.ACTIVE for k in usable):
            return None
        first = None if purpose is Purpose.SUBJECTS else usable[0]
        return next((k for k in reversed(usable) if k.active_from <= time_ms), first)

    def rotated(self, purpose: Purpose, key: bytes, since: int, now: int) -> KeyRing:
        """Return a ring with `key` (32 bytes) as the next version, active from `since` (ms).

        The former one is decrypt-only then; but of a token key it stays active, and overlaps, until it is `retired`.
        `Misuse` if `since` is before `now` or not after every earlier version's that was not destroyed: what was
        protected already would come out otherwise when it is protected again. And if token keys overlap already: an
        event carries two tokens of an identifier at most.
        """
        former = [k for k in self._keys if k.purpose is purpose]
        if since < now:
            raise Misuse(f"a {purpose.value} key cannot become active in the past: records of that time are protected")
        last = max((k for k, _ in self._usable(purpose)), key=lambda k: k.active_from, default=None)
        if last is not None and last.active_from >= since:
            or_ = f", or destroy {last.key_id}" if self.pending(last, now) else ""
            raise Misuse(f"{last.key_id} becomes active at {iso(last.active_from)}: give a time after that{or_}")
        active = [k for k in former if k.state is KeyState.ACTIVE]
        if purpose is not Purpose.TOKEN:
            former = [replace(k, state=KeyState.DECRYPT_ONLY) if k in active else k for k in former]
        elif len(active) > 1:
            one, other = active[:2]
            or_ = f", or destroy {other.key_id}" if self.pending(other, now) else ""
            raise Misuse(
                f"{one.key_id} still overlaps with {other.key_id}: retire it first, from a time after "
                f"{iso(other.active_from)}{or_}"
            )
        keys = [*former, *(k for k in self._keys if k.purpose is not purpose)]
        version = max((k.version for k in former), default=0) + 1
        return KeyRing(self._kek, [*keys, RingKey(purpose, version, KeyState.ACTIVE, since, key)])

    def retired(self, key_id: str, since: int, now: int) -> KeyRing:
        """Return a ring in which this key is decrypt-only; a token key overlaps for records before `since` (ms).

        `Misuse` unless it is active and a later version is, too, and if `since` is before `now`, as in `rotated`. And
        unless a token key's `since` is after the next version's: nobody would be joined over the rotation otherwise.
        """
        found = self._named(key_id)
        if found.state is not KeyState.ACTIVE:
            raise Misuse(f"{key_id} is not active, but {found.state.value}")
        later = [k for k in self._later(found) if k.key is not None]
        if not any(k.state is KeyState.ACTIVE for k in later):
            raise Misuse(f"{key_id} is the last active one: `sealstream keys rotate {found.purpose.value}` replaces it")
        if since < now:
            raise Misuse(f"{key_id} cannot be retired in the past: records of that time are protected")
        if found.purpose is not Purpose.TOKEN:
            return self._with(replace(found, state=KeyState.DECRYPT_ONLY))
        if since <= later[0].active_from:
            raise Misuse(
                f"{key_id} is to overlap with {later[0].key_id}, which becomes active at {iso(later[0].active_from)}: "
                "retire it from a time after that"
            )
        return self._with(replace(found, state=KeyState.DECRYPT_ONLY, retired_from=since))

    def destroyed(self, key_id: str, now: int) -> KeyRing:
        """Return a ring without this key but for its line. `now` in ms.

        One that is still to become active has protected nothing: the version before it goes on in its place.

        `Misuse` if it was destroyed before, is active, or is used for records of now: until the next version is active,
        or it is retired.
        """
        found = self._named(key_id)
        if found.state is KeyState.DESTROYED:
            raise Misuse(f"{key_id} was destroyed already")
        if self.pending(found, now):
            ring = self._with(replace(found, state=KeyState.DESTROYED, key=None, retired_from=None))
            before = self._before(found)
            if not before:
                return ring
            return ring._with(replace(before[-1], state=found.state, retired_from=found.retired_from))
        if found.state is KeyState.ACTIVE:
            raise Misuse(f"{key_id} is active: rotate, or retire it first")
        if not any(k.key is not None and k.active_from <= now for k in self._later(found)):
            raise Misuse(f"{key_id} is in use until the next version is active")
        if found.kept_until > now:
            raise Misuse(f"{key_id} is in use until it is retired at the time given")
        return self._with(replace(found, state=KeyState.DESTROYED, key=None))

    def pending(self, key: RingKey, now: int) -> bool:
        """Has it protected nothing at `now` (ms), since it is still to become active?

        The first version of a purpose is used from before its time on; but the KEK before the first epoch.
        """
        return key.active_from > now and (key.purpose is Purpose.SUBJECTS or bool(self._before(key)))

    def under(self, kek: Kek) -> KeyRing:
        """Return the same keys under another KEK. What the former one wraps elsewhere does not open with it."""
        return KeyRing(kek, self._keys)

    def _named(self, key_id: str) -> RingKey:
        for k in self._keys:
            if k.key_id == key_id:
                return k
        raise Misuse(f"the ring has no such key; it has {', '.join(k.key_id for k in self._keys)}")

    def _before(self, key: RingKey) -> list[RingKey]:
        return [k for k, _ in self._usable(key.purpose) if k.version < key.version]

    def _later(self, key: RingKey) -> list[RingKey]:
        return [k for k in self._keys if k.purpose is key.purpose and k.version > key.version]

    def _with(self, key: RingKey) -> KeyRing:
        return KeyRing(self._kek, [key if k.key_id == key.key_id else k for k in self._keys])

    def to_document(self) -> bytes:
        """Return the ring as JSON without its KEK. The same ring gives the same bytes under a `LocalKek`."""
        lines = [_Line.of(k, self._kek) for k in self._keys]
        digest = _digest(lines)
        return msgspec.json.encode(_Document(FORMAT, lines, _text(self._kek.wrap(digest, _seal_aad(digest)))))

    @classmethod
    def from_document(cls, document: bytes, kek: Kek) -> KeyRing:
        """Read `to_document` back; `Corrupt` if anything was changed or cut off, or under another KEK."""
        try:
            read = msgspec.json.decode(document, type=_Document)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise Corrupt("the key ring is not a complete JSON document of this version") from None
        digest = _digest(read.keys)
        if read.format != FORMAT:
            raise Corrupt("the key ring has an unknown format")
        if not hmac.compare_digest(kek.unwrap(_bytes(read.seal), _seal_aad(digest)), digest):
            raise Corrupt("the key ring was changed after it was written")
        return cls(kek, [line.open(kek) for line in read.keys])


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    purpose: Purpose
    version: int
    state: KeyState
    active_from: int
    wrapped: str | None  # base64 of a key record (`crypto.kek`)
    retired_from: int | None = None

    @classmethod
    def of(cls, k: RingKey, kek: Kek) -> _Line:
        aad = _key_aad(k.purpose, k.version)
        wrapped = None if k.key is None else _text(wrap_key(kek, k.key, k.key_id.encode(), aad))
        return cls(k.purpose, k.version, k.state, k.active_from, wrapped, k.retired_from)

    def open(self, kek: Kek) -> RingKey:
        key = None
        if self.wrapped is not None:
            key_id = f"{self.purpose.value}.{self.version}".encode()
            key = unwrap_key(kek, _bytes(self.wrapped), key_id, _key_aad(self.purpose, self.version))
        return RingKey(self.purpose, self.version, self.state, self.active_from, key, self.retired_from)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    keys: list[_Line]
    seal: str


def _key_aad(purpose: Purpose, version: int) -> bytes:
    return frame(b"sealstream/ring-key/1", purpose.value.encode(), str(version).encode())


def _seal_aad(digest: bytes) -> bytes:
    return frame(b"sealstream/key-ring/1", digest)


def _digest(lines: list[_Line]) -> bytes:
    return hashlib.sha256(frame(b"sealstream/key-ring/1", msgspec.json.encode(lines))).digest()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Corrupt("the key ring does not read back as it was written") from None
