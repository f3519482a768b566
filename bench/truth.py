"""How well the rules of identity tell people apart, against known truth: pairwise precision, recall and F1.

Events go through the real protect leg (throw-away keys, made from the seed) and `stages.reference.decide`, which the
stream is held to. Then with each rule removed alone, which says what it buys and costs, and with none of them.

Counted are pairs: of *identifiers* that belong to one person (a kiosk's or a family's belong to nobody), and of
*events*, each of which one person did. Precision: of the pairs in one profile, those that are one person's. Recall: of
the pairs that are one person's, those in one profile. An event that was rejected, or of which nothing is known but a
shared identifier, is in nobody's profile.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from msgspec import structs

from bench import households
from bench.households import Sent
from pipeline import settings, wiring
from pipeline.adapters import schema_files
from pipeline.cli.protect import answers
from pipeline.crypto.keyring import KeyRing
from pipeline.events import ProtectedEvent, RawRecord, SourceBatch, Topic
from pipeline.flow.protect import ProtectLeg
from pipeline.stages.block import Blocked
from pipeline.stages.link import Limits, Rules
from pipeline.stages.reference import decide

UNBOUNDED = 2**31
AT_ONCE = 1_000


class Score(NamedTuple):
    precision: float
    recall: float
    f1: float


class Row(NamedTuple):
    """`rules`: their name. `largest`: identifiers of the largest profile."""

    rules: str
    identifiers: Score
    events: Score
    largest: int


class _Line(msgspec.Struct, frozen=True):
    protected: ProtectedEvent | None = None


Events = Sequence[ProtectedEvent | None]
"""By number of what was sent; None: rejected."""


def score(units: Iterable[tuple[Hashable, Hashable]]) -> Score:
    """Score the pairs of `units`, each (the profile that it was put in, the person that it is of)."""
    both = Counter(units)
    profiles: Counter[Hashable] = Counter()
    people: Counter[Hashable] = Counter()
    for (profile, person), n in both.items():
        profiles[profile] += n
        people[person] += n
    right, found, true = (_pairs(count) for count in (both, profiles, people))
    precision = right / found if found else 1.0
    recall = right / true if true else 1.0
    return Score(precision, recall, 2 * right / (found + true) if found + true else 1.0)


def _pairs(sizes: Counter[Hashable] | Counter[tuple[Hashable, Hashable]]) -> int:
    return sum(n * (n - 1) // 2 for n in sizes.values())


def generated(
    rules: Rules, people: int, seed: int, say: Callable[[str], None], *, accounts: bool = True
) -> tuple[int, list[Row]]:
    """Return how many events `people` people caused, and the rules' scores."""
    sent = households.events(people, seed, accounts=accounts)
    say(f"{len(sent):,} events of {people:,} people" + (", none with an account" if not accounts else ""))
    doers = [s.person for s in sent]
    by_list: dict[bytes, Events] = {}
    rows: list[Row] = []
    for name, changed in cases(rules):
        say(name)
        listed = msgspec.json.encode(changed.blocked)
        if listed not in by_list:
            by_list[listed] = protect(sent, changed.blocked, seed)
        rows.append(judge(name, by_list[listed], doers, changed))
    there = _own(by_list[msgspec.json.encode(rules.blocked)], doers)
    rows.insert(0, judge("own identifiers alone", there, doers, _unlimited(rules)))
    return len(sent), rows


def cases(rules: Rules) -> Iterator[tuple[str, Rules]]:
    """Yield the rules as they are, none at all, and each removed alone, by name."""
    yield "all rules", rules
    yield "no rules", structs.replace(_unlimited(rules), blocked=Blocked())
    yield "without blocked", structs.replace(rules, blocked=Blocked())
    unshared = {name: structs.replace(kind, shared=0) for name, kind in rules.kinds.items()}
    limits = structs.replace(rules.limits, shared_neighbours=UNBOUNDED)
    yield "without shared", structs.replace(rules, kinds=unshared, limits=limits)
    limits = structs.replace(rules.limits, cluster_tokens=UNBOUNDED, component_tokens=UNBOUNDED)
    yield "without cluster_tokens", structs.replace(rules, limits=limits)
    for name, kind in rules.kinds.items():
        if kind.limit:
            unbound = {**rules.kinds, name: structs.replace(kind, limit=0, window="")}
            yield f"without limit.{name}", structs.replace(rules, kinds=unbound)


def _unlimited(rules: Rules) -> Rules:
    kinds = {name: structs.replace(kind, limit=0, window="", shared=0) for name, kind in rules.kinds.items()}
    return structs.replace(rules, kinds=kinds, limits=Limits(UNBOUNDED, UNBOUNDED, UNBOUNDED))


def _own(events: Events, people: Sequence[int]) -> Events:
    """The events without the identifiers that more than one person used: joining by the others is never wrong."""
    owners = _owners(events, people)
    found: list[ProtectedEvent | None] = []
    for event in events:
        tokens = {path: t for path, t in event.tokens.items() if len(owners[t]) == 1} if event is not None else {}
        if event is None or not tokens:
            found.append(None)
            continue
        found.append(structs.replace(event, tokens=tokens, anchor=next(iter(tokens.values()))))  # any of them will do
    return found


def _owners(events: Events, people: Sequence[int]) -> dict[str, set[int]]:
    owners: dict[str, set[int]] = defaultdict(set)
    for event, person in zip(events, people, strict=True):
        for token in event.tokens.values() if event is not None else ():
            owners[token].add(person)
    return owners


def protect(sent: Iterable[Sent], blocked: Blocked, seed: int) -> Events:
    """Return what the protect leg makes of the events; the same seed, the same tokens."""
    ring = KeyRing.generate(random.Random(seed).randbytes, 0)
    part = wiring.in_memory(ProtectLeg(schema_files.load(settings.load().schema_dir), ring, blocked))
    records = [RawRecord(i, s.time, None, msgspec.json.encode(s.event)) for i, s in enumerate(sent)]
    found: list[ProtectedEvent | None] = []
    for at in range(0, len(records), AT_ONCE):
        lines, _ = answers(part, SourceBatch(Topic.RAW.value, "", 0, records[at : at + AT_ONCE]))
        found += [msgspec.json.decode(line, type=_Line).protected for line in lines.splitlines()]
    return found


def judge(name: str, events: Events, people: Sequence[int], rules: Rules) -> Row:
    """Score the rules on `events`, of which `people` says who did them."""
    ruling = decide([event for event in events if event is not None], rules)
    profile = {token: i for i, tokens in enumerate(ruling.people) for token in tokens}
    owners = _owners(events, people)
    tokens = [(profile[t], min(of)) for t, of in owners.items() if len(of) == 1 and t in profile]
    alone = len(ruling.people)  # numbers of no profile start here
    units = [
        (alone + i if event is None or event.anchor in ruling.shared else profile[event.anchor], person)
        for i, (event, person) in enumerate(zip(events, people, strict=True))
    ]
    return Row(name, score(tokens), score(units), max(map(len, ruling.people), default=0))
