"""What the identify leg keeps in its tables and sends on `identity`. Pure data and its encoding (msgpack arrays).

Table `tokens`: packed token → `Row`, at the token's own partition. Table `evidence`, at the root's partition: packed
root → the cluster's other members and who stays apart from it (`pack_members`), and `evidence_key(root, member)` → the
member's `Facts`.

A *stream* is one incarnation of a raw topic, written "<topic>\\0<incarnation>"; `Facts` name each once and refer to it
by its index. So a row and a message can be read without any other, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..errors import Corrupt
from ..events import Origin, event_id, frame
from .normalize import KINDS

_TOKEN = re.compile(r"[a-z][a-z0-9_]*\.[0-9]+\.[0-9a-f]{32}")
_PACKED = re.compile(rb"[a-z][a-z0-9_]*\.[0-9]+\..{16}", re.DOTALL)
DIGEST = 16
_HEX = 2 * DIGEST
PROFILE_DOMAIN = b"sealstream/profile-id/1"
GROUP_DOMAIN = b"sealstream/group-id/1"

Birth = tuple[int, int, int, int]
"""(received_at, stream, partition, offset) of an event."""

Trait = tuple[int, int, int, int, bytes]
"""(event time, stream, partition, offset, value as canonical JSON)."""


Consented = tuple[int, int, int, int, bool, str]
"""(event time, stream, partition, offset, granted, source) of the event that said it last."""

Visits = tuple[int, int]
"""First and last event time with a group; the last one is that of its UTC day's beginning."""


class Calculated(msgspec.Struct, array_like=True, gc=False):
    """What computed traits are made from, by `Computed.key` and UTC day (0 if the trait has no period).

    `sums` are (numbers, their sum in millionths as a signed little-endian integer). `tallies` go by value (canonical
    JSON) before the day; a value without a day has been seen in no event that counts. `lasts` have no day: whether the
    last value is recent enough shows by its time.
    """

    counts: dict[str, dict[int, int]] = {}
    sums: dict[str, dict[int, tuple[int, bytes]]] = {}
    firsts: dict[str, dict[int, Trait]] = {}
    lasts: dict[str, Trait] = {}
    tallies: dict[str, dict[bytes, dict[int, int]]] = {}


class Facts(msgspec.Struct, array_like=True, gc=False):
    """What the events anchored on one token say: a state, not a delta.

    The token's log in `events.protected` has one order, so its state after `version` events is one state: of two,
    the one of higher version knows everything that the other does. `births` are all the earliest events that there
    ever were, the earliest last: a profile was, or may have been, announced under the id of each. There are none while
    nothing but operators' decisions is known of the token; `first` and `last` say nothing then. `wrote` has for a
    trait the index of its writer, (source, schema), in `writers`; none for what an earlier version has folded.
    """

    version: int
    streams: list[str]
    births: list[Birth]
    first: int
    last: int
    events: dict[str, int]
    sources: list[str]
    traits: dict[str, Trait]
    writers: list[tuple[str, str]] = []
    wrote: dict[str, int] = {}
    consents: dict[str, Consented] = {}
    groups: dict[str, Visits] = {}
    computed: Calculated | None = None
    links: dict[str, bytes] = {}
    """By the other token's text before its digest: who occurred with this token (`stages.partition.LINK` each)."""
    decisions: dict[str, tuple[int, bytes, bool]] = {}
    """What an operator said of this token and another one: event time, event id, link (or cut)."""
    linked: int = 0
    """How often links or decisions changed, but for their last days."""
    sighted: int = 0
    """How often last days of links changed."""
    former: dict[str, str] = {}
    """By token (this one or of `links`): the same identifier's under the key version before, of `links`, too."""
    erasures: int = 0
    """How often everything above but `version`, `streams` and the last two counts was erased."""
    gone: list[Birth] = []
    """The latest of the births that were erased: under these ids nothing may stand on `profiles`."""
    met: dict[str, bytes] = {}
    """Of what was erased, as `links`, but digests alone: an identifier that was shared stays so."""


class Seen(msgspec.Struct, array_like=True, gc=False):
    """Which offsets of one raw partition were folded: all up to `floor`, and those in `above`.

    `above` holds offset − floor as 32-bit little-endian numbers, ascending; `high` is the greatest offset. `late`: an
    offset came after a greater one, which the protect leg's order rules out, and more of them are kept then.
    """

    floor: int
    high: int
    above: bytes
    late: bool = False


class Erased(msgspec.Struct, array_like=True, gc=False):
    """The latest erasure of a token: which it is, and the places of its markers, by raw partition, in their `stream`.

    `partitions`: of that stream, when it was asked for at `time`.
    """

    time: int
    erasure: str
    partitions: int
    stream: str
    marks: dict[int, int]


Amount = tuple[str, int, bytes]
"""(`Computed.key`, day, what was added: nothing for a count, the millionths of a sum, the value of a tally)."""

Counted = tuple[int, int, int, int, list[Amount]]
"""(received_at, stream, partition, offset, amounts) of the earliest known copy of an event: the one that counts."""


class Row(msgspec.Struct, array_like=True, gc=False):
    """Everything that its owner knows of a token. A root has no `parent`.

    `profile` is the id (16 bytes) under which the root was announced, or which the root told this token; b"": none.
    `edges` are the digests (16 bytes each) of tokens whose link is up to date for an event of `day`, if it is later
    than `latest` (ms). `recent` are digests (8 bytes each) of the last distinct events by source, messageId and name;
    `counted` has those that computed traits have counted.
    """

    parent: bytes = b""
    profile: bytes = b""
    edges: bytes = b""
    facts: Facts | None = None
    seen: dict[int, Seen] = {}  # by stream << 32 | partition
    recent: bytes = b""
    counted: dict[bytes, Counted] = {}
    day: int = -(1 << 62)
    latest: int = -(1 << 62)
    state: int = 0
    """Bits of `SHARED`, `FULL` and, at a root, `SPLIT` and `CAPPED`."""
    rules: int = 0
    """At a root: the digest of the rules under which it was divided last (`link.digest`)."""
    members: dict[str, Visits] = {}
    """Of a group's token: by anchor of the events that named it; those that sort first."""
    crowd: bool = False
    """There were more of them."""
    erased: Erased | None = None
    visited: dict[str, bytes] = {}
    """Groups that events since the last erasure have named: digests by what is before them in the token's text."""
    eras: dict[str, int] = {}
    """Of a group's token: of anchors that were erased, how often; those that are not in `members` keep their place."""


SHARED = 1
"""The token joins nobody by events: it has too many neighbours."""
FULL = 2
"""The tokens that hang together with it are as many as are worked on at once."""
SPLIT = 4
"""The root's cluster is more than one person."""
CAPPED = 8
"""A cap on size keeps tokens out of the root's persons, and on-call was told."""


class Join(msgspec.Struct, array_like=True, tag="j", frozen=True, gc=False):
    """To the owner of a token: it occurred in an event with `anchor`, which ranks before it. Calls for a union."""

    anchor: str


class Union(msgspec.Struct, array_like=True, tag="u", frozen=True, gc=False):
    """To the owner of a token: it is to be worked on together with `low`, which ranks before it."""

    low: str


class Apart(msgspec.Struct, array_like=True, tag="p", frozen=True, gc=False):
    """To a root: these tokens occurred with tokens of its cluster, and stay apart from it: shared, or `full`."""

    tokens: list[str]
    full: bool


class Evidence(msgspec.Struct, array_like=True, tag="e", frozen=True, gc=False):
    """To a root: its members, each with version and encoded `Facts` (0 and b"" if it has none).

    `moved`: not the members' own words but handed on, by a former root or along a pointer. The sender may have
    announced profiles meanwhile, so the root announces its own again; with no entries, under any id of any member.
    """

    entries: list[tuple[str, int, bytes]]
    moved: bool = False


class Member(msgspec.Struct, array_like=True, tag="m", frozen=True, gc=False):
    """To the owner of a group's token: an event of `anchor` named it. `visits`: when. `era`: `Facts.erasures`."""

    anchor: str
    visits: Visits
    era: int = 0


class Left(msgspec.Struct, array_like=True, tag="l", frozen=True, gc=False):
    """To the owner of a group's token: `anchor`, whose events named it, was erased for the `era`-th time."""

    anchor: str
    era: int


class Assigned(msgspec.Struct, array_like=True, tag="a", frozen=True, gc=False):
    """To the owner of a token: its root, the id of its profile (b"": it has none), and bits of its `Row.state`."""

    root: str
    profile: bytes
    state: int = 0


Message = Join | Union | Evidence | Apart | Member | Left | Assigned

encode = msgspec.msgpack.Encoder().encode
_row = msgspec.msgpack.Decoder(Row)
_facts = msgspec.msgpack.Decoder(Facts)
_members = msgspec.msgpack.Decoder(dict[str, bytes])
message_decoder = msgspec.msgpack.Decoder(Message)


def decode_row(value: bytes) -> Row:
    try:
        return _row.decode(value)
    except msgspec.MsgspecError:
        raise Corrupt("a row of the table tokens does not read back") from None


def decode_facts(value: bytes) -> Facts:
    try:
        return _facts.decode(value)
    except msgspec.MsgspecError:
        raise Corrupt("a row of the table evidence does not read back") from None


def check_row(table: str, key: bytes, value: bytes) -> None:
    """`Corrupt` if these bytes are no row of the table `tokens` or `evidence`; 1.5 µs."""
    if table == "evidence" and key[:1] == b"\0":
        if len(key) != 1 + 2 * DIGEST:
            raise Corrupt("a key of the table evidence does not read back")
        decode_facts(value)
        return
    if _PACKED.fullmatch(key) is None:
        raise Corrupt(f"a key of the table {table} does not read back")
    if table == "tokens":
        decode_row(value)
    else:
        unpack_members(value)


_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def token_rank(token: str) -> tuple[int, str]:
    """The routing order of tokens; a cluster's smallest token is its root. It must never change: rows go by it."""
    return kind_rank(token), token


def kind_rank(token: str) -> int:
    """The place of its kind in that order, which is not that of the rules' priorities."""
    return _RANK.get(kind_of(token), len(_RANK))


def later(streams: list[str], a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    """Is `a` later than `b`, both (time, stream, partition, offset, …)?"""
    return (a[0], streams[a[1]], a[2], a[3]) > (b[0], streams[b[1]], b[2], b[3])


def moved(write: Any, index: list[int]) -> Any:
    """What was written at (time, stream, …), with the stream's number in another list of streams."""
    return write[0], index[write[1]], *write[2:]


def kind_of(token: str) -> str:
    return token.partition(".")[0]


def well_formed(token: str) -> bool:
    """`<kind>.<key version>.<32 hex>`; whatever else stands on a topic is not from the protect leg."""
    return _TOKEN.fullmatch(token) is not None


def pack(token: str) -> bytes:
    """`<kind>.<key version>.` and the 16 bytes of the hex: 16 bytes less than the text."""
    return token[:-_HEX].encode() + bytes.fromhex(token[-_HEX:])


def unpack(packed: bytes) -> str:
    return packed[:-DIGEST].decode() + packed[-DIGEST:].hex()


def entry_at(digest: bytes, packed: bytes, size: int) -> int:
    """Return where the entry that begins with `digest` begins, of entries of `size` bytes; -1: there is none."""
    at = packed.find(digest)
    while at >= 0 and at % size:
        at = packed.find(digest, at + 1)
    return at


def tokens_of(prefix: str, digests: bytes) -> list[str]:
    """Return the tokens that have this before their digests."""
    text = digests.hex()
    return [prefix + text[i : i + _HEX] for i in range(0, len(text), _HEX)]


def digest_of(token: str) -> bytes:
    return bytes.fromhex(token[-_HEX:])


def evidence_key(root: str, member: str) -> bytes:
    """33 bytes beginning with a zero, which no packed token does."""
    return b"\0" + digest_of(root) + digest_of(member)


def token_home(key: bytes) -> bytes:
    """Where a row of `tokens` lives: its token, by whose murmur2 records reach its owner."""
    return _unpacked(key).encode()


def evidence_homes(keys: Iterable[bytes]) -> Callable[[bytes], bytes | None]:
    """Return the function: a row's key → where it lives, the cluster's root; None: no row names the root.

    `keys` are all keys of `evidence`, since a row of facts says no more of its root than the digest. One whose root has
    no row of members is out of reach of the leg. 250 bytes of memory per root.
    """
    roots = {key[-DIGEST:]: key for key in keys if not key.startswith(b"\0")}

    def home(key: bytes) -> bytes | None:
        root = roots.get(key[1 : 1 + DIGEST]) if key.startswith(b"\0") else key
        return None if root is None else _unpacked(root).encode()

    return home


def _unpacked(key: bytes) -> str:
    try:
        return unpack(key)
    except UnicodeDecodeError:
        raise Corrupt("a key of the identify leg's tables does not read back") from None


def pack_members(members: Iterable[str], shared: Iterable[str] = (), full: Iterable[str] = ()) -> bytes:
    """A cluster's members and those who stay apart from it; 16 bytes each: digests by the part before them."""
    found: dict[str, list[bytes]] = {}
    for mark, tokens in (("", members), (_SHARED, shared), (_FULL, full)):
        for token in tokens:
            found.setdefault(mark + token[:-_HEX], []).append(digest_of(token))
    return encode({prefix: b"".join(digests) for prefix, digests in found.items()})


def unpack_members(value: bytes) -> tuple[list[str], list[str], list[str]]:
    """Members; and apart, because they are shared; and because there was no room."""
    try:
        found = _members.decode(value)
    except msgspec.MsgspecError:
        raise Corrupt("a row of members of the table evidence does not read back") from None
    tokens: tuple[list[str], list[str], list[str]] = [], [], []
    for marked, digests in found.items():
        which = (_SHARED, _FULL).index(marked[0]) + 1 if marked[:1] in (_SHARED, _FULL) else 0
        prefix = marked[1:] if which else marked
        tokens[which].extend(tokens_of(prefix, digests))
    return tokens


_SHARED, _FULL = "!", "?"


def stream(topic: str, incarnation: str) -> str:
    """Streams compare as (topic, incarnation), since no topic's name holds a zero byte."""
    return f"{topic}\0{incarnation}"


def group_id(token: str) -> bytes:
    """The id (16 bytes) of the profile of a group without events of its own."""
    return hashlib.sha256(frame(GROUP_DOMAIN, token.encode())).digest()[:16]


def profile_id(facts: Facts, birth: Birth) -> bytes:
    """The id (16 bytes) of a profile whose earliest event is `birth`; a function of the event's origin alone."""
    topic, _, incarnation = facts.streams[birth[1]].partition("\0")
    origin = Origin(topic, incarnation, birth[2], birth[3])
    return hashlib.sha256(frame(PROFILE_DOMAIN, event_id(origin))).digest()[:16]
