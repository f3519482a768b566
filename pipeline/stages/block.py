"""Block: which identifiers are nobody's, such as `null`, the nil UUID, or `test@example.com`.

In: an identifier in its normal form, or as it was sent if it has none. Out: whether it is blocked; then no token is
made of it. Asked once per distinct value, since `tokenize.Tokens` remembers; cost: 1.4 µs.

Values are compared *folded*: NFKC, case folded, white space at the ends cut and inside made one space, characters that
do not show (byte order marks, zero width) left out. Literals are compared in the normal form of the kind as well, so a
phone number may be written as one likes. A pattern must match the whole value, in either case.

Patterns meet values that a stranger sent, and Python's `re` has no time limit: `(a+)+b` takes hours for 40 letters. So
a group is not repeated, at most `MAX_REPEATS` parts are repeated without a fixed count, and no value of more than
`MATCHED_CHARS` is matched: a few ms at worst, for what people write by mistake.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from ..errors import Misuse
from .normalize import normal

MATCHED_CHARS = 256
"""Of a folded value; a longer one matches no pattern."""
MAX_REPEATS = 2

_ORDINARY_IDS = ("4f1c9d02-7b3e-4a58-9c61-e2d07f5b8a34", "c-10482", "8214093377", "k7qzw")
_ORDINARY: Mapping[str, tuple[str, ...]] = {
    "email": ("zoe.abara@example.org", "k7.qzw+1@mail.example.net", "8214@shop.example"),
    "phone": ("+14155550123", "+442079460018", "+41446681800"),
    "advertising_id": ("4f1c9d02-7b3e-4a58-9c61-e2d07f5b8a34", "b07e51aa-92c4-4d1f-8e36-0d9f64c2e715"),
}
"""Unlike each other: a list that blocks all of a kind blocks everybody."""
_ATOMS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{)")
_REPEAT = re.compile(r"[*+]|\{[0-9]*,[0-9]*\}")

Blocks = Callable[[str], bool]


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    literals: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


class Blocked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[blocked]` of the identity rules."""

    literals: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    kinds: dict[str, Block] = {}
    """More of them for one kind."""


def blocks(blocked: Blocked, kind: str) -> Blocks:
    """Return the question whether a value of `kind` is blocked."""
    more = blocked.kinds.get(kind, Block())
    literals = {_fold(form) for text in blocked.literals + more.literals for form in (text, normal(kind, text)) if form}
    patterns = [re.compile(pattern, re.IGNORECASE).fullmatch for pattern in blocked.patterns + more.patterns]

    def is_blocked(value: str) -> bool:
        folded = _fold(value)
        if not folded:
            return False  # empty is absent: `[0-]*` means no such thing
        if folded in literals:
            return True
        return len(folded) <= MATCHED_CHARS and any(match(folded) is not None for match in patterns)

    return is_blocked


def _fold(value: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    if not folded.isascii():
        folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return " ".join(folded.split())


def check(blocked: Blocked, kinds: Collection[str]) -> None:
    """`Misuse` for what is no pattern, may run for ever, or blocks everybody of one of `kinds`."""
    for where, patterns in _patterns(blocked):
        for i, pattern in enumerate(patterns):
            if fault := _fault(pattern):
                raise Misuse(f"identity rules: {where}.patterns[{i}]: {fault}")
    for name in blocked.kinds:
        if name not in kinds:
            raise Misuse(f"identity rules: blocked.kinds.{name}: no such kind")
    for kind in kinds:
        # refused, not warned of: a worker that started with it would reject all that comes, and a kind that is to join
        # nobody has `links = false`
        if all(map(blocks(blocked, kind), _ORDINARY.get(kind, _ORDINARY_IDS))):
            raise Misuse(
                f"identity rules: {_widest(blocked, kind)}: blocks every {kind}; to keep a kind from joining, set"
                f" kinds.{kind}.links = false"
            )


def _patterns(blocked: Blocked) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "blocked", blocked.patterns
    for name, block in blocked.kinds.items():
        yield f"blocked.kinds.{name}", block.patterns


def _fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as e:
        return f"no regular expression: {e}"
    rest = _ATOMS.sub("x", pattern)
    if _REPEATED_GROUP.search(rest):
        return "a repeated group (…)* may run for ever: repeat single characters or [classes]"
    if len(_REPEAT.findall(rest)) > MAX_REPEATS:
        return f"more than {MAX_REPEATS} of *, + and {{m,n}} may run for ever"
    return None


def _widest(blocked: Blocked, kind: str) -> str:
    """The pattern that alone blocks every value of `kind`, or where those stand that do so together."""
    for where, patterns in _patterns(blocked):
        for i, pattern in enumerate(patterns):
            alone = blocks(Blocked(patterns=(pattern,)), kind)
            if where in ("blocked", f"blocked.kinds.{kind}") and all(map(alone, _ORDINARY.get(kind, _ORDINARY_IDS))):
                return f"{where}.patterns[{i}]"
    return "blocked"
