"""Authenticate: is a record from the source that its header names?

In: records of `events.raw`. Out: the same. Rejects: `unsigned`, `bad_signature`, `expired`, `source_disabled`. Cost:
0.2 µs for a source that need not sign, 2.9 µs for 540 bytes that are signed.

Only what its source signed passes, of sources that are registered and of those that must be. Judged by the record's
own Kafka time: it comes out the same again. For a record of before its source was registered that is as if it never
were, except that it may be disabled. Values that are empty, or longer than they may be, are left to `decode`. What is
sent twice within the window passes twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..crypto.sessions import OVERHEAD
from ..crypto.signatures import Signer, SourceKeys, kid_of
from ..errors import Misuse
from ..events import SEAL_KEY_HEADER, SIGNATURE_HEADER, SOURCE_HEADER, TIMESTAMP_HEADER, Record
from ..outcomes import Reason, Rejected, Split, Stage
from .decode import EVERY_SOURCE, NO_SOURCE, Failure
from .sources import Secret, Source

_DIGITS = 16
_NO_SOURCE = NO_SOURCE.encode()
Headers = tuple[tuple[str, bytes | None], ...]


class _Known:
    """A source with its signers made. `since`: before that time it counts as not registered."""

    __slots__ = ("signers", "since", "source")

    def __init__(self, source: Source, keys: SourceKeys, topic: str) -> None:
        self.source = source
        self.since = source.since
        self.signers: dict[str, tuple[Secret, Signer]] = {}
        for secret in source.secrets:
            made = keys.secret(secret.version, source.name, secret.kid)
            if made is not None:
                self.signers[secret.kid] = secret, made.signer(source.name, topic)


class Authenticator:
    """What is known of sources, and how their signatures on records of `topic` (its name on the broker) are checked.

    `must_sign`: sources that are rejected while they are not registered, `EVERY_SOURCE` for all. `within_ms`: how far
    apart a record's Kafka time and the time of its signature may be. `operator`: the source of our own decisions; it
    signs as soon as the ring has a key for it.
    """

    __slots__ = ("_every", "_fixed", "_keys", "_known", "_must_sign", "_topic", "_within_ms")

    def __init__(
        self,
        topic: str,
        keys: SourceKeys,
        *,
        must_sign: Collection[str] = (),
        within_ms: int = 900_000,
        operator: Source | None = None,
    ) -> None:
        self._topic, self._keys, self._within_ms = topic, keys, within_ms
        self._every = EVERY_SOURCE in must_sign
        self._must_sign = frozenset(name.encode() for name in must_sign)
        self._fixed = () if operator is None else (operator,)
        self._known: dict[bytes, _Known] = {}
        self.know(())

    def __repr__(self) -> str:
        return f"Authenticator({len(self._known)} sources)"

    def know(self, sources: Iterable[Source]) -> None:
        """These are the sources from now on. From any thread; `Misuse` for one that calls itself the operator."""
        fixed = {source.name for source in self._fixed}
        known = {}
        for source in (*self._fixed, *sources):
            name = source.name.encode()
            if name in known and source.name in fixed:
                raise Misuse(f"no source may be registered as {source.name}")
            before = self._known.get(name)
            same = before is not None and before.source == source
            known[name] = before if same and before is not None else _Known(source, self._keys, self._topic)
        self._known = known

    def authenticate(self, records: Iterable[Record], max_bytes: int) -> Split[Record]:
        """Return the records that may pass; values longer than `max_bytes` (and a seal) are not looked at."""
        passed: list[Record] = []
        rejected: list[Rejected] = []
        add, find, limit = passed.append, self._known.get, max_bytes + OVERHEAD
        every, must_sign = self._every, self._must_sign
        for record in records:
            name = _NO_SOURCE
            for header, content in record.headers:
                if header == SOURCE_HEADER:
                    name = content or b""
                    break
            known = find(name)
            must = every or name in must_sign
            if (known is None and not must) or not record.value or len(record.value) > limit:
                add(record)
                continue
            try:
                self._check(record, known, must)
                add(record)
            except Failure as f:
                rejected.append(Rejected(record, f.stage, f.reason, f.path, f.rule))
        return Split(passed, rejected)

    def signed_again(self, record: Record, now: int) -> Headers | None:
        """Return the headers with which it is signed as of `now` (ms), if its source did sign it in its own time.

        None: it did not, or has no secret now. For what is sent once more, later than its signature allows.
        """
        known = self._known.get(_first(record).get(SOURCE_HEADER, _NO_SOURCE))
        try:
            if known is None:
                return None
            seal_key = self._signed(record, known)
        except Failure:
            return None
        signers = [signer for secret, signer in known.signers.values() if secret.valid(now)]
        if not signers:
            return None
        others = [h for h in record.headers if h[0] not in (TIMESTAMP_HEADER, SIGNATURE_HEADER)]
        return (*others, *signers[-1].headers(now, seal_key, record.key, record.value))

    def _check(self, record: Record, known: _Known | None, must: bool) -> None:
        if known is not None and not known.source.enabled(record.timestamp):
            raise _failed(Reason.SOURCE_DISABLED, SOURCE_HEADER, "the source is disabled")
        if known is not None and record.timestamp >= known.since:
            self._signed(record, known, self._within_ms)
        elif must:
            raise _failed(Reason.UNSIGNED, SOURCE_HEADER, "is not a registered source at that time, and must be")

    def _signed(self, record: Record, known: _Known, within_ms: int | None = None) -> bytes | None:
        """Return the header `seal-key` of a record that its source signed, `within_ms` before or after its own time."""
        at, headers = record.timestamp, _first(record)
        signature, timestamp, seal_key = map(headers.get, (SIGNATURE_HEADER, TIMESTAMP_HEADER, SEAL_KEY_HEADER))
        if signature is None:
            raise _failed(Reason.UNSIGNED, SIGNATURE_HEADER, "is required of this source")
        kid = kid_of(signature)
        if kid is None:
            raise _failed(Reason.BAD_SIGNATURE, SIGNATURE_HEADER, "is not v1.<8 hex>.<64 hex>")
        secret, signer = known.signers.get(kid, (None, None))
        if secret is None or signer is None:
            raise _failed(Reason.BAD_SIGNATURE, SIGNATURE_HEADER, "names a secret that the source does not have")
        if not secret.valid(at):
            raise _failed(Reason.BAD_SIGNATURE, SIGNATURE_HEADER, "names a secret that is not valid at that time")
        if timestamp is None or not (timestamp.isdigit() and len(timestamp) <= _DIGITS):
            raise _failed(Reason.BAD_SIGNATURE, TIMESTAMP_HEADER, "is not ms since 1970 in digits")
        if not signer.signed(signature, timestamp, seal_key, record.key, record.value):
            raise _failed(Reason.BAD_SIGNATURE, SIGNATURE_HEADER, "is not of this source, topic, key, value and time")
        if within_ms is not None and abs(int(timestamp) - at) > within_ms:
            raise _failed(Reason.EXPIRED, TIMESTAMP_HEADER, f"is over {within_ms // 1000} s from the record's time")
        return seal_key


def _first(record: Record) -> dict[str, bytes]:
    """Return the headers; of those of one name the first one counts."""
    found: dict[str, bytes] = {}
    for name, content in record.headers:
        found.setdefault(name, content or b"")
    return found


def _failed(reason: Reason, path: str, rule: str) -> Failure:
    return Failure(reason, path, rule, Stage.AUTHENTICATE)
