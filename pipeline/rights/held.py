"""What is held of one person, opened: the answer to an access request, as JSON lines.

The first line is the person with the profile as it stands; then a line for each event that is kept, in the order in
which Kafka received them per partition; the last one says what was counted, and what was not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ..adapters.changelog import last_values, standing
from ..adapters.memory_table import MemoryTable
from ..adapters.reader import Found
from ..crypto.epochs import Epochs
from ..crypto.seal import SealBroken, SealPath, SubjectKey
from ..crypto.subjects import SubjectKeys
from ..errors import Corrupt
from ..events import ProtectedEvent
from ..outcomes import UNDECODABLE
from .person import Person

KeyOf = Callable[[int, str, bytes], SubjectKey | None]
"""Raw partition, subject and key id → the key, None if it is no longer there."""

NOT_OPENED = "events.raw (as it was sent) and events.rejected (what could not be protected) go by no person: see docs"

_decode = msgspec.json.Decoder(ProtectedEvent).decode
_encode = msgspec.json.Encoder().encode


def keys_of(records: Iterable[Found], person: Person, epochs: Epochs) -> KeyOf:
    """Return what finds the person's keys; `records`: of the changelog of `subject-keys`."""
    subjects = {token.encode() for token in person.tokens}
    tables: dict[int, MemoryTable] = defaultdict(MemoryTable)
    own = (found for found in standing(records) if (found.key or b"").partition(b"\0")[0] in subjects)
    for (number, key), found in last_values(own).items():
        tables[number].put(key, found.value or b"")
    keys = {number: SubjectKeys(table, epochs) for number, table in tables.items()}

    def key_of(partition: int, subject: str, key_id: bytes) -> SubjectKey | None:
        return keys[partition].find(subject, key_id) if partition in keys else None

    return key_of


class Held:
    """One answer. `opened` and `unreadable`: values, so far; the latter are those whose key was erased or destroyed."""

    def __init__(self, person: Person, key_of: KeyOf) -> None:
        self._person = person
        self._anchors = {token.encode() for token in person.tokens}
        self._key_of = key_of
        self._seen: set[str] = set()
        self.events = self.opened = self.unreadable = 0

    def lines(self, protected: Iterable[Found]) -> Iterator[bytes]:
        """Yield JSON texts without line ends; `protected`: records of `events.protected`."""
        person = self._person
        first: dict[str, Any] = {"profile_id": person.profile_id, "tokens": person.tokens}
        if person.profiles:
            first["profile"], *also = map(msgspec.Raw, person.profiles.values())
            if also:
                first["also"] = also
        yield _encode({"person": first})
        for found in protected:
            if found.key in self._anchors and found.value is not None:
                line = self._event(found.value)
                if line is not None:
                    yield line
        counts = {"events": self.events, "opened": self.opened, "unreadable": self.unreadable}
        yield _encode({"held": counts, "not_opened": NOT_OPENED})

    def _event(self, value: bytes) -> bytes | None:
        try:
            event = _decode(value)
        except UNDECODABLE:
            return None
        if event.event_id in self._seen:
            return None
        self._seen.add(event.event_id)
        self.events += 1
        told = msgspec.to_builtins(event, builtin_types=(bytes,))
        told.pop("sealed", None)
        told.pop("key", None)
        opened, unreadable = self._open(event)
        if opened:
            told["opened"] = opened
        if unreadable:
            told["unreadable"] = unreadable
        return _encode({"event": told})

    def _open(self, event: ProtectedEvent) -> tuple[dict[str, msgspec.Raw], list[str]]:
        """By path: the values as JSON, and those that nobody can open any more."""
        if not event.sealed:
            return {}, []
        opened: dict[str, msgspec.Raw] = {}
        unreadable = []
        key = self._key(event)
        for path, sealed in event.sealed.items():
            try:
                if key is None:
                    raise SealBroken
                opened[path] = msgspec.Raw(
                    key.open(SealPath(event.schema, path), bytes.fromhex(event.event_id), sealed)
                )
            except (SealBroken, ValueError):
                unreadable.append(path)
        self.opened += len(opened)
        self.unreadable += len(unreadable)
        return opened, unreadable

    def _key(self, event: ProtectedEvent) -> SubjectKey | None:
        if event.key is None:
            return None
        try:
            return self._key_of(event.origin.partition, event.key.subject, bytes.fromhex(event.key.key_id))
        except (ValueError, Corrupt):  # an epoch that was destroyed, for one
            return None
