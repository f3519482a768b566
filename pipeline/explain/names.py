"""How an operator names an identifier: as a token, or as `kind:value`, whose value never leaves the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..crypto.tokens import BEGINNING
from ..errors import Misuse
from ..stages.decision import well_formed
from ..stages.extract import Makers
from ..stages.normalize import KINDS
from ..stages.tokenize import Tokens


def tokens_of(text: str, tokens: Callable[[], Tokens], now: int) -> list[str]:
    """Return the tokens that `text` may stand for, those of the latest key version at `now` (ms) first; at least one.

    `Misuse` if it names nothing; the message never holds its value.
    """
    if well_formed(text) is not None:
        return [text]
    kind, colon, value = text.partition(":")
    if not colon or kind not in KINDS:
        raise Misuse(f"an identifier is a token, or kind:value with a kind of {', '.join(KINDS)}")
    made = [makers[kind](value) for makers in _versions(tokens(), now)]
    found = list(dict.fromkeys(token for token in made if token))  # neither None nor BLOCKED
    if not found:
        raise Misuse(f"{kind}: no token is made of this value; it has no normal form, or it is blocked")
    return found


def _versions(tokens: Tokens, now: int) -> Iterator[Makers]:
    while True:
        period = tokens.at(now)
        yield period.makers
        if period.since == BEGINNING:
            return
        now = period.since - 1


def short(token: str) -> str:
    """A token as people read it: the first 8 of its 32 hex digits."""
    return token[:-24] + "…" if well_formed(token) else token
