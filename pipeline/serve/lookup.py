"""From what somebody asks for to the profile: an identifier in clear becomes tokens here, and stays here."""

from __future__ import annotations

from collections.abc import Callable

from ..adapters.profile_store import ProfileStore
from ..crypto.tokens import Tokenizer
from ..stages.normalize import MAX_CHARS, normal

_RULES = {
    "email": "something on both sides of one @, no white space",
    "phone": "with its country: +… or 00…",
    "advertising_id": "not empty, not all zeros",
}
_RULE = "not empty"


class Unusable(Exception):
    """No identifier of its kind; `rule` says what one is like, and nothing of the value."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class Lookup:
    """Blocks on the database; threads: any number."""

    def __init__(
        self,
        store: ProfileStore,
        tokenizer: Tokenizer,
        now: Callable[[], int],
        available: Callable[[], None] = lambda: None,
    ) -> None:
        """`now`: the time in ms. `available`: raises `Transient` while the KEK may not be used, nor what it wraps."""
        self._store = store
        self._tokenizer = tokenizer
        self._now = now
        self._available = available

    def by_identifier(self, kind: str, value: str) -> bytes | None:
        """Return the JSON of the profile that has the identifier; `kind` is one of `KINDS`.

        The token of the key version in use is looked up first, then those of the other versions that are still there.

        Raises:
            Unusable: the value has no normal form.
            Transient: the KEK's provider, or the database, is away.
        """
        self._available()
        form = normal(kind, value)
        if form is None:
            raise Unusable(f"{_RULES.get(kind, _RULE)}, at most {MAX_CHARS} characters")
        for version in self._tokenizer.versions(self._now()):
            found = self._store.by_token(version.maker(kind)(form))
            if found is not None:
                return found
        return None

    def by_id(self, profile_id: str) -> bytes | None:
        """Return the JSON of the profile of that id, or of the one that has taken it in."""
        return self._store.by_id(profile_id)
