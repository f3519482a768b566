"""Whose data an erasure or an access request is about: a profile, and the identifiers in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ..adapters.reader import Found
from ..errors import Misuse
from ..explain.standing import newest, today
from ..stages.fold import GROUP
from ..stages.profile_records import profile_id, said


class Person(msgspec.Struct, frozen=True):
    """`tokens`, sorted: those of the profile, and those by which the person was named. `profile_id`: None without."""

    profile_id: str | None
    tokens: tuple[str, ...]
    profile: bytes = b""
    """Its record as it stands."""

    def __repr__(self) -> str:
        return f"Person({self.profile_id}, {len(self.tokens)} tokens)"


def by_id(profiles: Iterable[Found], ident: str) -> Person:
    """Return the person of a profile id, of today or of the past; `Misuse` if there is none.

    `profiles`, here and below: the topic's records, each partition's in offset order, to be gone through twice.
    """
    last = newest(profiles)
    now = today(last).get(ident)
    if now is None:
        raise Misuse("no profile has this id, nor has any taken one of this id in")
    return _person(profiles, now, last[now].partition, ())


def by_tokens(profiles: Iterable[Found], tokens: Sequence[str]) -> Person:
    """Return the person to whom any of `tokens` belongs, which stand for one identifier.

    Without a profile it is somebody of whom nothing more is known.
    """
    last = newest(profiles, frozenset(tokens))
    holders = [(found.at, found.partition, ident) for ident, found in last.items() if found.held]
    if not holders:
        return _checked(Person(None, tuple(sorted(tokens))))
    _, partition, ident = max(holders)
    return _person(profiles, ident, partition, tokens)


def _person(profiles: Iterable[Found], ident: str, partition: int, tokens: Sequence[str]) -> Person:
    value = b""
    for record in profiles:
        if record.partition == partition and profile_id(record.key) == ident:
            value = record.value or b""
    content = said(value)
    if content is None or content.merged_into is not None:
        raise Misuse("the profile has changed just now; try again")
    return _checked(Person(ident, tuple(sorted({*content.tokens, *tokens})), value))


def _checked(person: Person) -> Person:
    if any(token.startswith(GROUP) for token in person.tokens):
        raise Misuse("this is a group, and no person")
    return person
