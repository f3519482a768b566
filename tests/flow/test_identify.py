"""Profiles are a function of the set of events: whatever the order, the repetition, the partitions and the crashes.

Each test compares what stands on `profiles` with what `stages.recompute` makes of the same events by other code.

Mutations seen red: an origin counts twice; the last event to arrive writes a trait; a merge ships no evidence; the
state before the messages; evidence is not handed on; a bent pointer joins nobody; a lost life's ids stay announced;
nothing is said again after a former owner has spoken; only roots say it again; tokens are not told their root again;
what changed no row leaves no trace.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import Origin, ProtectedEvent, RawRecord, SourceBatch, Topic, event_id
from pipeline.flow.identify import IdentifyLeg
from pipeline.ports import STATE, Streaming
from pipeline.stages.identity_rows import Evidence, Row, decode_row, encode, message_decoder, pack, token_rank, unpack
from pipeline.stages.link import Rules, load_rules
from pipeline.stages.normalize import KINDS
from pipeline.stages.recompute import recompute
from pipeline.stages.size_cap import CAPS

from .identity_world import RULES, SHIPPED, MemoryTable, World

START = 1_790_000_000_000
DAY = 24 * 3_600_000
TIGHT = load_rules(
    """
    version = 1
    [kinds]
    user_id = { priority = 1, limit = 1 }
    email = { priority = 2, limit = 2, shared = 1 }
    phone = { priority = 3, limit = 1, window = "12h" }
    external_id = { priority = 4, shared = 4 }
    advertising_id = { priority = 5, limit = 1 }
    device_id = { priority = 6, limit = 2, shared = 2 }
    push_token = { priority = 7, limit = 2, window = "1d" }
    anonymous_id = { priority = 8, shared = 3 }
    group_id = { priority = 9, links = false }
    [limits]
    cluster_tokens = 6
    [bounds]
    conflicts = 3
    [traits]
    clear = ["traits.*"]
    """
)
"""Rules that bind whenever a few people share something."""
SEEDS = st.integers(0, 2**32)


def token(kind: str, number: int) -> str:
    return f"{kind}.1.{hashlib.sha256(f'{kind} {number}'.encode()).hexdigest()[:32]}"


def events(rng: random.Random, count: int, people: int = 4, decided: float = 0.1) -> list[ProtectedEvent]:
    """Events of a few people who share devices, addresses and telephones, in the order of their raw partitions.

    One in five is a message that was sent before, mostly as it was. `decided`: how often one is an operator's decision.
    """
    offsets = [0, 0, 0]
    made: list[ProtectedEvent] = []
    for _ in range(count):
        raw = rng.randrange(3)
        offsets[raw] += rng.choice((1, 1, 1, 4))
        received = START + rng.choice((0, 0, 0, DAY // 2, DAY, 5 * DAY)) + rng.choice((7, rng.randrange(2_000)))
        origin = Origin("events.raw", rng.choice(("", "second")), raw, offsets[raw])
        if made and rng.random() < 0.2:
            copy = rng.choice(made)
            changed: dict[str, Any] = {"event_id": event_id(origin).hex(), "origin": origin, "received_at": received}
            if rng.random() < 0.3:
                changed["time"] = received - rng.randrange(4 * DAY)
                changed["clear"] = clear(rng)
            made.append(msgspec.structs.replace(copy, **changed))
            continue
        kinds = rng.sample(list(KINDS), rng.choice((1, 1, 2, 2, 3)))
        tokens = {f"at.{kind}": token(kind, rng.randrange(people)) for kind in kinds}
        type_ = rng.choice(("link", "cut")) if len(kinds) == 2 and rng.random() < decided else "track"
        if people > 1 and len(kinds) == 2 and rng.random() < 0.1:
            tokens = {f"at.{n}": token(kinds[0], n) for n in rng.sample(range(people), 2)}  # an alias
        made.append(
            ProtectedEvent(
                event_id(origin).hex(),
                origin,
                rng.choice(("shop", "app", "desk")),
                rng.choice(("track/1", "track/2")),
                type_,
                received - rng.choice((0, rng.randrange(500), rng.randrange(4 * DAY))),
                received,
                f"m-{raw}-{offsets[raw]}",
                min(tokens.values(), key=token_rank),
                rng.choice(("Viewed", "Bought", None)),
                tokens,
                clear(rng),
            )
        )
    return made


def clear(rng: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"traits": {rng.choice(("plan", "tier")): rng.choice(("free", "pro", 7, None))}}
    if rng.random() < 0.6:
        made["properties"] = {
            "total": rng.choice((1, 0.1, 0.2, 19.99, -3, 1e14, "5", True, None)),
            "item": rng.choice(("pen", "ink", 7, None, "x" * 300)),
        }
    if rng.random() < 0.2:
        said = {rng.choice(("Ads", "Mail", "Sharing", "Other", "not plain")): rng.choice((True, False, False, "no"))}
        made["context"] = {"locale": "de", "consent": {"categoryPreferences": said}}
    return made


def expected(made: Iterable[ProtectedEvent], rules: Rules = RULES) -> list[bytes]:
    return list(recompute((msgspec.json.encode(e) for e in made), rules))


def ran(
    made: Iterable[ProtectedEvent], partitions: int, rng: random.Random | None = None, rules: Rules = RULES
) -> World:
    """The events published and worked on; with `rng` by a random schedule with crashes."""
    world = World(partitions, rules)
    for event in made:
        world.publish(event)
    if rng is not None:
        world.wander(rng, 80, crash=0.2)
    world.settle()
    return world


def rows_of(world: World) -> dict[str, Row]:
    return {unpack(k): decode_row(v) for w in world.workers for k, v in w.tables["tokens"].rows.items()}


def assert_each_token_knows_its_profile(world: World) -> None:
    rows = rows_of(world)
    for profile in map(msgspec.json.decode, world.profiles()):
        for tokens in profile["tokens"].values():
            for at in tokens:
                assert rows[at].profile.hex() == profile["profile_id"]


@settings(max_examples=200)
@given(SEEDS, st.integers(1, 12), st.integers(1, 40), st.sampled_from((RULES, TIGHT, TIGHT)))
def test_any_schedule_with_crashes_comes_to_what_one_pass_computes(
    seed: int, partitions: int, count: int, rules: Rules
) -> None:
    rng = random.Random(seed)
    made = events(rng, count, people=rng.choice((2, 4, 8)))
    world = World(partitions, rules, cached=rng.choice((1, 9, 1_000)))
    for event in made:
        world.publish(event)
    crash = rng.choice((0.0, 0.2))
    world.wander(rng, 40 + 2 * count, crash=crash)
    assert world.profiles() == expected(made, rules)
    assert_each_token_knows_its_profile(world)
    assert world.alarmed() >= world.capped()
    assert crash or world.alarmed() == world.capped()  # a crash may take back why somebody was told
    if any(c["rule"] in CAPS for p in world.profiles() for c in msgspec.json.decode(p).get("conflicts", ())):
        assert world.capped()


@pytest.mark.parametrize(("seed", "count"), [(3505, 8), (144, 30)])
def test_schedules_that_once_failed(seed: int, count: int) -> None:
    """A pointer that alone joined two roots was bent; an id was announced by a life that a crash took back."""
    rng = random.Random(seed)
    made = events(rng, count, people=3)
    world = World(4, cached=1_000)
    for event in made:
        world.publish(event)
    world.wander(rng, 60 if count == 8 else 300, crash=0.3)
    assert world.profiles() == expected(made)


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 4), st.integers(5, 40))
def test_a_former_owner_that_wakes_up_has_not_the_last_word(seed: int, partitions: int, count: int) -> None:
    rng = random.Random(seed)
    made = events(rng, count, people=2)
    rules = rng.choice((RULES, TIGHT))
    world = World(partitions, rules, cached=rng.choice((1, 1_000)))
    for event in made[: count // 2]:
        world.publish(event)
    world.wander(rng, 10, crash=0.1)
    for event in made[count // 2 :]:
        world.publish(event)
    heir = rng.choice(world.workers)
    for worker, topic in world.waiting():
        if worker is heir:
            world.take(worker, topic, rng.randint(1, 20))
    former = world.replaced(heir)
    if rng.random() < 0.7:
        world.settle()
    world.wake(former, heir)
    world.settle()
    assert world.profiles() == expected(made, rules)
    assert_each_token_knows_its_profile(world)


@pytest.mark.parametrize("bare", [False, True], ids=["handed on", "say it again"])
def test_a_former_owner_that_changed_no_row_is_noticed_as_well(bare: bool) -> None:
    made = events(random.Random(3), 40, people=1)
    world = ran(made[:20], 1)
    (heir,) = world.workers
    rows = heir.tables["tokens"].rows
    moved = next(
        m
        for m in world.records(Topic.IDENTITY)
        if getattr(message_decoder.decode(m.value or b""), "moved", False)
        and not decode_row(rows[pack((m.key or b"").decode())]).parent
    )
    assert moved.key is not None
    world.append(Topic.IDENTITY, moved.key, encode(Evidence([], True)) if bare else moved.value, moved.timestamp)
    world.take(heir, Topic.IDENTITY, 1)
    former = world.replaced(heir)
    for event in made[20:]:
        world.publish(event)
    world.settle()
    assert world.profiles() == expected(made)
    world.wake(former, heir)
    assert world.profiles() != expected(made), "the former owner was the last to speak"
    world.settle()
    assert world.profiles() == expected(made)


@settings(max_examples=80)
@given(SEEDS, st.integers(1, 6), st.integers(1, 6))
def test_order_repetition_and_the_number_of_partitions_are_no_matter(seed: int, first: int, second: int) -> None:
    rng = random.Random(seed)
    made = events(rng, 30)
    again = [*made, *rng.choices(made, k=15)]
    rng.shuffle(again)
    rules = rng.choice((RULES, TIGHT))
    one, other = ran(made, first, rules=rules), ran(again, second, rules=rules)
    assert one.profiles() == other.profiles() == expected(made, rules)


@settings(max_examples=60)
@given(SEEDS)
def test_an_id_that_was_ever_announced_leads_to_a_profile(seed: int) -> None:
    rng = random.Random(seed)
    made = events(rng, 30)
    world = ran(made, 3, rng)
    live = {msgspec.json.decode(p)["profile_id"] for p in world.profiles()}
    merged = world.merged()
    for ident in world.latest():
        for _ in range(len(merged) + 1):
            if ident in live:
                break
            ident = merged[ident]
        assert ident in live


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 5))
def test_pointers_of_a_person_lead_to_one_root_that_ranks_first_and_never_in_a_circle(
    seed: int, partitions: int
) -> None:
    rng = random.Random(seed)
    made = events(rng, 30)
    rows = rows_of(ran(made, partitions, rng))
    for profile in map(msgspec.json.decode, expected(made)):
        roots = set()
        for at in (token for tokens in profile["tokens"].values() for token in tokens):
            while rows[at].parent:
                assert token_rank(unpack(rows[at].parent)) < token_rank(at)
                at = unpack(rows[at].parent)
            roots.add(at)
        assert len(roots) == 1


def test_each_event_leaves_with_the_id_of_its_profile_and_nothing_else_changed() -> None:
    made = events(random.Random(5), 40)
    world = ran(made, 4)
    resolved = list(world.records(Topic.RESOLVED))
    assert len(resolved) == len(made)
    originals = {e.event_id: msgspec.json.encode(e) for e in made}
    for record in resolved:
        assert record.key is not None
        assert record.value is not None
        found = msgspec.json.decode(record.value)
        assert found["profile_id"] == record.key.decode()
        assert record.value == originals[found["event_id"]].replace(b"{", b'{"profile_id":"%b",' % record.key, 1)


def test_the_older_profile_keeps_its_id_when_two_merge() -> None:
    first, second = token("email", 1), token("email", 2)
    user = token("user_id", 1)

    def of(offset: int, *tokens: str) -> ProtectedEvent:
        origin = Origin("events.raw", "", 0, offset)
        return ProtectedEvent(
            event_id(origin).hex(), origin, "s", "track/1", "track", START, START + offset, f"m-{offset}", tokens[0],
            None, {f"t{i}": t for i, t in enumerate(tokens)},
        )  # fmt: skip

    world = World(3)
    for event in (of(1, first), of(2, second)):
        world.publish(event)
    world.settle()
    older, younger = sorted(map(msgspec.json.decode, world.profiles()), key=lambda p: p["tokens"]["email"] != [first])
    for event in (of(3, user, first), of(4, user, second)):
        world.publish(event)
    world.settle()
    (profile,) = map(msgspec.json.decode, world.profiles())
    assert profile["profile_id"] == older["profile_id"]
    assert world.merged()[younger["profile_id"]] == older["profile_id"]
    assert profile["events"] == {"track": 4}


def test_an_event_whose_anchor_gives_up_its_cluster_on_the_way_is_told_of_as_a_whole() -> None:
    first, second = sorted(token("user_id", n) for n in (1, 2))
    origin = Origin("events.raw", "", 0, 0)
    tokens = {"userId": second, "previousId": first, "anonymousId": token("anonymous_id", 1)}
    event = ProtectedEvent(
        event_id(origin).hex(), origin, "s", "alias/1", "alias", START, START, "m", second, None, tokens
    )
    rules = load_rules(SHIPPED.replace("limit = 1 }", "limit = 2 }"))
    assert ran([event], 3, rules=rules).profiles() == expected([event], rules)
    assert len(msgspec.json.decode(expected([event], rules)[0])["tokens"]) == 2


def test_what_is_not_from_the_protect_leg_is_counted_and_harms_nobody() -> None:
    leg = IdentifyLeg(RULES)
    part = leg.open(0, {name: MemoryTable() for name in leg.tables})
    good = events(random.Random(1), 1, decided=0)[0]
    value = msgspec.json.encode(good)
    records = [
        RawRecord(0, START, b"another key", value),
        RawRecord(1, START, good.anchor.encode(), value),
        RawRecord(2, START, None, None),
        RawRecord(3, START, b"\xff", b"\xff"),
        RawRecord(4, START, b"x", value.replace(good.anchor.encode(), b"x")),
        RawRecord(5, START, good.anchor.encode(), value.replace(good.source.encode(), b"\xff")),
        RawRecord(6, START, good.anchor.encode(), value[:-1] + b',"new":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ]
    part.on_batch(SourceBatch(Topic.PROTECTED.value, "", 0, records))
    part.on_batch(SourceBatch(Topic.IDENTITY.value, "", 0, [RawRecord(0, START, b"\xff", b"\xc1"), records[2]]))
    counts = part.drain().counts
    assert counts[("resolved", "")] == 1
    assert counts[("undecodable", "")] == 8


def test_repeated_messages_and_what_could_not_be_used_are_counted() -> None:
    leg = IdentifyLeg(RULES)
    part = leg.open(0, {name: MemoryTable() for name in leg.tables})
    first = msgspec.structs.replace(
        events(random.Random(1), 1, decided=0)[0],
        event="Bought",
        clear={"properties": {"total": "7"}, "context": {"consent": {"categoryPreferences": {"a b": True, "Ads": 0}}}},
    )
    again = msgspec.structs.replace(first, origin=Origin("events.raw", "", 0, 99), received_at=first.received_at - 1)
    key = first.anchor.encode()
    records = [RawRecord(i, START, key, msgspec.json.encode(e)) for i, e in enumerate((first, again, first))]
    part.on_batch(SourceBatch(Topic.PROTECTED.value, "", 0, records))
    counts = part.drain().counts
    assert (counts["resolved", ""], counts["duplicate", ""], counts["repeated", ""]) == (3, 1, 1)
    assert (counts["ignored", "consent"], counts["ignored", "computed"]) == (4, 4)  # of both, two traits sum it


def test_the_tables_change_after_everything_that_a_replay_would_not_send_again() -> None:
    leg = IdentifyLeg(RULES)
    phases = leg.open(0, {name: MemoryTable() for name in leg.tables}).drain().phases
    assert phases[-1] == STATE
    assert {topic for phase in phases if isinstance(phase, dict) for topic in phase} == {
        Topic.PROFILES.value,
        Topic.RESOLVED.value,
        Topic.IDENTITY.value,
        Topic.ALERTS.value,
    }


def test_events_may_leave_before_the_state_that_they_made_each_once() -> None:
    leg = IdentifyLeg(RULES)
    part = leg.open(0, {name: MemoryTable() for name in leg.tables})
    made = events(random.Random(1), 9, decided=0)
    records = [RawRecord(i, START, e.anchor.encode(), msgspec.json.encode(e)) for i, e in enumerate(made)]
    part.on_batch(SourceBatch(Topic.PROTECTED.value, "", 0, records[:6]))
    assert isinstance(part, Streaming)
    held = part.held()
    assert held >= len({e.anchor for e in made[:6]})
    (early,) = part.outputs().values()
    assert part.held() == held
    assert part.outputs() == {Topic.RESOLVED: []}
    part.on_batch(SourceBatch(Topic.PROTECTED.value, "", 0, records[6:]))
    effects = part.drain()
    (late,) = (phase[Topic.RESOLVED] for phase in effects.phases if isinstance(phase, dict) and Topic.RESOLVED in phase)
    left = [msgspec.json.decode(out.value or b"")["event_id"] for out in (*early, *late)]
    assert left == [e.event_id for e in made]
    assert effects.counts["resolved", ""] == 9
    assert part.held() == 0
    assert ("resolved", "") not in part.drain().counts


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_group_joins_nobody(partitions: int) -> None:
    made = []
    for i in range(3):
        origin = Origin("events.raw", "", 0, i)
        tokens = {"userId": token("user_id", i), "groupId": token("group_id", 1)}
        made.append(
            ProtectedEvent(
                event_id(origin).hex(),
                origin,
                "s",
                "group/1",
                "group",
                START,
                START,
                "m",
                tokens["userId"],
                None,
                tokens,
            )
        )
    found = [msgspec.json.decode(p)["tokens"] for p in ran(made, partitions).profiles()]
    assert sorted(kind for tokens in found for kind in tokens) == ["group_id", *["user_id"] * 3]
