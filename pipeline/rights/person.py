"""Whose data an erasure or an access request is about: a profile, and the identifiers in it.

Of profiles there are several where an identifier has tokens under two key versions and did not come while these
overlapped: nothing has joined them, and they are one person's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..adapters.reader import Found
from ..errors import Misuse
from ..explain.standing import newest, today
from ..stages.fold import GROUP
from ..stages.profile_records import profile_id, said


class Person(msgspec.Struct, frozen=True):
    """`tokens`, sorted: those of the profiles, and those by which the person was named. `profiles`: id → its record as
    it stands; the newest first.
    """

    tokens: tuple[str, ...]
    profiles: dict[str, bytes] = {}

    @property
    def profile_id(self) -> str | None:
        """Of the newest one."""
        return next(iter(self.profiles), None)

    def __repr__(self) -> str:
        return f"Person({self.profile_id}, {len(self.tokens)} tokens)"

    def grown_by(self, profiles: Iterable[Found]) -> bool:
        """Whether any of these further records of the topic names a token of the person together with a new one."""
        own = frozenset(self.tokens)
        return any(own & named and named - own for named in map(_named, profiles))


def by_id(profiles: Iterable[Found], ident: str) -> Person:
    """Return the person of a profile id, of today or of the past; `Misuse` if there is none.

    `profiles`, here and below: the topic's records, each partition's in offset order, to be gone through twice.
    """
    last = newest(profiles)
    now = today(last).get(ident)
    if now is None:
        raise Misuse("no profile has this id, nor has any taken one of this id in")
    return _person(profiles, {now: last[now].partition}, ())


def by_tokens(profiles: Iterable[Found], tokens: Sequence[str]) -> Person:
    """Return the person to whom `tokens` belong, which stand for one identifier. Of two profiles that name a token the
    newer one has it.

    Without a profile it is somebody of whom nothing more is known.
    """
    wanted = frozenset(tokens)
    ever = {profile_id(found.key) for found in profiles if wanted & _named(found)}
    last = newest((found for found in profiles if profile_id(found.key) in ever), wanted)
    holders: dict[str, int] = {}
    for _, partition, ident, held in sorted(((f.at, f.partition, i, f.held) for i, f in last.items()), reverse=True):
        if held & wanted:
            holders[ident] = partition
            wanted -= held
    return _person(profiles, holders, tokens)


def _named(found: Found) -> frozenset[str]:
    content = None if found.value is None else said(found.value)
    return frozenset() if content is None else content.tokens


def _person(profiles: Iterable[Found], holders: Mapping[str, int], tokens: Sequence[str]) -> Person:
    """`holders`: id → the partition where it stands."""
    values = dict.fromkeys(holders, b"")
    for record in profiles if holders else ():
        ident = profile_id(record.key)
        if ident is not None and holders.get(ident) == record.partition:
            values[ident] = record.value or b""
    known = set(tokens)
    for value in values.values():
        content = said(value)
        if content is None or content.merged_into is not None:
            raise Misuse("the profile has changed just now; try again")
        known |= content.tokens
    return _checked(Person(tuple(sorted(known)), values))


def _checked(person: Person) -> Person:
    if any(token.startswith(GROUP) for token in person.tokens):
        raise Misuse("this is a group, and no person")
    return person
