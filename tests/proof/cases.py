"""Draw random cases: rules, and what customers, kiosks, operators and broken clocks do under them.

A case is a function of (seed, number) alone. Beyond the events of `tests.flow.test_identify`: kiosks, kinds that no
rule names, tokens under two key versions, aliases to itself, clocks of 1970 and 2100, clocks that tick twice a day,
messages without an id, names too long to be shown; token keys that were rotated; people who are erased, once or again;
and rules that bind anywhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from pipeline.events import ERASE, ORDERS, Origin, ProtectedEvent, event_id
from pipeline.stages.identity_rows import kind_of, token_rank
from pipeline.stages.link import Rules, load_rules
from pipeline.stages.normalize import KINDS
from tests.flow.identity_world import COMPUTED, RULES, SHIPPED, WITHHOLD
from tests.flow.test_identify import DAY, START, TIGHT, events, token

CLOCKS = (-1, 0, 1, 4_102_444_800_000)
"""Event times of devices that do not know the time: about 1970, and 2100."""
LONG = "a name that is longer than what a profile shows of one " * 3
UNLISTED = "loyalty_id"
"""A kind that no rules name."""


class Case(NamedTuple):
    number: int
    rules: Rules
    events: list[ProtectedEvent]
    """In the order of their raw partitions."""
    schedule: int
    """Seed of the order in which they arrive and of what happens meanwhile."""


def drawn(seed: int, number: int) -> Case:
    rng = random.Random(f"{seed}/{number}")
    rules = rng.choice((RULES, TIGHT, TIGHT, None, None, None)) or load_rules(*rules_text(rng))
    made, schedule = drawn_events(rng), rng.randrange(2**32)
    if rng.random() < 0.3:
        made = _coarse(made, rng.choice((DAY // 2, DAY)), received=rng.random() < 0.5)
    if rng.random() < 0.3:
        made = [rotated(event, rng.choice(("before", "overlap", "after"))) for event in drawn_events(rng, twist=False)]
    if rng.random() < 0.4:
        few = events(rng, rng.randint(10, 40), people=rng.choice((1, 2, 3)), decided=0.3)
        made = _erasing(rng, few if rng.random() < 0.6 else made)
    return Case(number, rules, made, schedule)


def rotated(event: ProtectedEvent, period: str) -> ProtectedEvent:
    """The event as it is protected `before` the token key was rotated, in the `overlap`, or `after` it."""
    if period == "before" or event.type in ORDERS:
        return event
    tokens = {path: new_version(name) for path, name in event.tokens.items()}
    made = _anchored(replace(event, tokens=tokens))
    if period == "after":
        return made
    return replace(made, tokens=tokens | {f"{path}@1": name for path, name in event.tokens.items()})


def new_version(name: str) -> str:
    kind, _, digest = name.split(".")
    return f"{kind}.2.{hashlib.sha256(f'2 {kind} {digest}'.encode()).hexdigest()[:32]}"


def salted(case: Case) -> list[ProtectedEvent]:
    """The case's events with tokens and origins that no other case has."""
    salt = f"case {case.number}"

    def of(name: str) -> str:
        head, _, digest = name.rpartition(".")
        return f"{head}.{hashlib.sha256(f'{salt} {digest}'.encode()).hexdigest()[:32]}"

    made = []
    for event in case.events:
        origin = replace(event.origin, incarnation=f"{event.origin.incarnation}{salt}")
        tokens = {path: of(name) for path, name in event.tokens.items()}
        made.append(_anchored(replace(event, origin=origin, tokens=tokens)))
    return made


def rules_text(rng: random.Random) -> tuple[str, str]:
    """Texts of `identity.toml` and `computed.toml`."""
    if rng.random() < 0.1:
        return SHIPPED.replace("[consent.withhold]\n", WITHHOLD), COMPUTED
    lines = ["version = 1", "[kinds]"]
    names = [name for name in KINDS if rng.random() < 0.95] or list(KINDS)
    priorities = list(range(1, len(names) + 1))
    if rng.random() < 0.5:
        rng.shuffle(priorities)
    for name, priority in zip(names, priorities, strict=True):
        kind = [f"priority = {priority}"]
        if (limit := rng.choice((0, 0, 1, 1, 2, 3))) > 0:
            kind.append(f"limit = {limit}")
            if rng.random() < 0.4:
                span = rng.choice(("1h", "12h", "1d", "3d", "30d"))
                kind.append(f'window = "{span}"')
        if rng.random() < 0.3:
            kind.append(f"shared = {rng.randint(1, 4)}")
        if priority > 1 and rng.random() < 0.1:
            kind.append("links = false")
        lines.append(f"{name} = {{ {', '.join(kind)} }}")
    lines += ["[limits]", f"shared_neighbours = {rng.choice((1, 2, 3, 5, 10, 10))}"]
    lines.append(f"cluster_tokens = {rng.choice((2, 4, 8, 15, 1_000, 1_000))}")
    lines.append("[bounds]")
    for name in ("event_names", "traits", "sources", "conflicts", "consents", "groups", "members", "computed_values"):
        if rng.random() < 0.4:
            lines.append(f"{name} = {rng.randint(1, 4)}")
    lines += ["[duplicates]", f"window = {rng.choice((0, 64, 64, 64))}"]
    shown = rng.choice(('"traits.*"', '"traits.plan", "properties.*"', ""))
    lines += ["[traits]", f"clear = [{shown}]"]
    lines.append(f"max_bytes = {rng.choice((5, 2_048))}")
    if rng.random() < 0.5:
        lines.append(WITHHOLD)
    return "\n".join(lines), COMPUTED if rng.random() < 0.6 else ""


def drawn_events(rng: random.Random, *, twist: bool = True) -> list[ProtectedEvent]:
    count = rng.choice((rng.randint(1, 8), rng.randint(1, 40), rng.randint(25, 40)))
    made = events(rng, count, people=rng.choice((1, 2, 4, 8, 16)), decided=rng.choice((0, 0.1, 0.5)))
    if rng.random() < 0.4:
        made = mixed(rng, [made, _kiosk(rng)])
    if twist and rng.random() < 0.5:
        share = rng.choice((0.1, 0.4))
        made = [_twisted(rng, event) if rng.random() < share else event for event in made]
    return made


def _kiosk(rng: random.Random) -> list[ProtectedEvent]:
    """A few people in turns at one identifier, which is now and then seen alone."""
    kind = rng.choice(("email", "phone", "device_id", "device_id", "anonymous_id"))
    at = token(kind, rng.randrange(2))
    made = []
    for offset in range(rng.randint(3, 14)):
        person = token(rng.choice(("user_id", "email", "phone", "external_id", kind)), rng.randrange(4))
        tokens = {"kiosk": at} | ({"person": person} if rng.random() < 0.9 else {})
        received = START + offset * rng.choice((1, 1_000, DAY // 3))
        origin = Origin("events.raw", "", 3, offset)
        event = ProtectedEvent(
            "", origin, "kiosk", "track/1", "track", received, received, f"k-{offset}", "", None, tokens
        )
        made.append(_anchored(event))
    return made


def _twisted(rng: random.Random, event: ProtectedEvent) -> ProtectedEvent:
    """With something about it that is seldom."""
    changed: dict[str, Any] = {}
    tokens = dict(event.tokens)
    path, some = rng.choice(list(tokens.items()))
    match rng.randrange(8):
        case 0 | 1:
            changed["time"] = rng.choice(CLOCKS)
        case 2:
            changed["received_at"] = rng.choice((0, CLOCKS[-1], START, START + DAY))
        case 3:
            tokens[f"{path}.rotated"] = f"{kind_of(some)}.2.{token('rotated', int(some[-4:], 16))[-32:]}"
        case 4:
            tokens["at.unlisted"] = token(UNLISTED, rng.randrange(2))
            if rng.random() < 0.3:
                tokens = {"at.unlisted": tokens["at.unlisted"]}
        case 5:
            tokens["self"] = some
        case 6:
            changed["message_id"] = ""
        case 7:
            changed |= {"event": rng.choice((LONG, LONG + "too", "Bought")), "source": rng.choice((LONG, "shop"))}
    return _anchored(replace(event, tokens=tokens, **changed))


def _erasing(rng: random.Random, made: list[ProtectedEvent]) -> list[ProtectedEvent]:
    """With erasures of all identifiers of some events, or of one alone: markers anywhere in the raw partitions of a
    stream, of which one may be missing. The last partition may have been added later."""
    made = [_anchored(replace(e, origin=replace(e.origin, offset=1_000 + 1_000 * e.origin.offset))) for e in made]
    incarnation, partitions = rng.choice(("", "", "second")), rng.choice((3, 4, 4))
    offsets = dict.fromkeys(range(partitions), 0)
    at: dict[int, list[ProtectedEvent]] = {}  # place in `made` → markers before it
    subjects: list[str] = []
    for n in range(rng.choice((1, 1, 2, 4))):
        if not subjects or rng.random() < 0.5:
            victims = rng.choices(made, k=rng.choice((1, 1, 3)))
            subjects = sorted({token for victim in victims for token in (victim.anchor, *victim.tokens.values())})
            if rng.random() < 0.3:
                subjects = [rng.choice(victims).anchor]
        time = rng.choice((START, *(e.received_at for e in rng.choices(made, k=3))))
        around = rng.randint(0, len(made))
        apart = rng.choice((0, 2, len(made)))
        missing = rng.randrange(partitions) if rng.random() < 0.2 else -1
        for subject in subjects:
            for raw in range(partitions):
                if raw != missing:
                    place = min(max(0, around + rng.randint(-apart, apart)), len(made))
                    at.setdefault(place, []).append(
                        _marker(n, subject, Origin("events.raw", incarnation, raw, 0), time, partitions)
                    )
    found = []
    for place in range(len(made) + 1):
        for marker in at.get(place, ()):
            offsets[marker.origin.partition] += 1
            found.append(
                _anchored(replace(marker, origin=replace(marker.origin, offset=offsets[marker.origin.partition])))
            )
        if place < len(made):
            found.append(made[place])
            if made[place].origin.partition in offsets:
                offsets[made[place].origin.partition] = made[place].origin.offset
    return found


def _marker(n: int, subject: str, origin: Origin, time: int, partitions: int) -> ProtectedEvent:
    clear = {"erasure": f"{n % 2:032x}", "partitions": partitions}
    return ProtectedEvent(
        "",
        origin,
        "operator",
        "identity_erase/1",
        ERASE,
        time,
        time,
        f"e-{n}",
        subject,
        None,
        {"subject": subject},
        clear,
    )


def _coarse(made: list[ProtectedEvent], tick: int, *, received: bool) -> list[ProtectedEvent]:
    """By clocks that go forward once in `tick` ms, so that much happens at one time."""
    coarse = [replace(e, time=e.time // tick * tick) for e in made]
    if received:
        coarse = [replace(e, received_at=e.received_at // tick * tick) for e in coarse]
    return coarse


def _anchored(event: ProtectedEvent) -> ProtectedEvent:
    now = (name for path, name in event.tokens.items() if "@" not in path)
    return replace(event, event_id=event_id(event.origin).hex(), anchor=min(now, key=token_rank))


def arriving(rng: random.Random, made: Sequence[ProtectedEvent]) -> list[ProtectedEvent]:
    """All of them in some order, and some once more."""
    if any(event.type == ERASE for event in made):
        return _in_order(rng, made)
    order = list(made)
    match rng.randrange(4):
        case 0:
            order.reverse()
        case 1:
            order.sort(key=lambda e: e.time)
        case 2:
            rng.shuffle(order)
    for event in rng.choices(order, k=rng.randint(0, len(order))) if rng.random() < 0.5 else ():
        order.insert(rng.randint(0, len(order)), event)
    return order


def _in_order(rng: random.Random, made: Sequence[ProtectedEvent]) -> list[ProtectedEvent]:
    """Raw partitions in any order, each in its own, as the protect leg writes them. What an erasure leaves of other
    streams, and of partitions that were added later, comes after it."""
    queues: dict[tuple[str, int], list[ProtectedEvent]] = {}
    latest: dict[str, tuple[tuple[int, str], Origin, int]] = {}
    for event in made:
        queues.setdefault((event.origin.incarnation, event.origin.partition), []).append(event)
        if event.type == ERASE:
            this = event.time, event.clear["erasure"]
            if event.anchor not in latest or this > latest[event.anchor][0]:
                latest[event.anchor] = this, event.origin, event.clear["partitions"]
    order: list[ProtectedEvent] = []
    begun: set[str] = set()

    def waits(event: ProtectedEvent) -> bool:
        if event.type == ERASE or event.anchor not in latest or event.anchor in begun:
            return False
        (time, _), origin, partitions = latest[event.anchor]
        other = event.origin.incarnation != origin.incarnation or event.origin.partition >= partitions
        return other and event.received_at > time

    while queues:
        ready = [key for key, queue in queues.items() if not waits(queue[0])]
        key = rng.choice(ready)
        for _ in range(rng.choice((1, 1, 3, 100))):
            if key not in queues or waits(queues[key][0]):
                break
            event = queues[key].pop(0)
            if not queues[key]:
                del queues[key]
            order.append(event)
            if event.type == ERASE and (event.time, event.clear["erasure"]) == latest[event.anchor][0]:
                begun.add(event.anchor)
    for _ in range(rng.randint(0, len(order)) if rng.random() < 0.5 else 0):
        again = rng.randrange(len(order))
        order.insert(rng.randint(again + 1, len(order)), order[again])
    return order


def mixed(rng: random.Random, orders: Sequence[Sequence[ProtectedEvent]]) -> list[ProtectedEvent]:
    """All of them, each in its order."""
    rest = [iter(order) for order in orders]
    turns = [n for n, order in enumerate(orders) for _ in order]
    rng.shuffle(turns)
    return [next(rest[turn]) for turn in turns]
