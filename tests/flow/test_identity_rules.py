"""What the rules of identity do to profiles, one rule after the other, through the identify leg itself.

Mutations seen red: a shared token's owner goes on joining; nobody is told of a shared token; a full cluster goes on
growing; a profile that comes out of another one does not say so; a conflict shows on one side only; a link is held back
by limits; limits in arrival order; links are known for ever and not for a day; a decision counts only if its link is
new; nobody is told of a cap, or that it refuses nothing more, or that its root is none any more; told at each change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from pipeline.events import Alert, Feature, Origin, ProtectedEvent, Topic, event_id
from pipeline.ports import Effects
from pipeline.stages.identity_rows import token_rank, unpack_members
from pipeline.stages.link import Limits, Rules, load_rules

from .identity_world import RULES, World
from .test_identify import DAY, START, assert_each_token_knows_its_profile, events, expected, ran, rows_of, token


def of(offset: int, *tokens: str, time: int | None = None, type_: str = "track", partition: int = 0) -> ProtectedEvent:
    origin = Origin("events.raw", "", partition, offset)
    at = START + offset if time is None else time
    return ProtectedEvent(
        event_id(origin).hex(), origin, "shop", "track/1", type_, at, START + offset, f"m{partition}-{offset}",
        min(tokens, key=token_rank), None, {f"t{i}": t for i, t in enumerate(tokens)},
    )  # fmt: skip


def profiles(world: World) -> list[dict[str, Any]]:
    return [msgspec.json.decode(p) for p in world.profiles()]


def with_token(world: World, wanted: str) -> dict[str, Any]:
    (found,) = (p for p in profiles(world) if wanted in str(p["tokens"]))
    return found


def ruled(text: str) -> Rules:
    kinds = "\n".join(
        f"{name} = {{ priority = {kind.priority}, links = {str(kind.links).lower()} }}"
        for name, kind in RULES.kinds.items()
    )
    return load_rules(f"version = 1\n[kinds]\n{kinds}\n{text}")


def largest_cluster(world: World) -> int:
    rows = (v for w in world.workers for k, v in w.tables["evidence"].rows.items() if k[:1] != b"\0")
    return max((len(unpack_members(row)[0]) for row in rows), default=0)


USERS = [token("user_id", i) for i in range(200)]
DEVICES = [token("device_id", i) for i in range(200)]
MAIL, PHONE = token("email", 0), token("phone", 0)


@pytest.mark.parametrize("partitions", [1, 5])
def test_a_kiosk_joins_nobody_and_what_hangs_together_stays_small(partitions: int) -> None:
    made = [of(i, USERS[i], DEVICES[0]) for i in range(150)] + [of(500, DEVICES[0])]
    world = World(partitions)
    for event in made:
        world.publish(event)
        world.settle()
    assert world.profiles() == expected(made)
    assert len(world.profiles()) == 151
    assert with_token(world, DEVICES[0])["conflicts"] == [{"tokens": [DEVICES[0]], "rule": "shared"}]
    for user in (USERS[0], USERS[149]):
        (conflict,) = with_token(world, user)["conflicts"]
        assert conflict["rule"] == "shared"
        assert DEVICES[0] in conflict["tokens"]
    assert largest_cluster(world) <= RULES.limits.shared_neighbours + 2


@pytest.mark.parametrize("partitions", [1, 5])
def test_a_neighbour_that_is_shared_counts_as_one_whatever_was_known_when_it_came(partitions: int) -> None:
    rules = ruled("[limits]\nshared_neighbours = 1\n")
    anonymous = token("anonymous_id", 0)
    made = [of(1, USERS[0], MAIL), of(2, USERS[1], MAIL), of(3, MAIL, anonymous), of(4, PHONE, anonymous)]
    for order in (made, made[::-1]):
        world = World(partitions, rules)
        for event in order:
            world.publish(event)
            world.settle()
        assert world.profiles() == expected(made, rules)
    assert anonymous not in str(with_token(world, PHONE)["tokens"])


@pytest.mark.parametrize("partitions", [1, 5])
def test_who_is_told_of_a_shared_identifier_goes_by_the_order_of_anchors_whatever_the_priorities(
    partitions: int,
) -> None:
    rules = load_rules(
        "version = 1\n[kinds]\ndevice_id = { priority = 1 }\nemail = { priority = 2, shared = 2 }\n"
        "user_id = { priority = 3 }\n"
    )
    made = [of(i, MAIL, DEVICES[i]) for i in range(9)] + [of(20 + i, USERS[i], MAIL) for i in range(3)]
    made += [of(40 + i, DEVICES[i]) for i in range(9)]
    world = World(partitions, rules)
    for event in made:
        world.publish(event)
        world.settle()
    assert world.profiles() == expected(made, rules)
    assert {"conflicts" in with_token(world, DEVICES[i]) for i in range(9)} == {False}
    assert {"conflicts" in with_token(world, USERS[i]) for i in range(3)} == {True}


def test_a_full_cluster_grows_no_more_and_nothing_is_lost() -> None:
    rules = ruled("[limits]\ncluster_tokens = 10\ncomponent_tokens = 10\n")
    made = [of(i, DEVICES[i], DEVICES[i + 1]) for i in range(100)]
    world = World(3, rules)
    for event in made:
        world.publish(event)
        world.settle()
    assert largest_cluster(world) <= 2 * 10
    assert sum(sum(p["events"].values()) for p in profiles(world)) == 100
    assert len(list(world.records(Topic.RESOLVED))) == 100
    told = {c["rule"] for p in profiles(world) for c in p.get("conflicts", [])}
    assert "component_tokens" in told
    assert world.alarmed() == world.capped() != set()


def test_on_call_is_told_when_a_profile_reaches_its_cap_and_when_it_is_below_it_again() -> None:
    rules = ruled("[limits]\ncluster_tokens = 3\n")
    world = World(3, rules)
    for event in [of(n, USERS[0], DEVICES[n]) for n in range(3)]:
        assert world.alarmed() == set()
        world.publish(event)
        world.settle()
    root = f"size_cap:token={USERS[0]}"
    assert world.alarmed() == world.capped() == {root}
    (alert,) = (msgspec.json.decode(r.value or b"", type=Alert) for r in world.records(Topic.ALERTS))
    assert (alert.kind, alert.features) == ("size_cap", [Feature("identifiers", 4, 3)])
    world.publish(of(5, USERS[0], DEVICES[0]))
    world.settle()
    assert len(list(world.records(Topic.ALERTS))) == 1
    world.publish(of(6, USERS[0], DEVICES[2], type_="cut"))
    world.settle()
    assert world.alarmed() == world.capped() == set()


def test_a_capped_root_that_joins_another_is_no_root_to_be_told_of() -> None:
    world = World(3, ruled("[limits]\ncluster_tokens = 3\n"))
    low, high = sorted(USERS[:2], key=token_rank)
    for n in range(3):
        world.publish(of(n, high, DEVICES[n]))
    world.settle()
    assert world.alarmed() == {f"size_cap:token={high}"}
    world.publish(of(9, low, DEVICES[0]))
    world.settle()
    assert world.alarmed() == world.capped() == {f"size_cap:token={low}"}


def test_a_device_goes_to_whom_it_was_seen_with_first_whatever_arrived_first() -> None:
    late = of(9, USERS[1], DEVICES[0], time=START - 1_000)
    world = ran([of(1, USERS[0], DEVICES[0]), of(2, DEVICES[0])], 4)
    assert DEVICES[0] in str(with_token(world, USERS[0])["tokens"])
    world.publish(late)
    world.settle()
    assert DEVICES[0] in str(with_token(world, USERS[1])["tokens"])
    assert DEVICES[0] not in str(with_token(world, USERS[0])["tokens"])
    for user in USERS[:2]:
        (conflict,) = with_token(world, user)["conflicts"]
        assert conflict == {"tokens": sorted((USERS[0], DEVICES[0])), "rule": "limit.user_id", "time": START + 1}


def test_a_cut_parts_them_says_from_whom_and_a_later_link_joins_them_again() -> None:
    made = [of(1, MAIL, DEVICES[0]), of(2, PHONE, DEVICES[0]), of(3, PHONE), of(4, MAIL)]
    world = ran(made, 3)
    (one,) = profiles(world)
    made.append(of(5, MAIL, PHONE, type_="cut"))
    world.publish(made[-1])
    world.settle()
    assert world.profiles() == expected(made)
    first, second = with_token(world, MAIL), with_token(world, PHONE)
    assert first["profile_id"] == one["profile_id"]
    headers = [r.headers for r in world.records(Topic.PROFILES) if r.key == str(second["profile_id"]).encode()]
    assert (("split_from", str(one["profile_id"]).encode()),) in headers
    assert {c["rule"] for p in (first, second) for c in p["conflicts"]} == {"cut"}
    made.append(of(6, MAIL, PHONE, type_="link"))
    world.publish(made[-1])
    world.settle()
    assert world.profiles() == expected(made)
    assert [p["profile_id"] for p in profiles(world)] == [one["profile_id"]]
    assert world.merged()[str(second["profile_id"])] == one["profile_id"]


def test_a_link_joins_what_limits_and_sharing_forbid() -> None:
    made = [of(i, USERS[i], DEVICES[0]) for i in range(60)]
    made += [of(100, USERS[0], DEVICES[0], type_="link"), of(101, USERS[0], USERS[1], type_="link")]
    world = ran(made, 4)
    assert world.profiles() == expected(made)
    assert with_token(world, USERS[0]) is not None
    assert with_token(world, USERS[0])["tokens"] == {"device_id": [DEVICES[0]], "user_id": sorted(USERS[:2])}


@pytest.mark.parametrize("partitions", [1, 4])
def test_only_decisions_make_no_profile(partitions: int) -> None:
    made = [of(1, MAIL, PHONE, type_="link"), of(2, USERS[0], PHONE, type_="cut")]
    world = ran(made, partitions)
    assert world.profiles() == expected(made) == []
    made.append(of(3, PHONE))
    world.publish(made[-1])
    world.settle()
    assert world.profiles() == expected(made)
    assert with_token(world, MAIL)["events"] == {"track": 1}


def test_two_users_on_one_device_in_turns_for_a_year() -> None:
    made = [
        of(i, *pair, time=START + i * DAY // 2)
        for i in range(730)
        for pair in [(USERS[i % 2], DEVICES[0], token("anonymous_id", 0)) if i % 3 else (DEVICES[0],)]
    ]
    world = ran(made, 3)
    assert world.profiles() == expected(made)
    assert len(profiles(world)) == 2


def test_clocks_of_1970_and_2100_and_aliases_in_a_circle_and_to_itself() -> None:
    anonymous = [token("anonymous_id", i) for i in range(5)]
    circle = [of(i, anonymous[i], anonymous[(i + 1) % 5], type_="alias") for i in range(5)]
    made = [
        *circle,
        of(10, anonymous[0], anonymous[0], type_="alias"),
        of(11, USERS[0], anonymous[2], time=0),
        of(12, USERS[1], anonymous[3], time=4_102_444_800_000),
        of(13, USERS[0], MAIL, time=-1),
    ]
    world = ran(made, 4)
    assert world.profiles() == expected(made)
    assert with_token(world, USERS[0])["first_seen"] == -1


GROUPS = [token("group_id", i) for i in range(3)]


@pytest.mark.parametrize("partitions", [1, 5])
def test_a_group_has_a_profile_of_its_own_with_its_members(partitions: int) -> None:
    rules = ruled("[bounds]\nmembers = 3\n")
    made = [of(i, USERS[i], GROUPS[0], time=START + i * DAY) for i in range(5)] + [of(9, USERS[0], GROUPS[1])]
    world = ran(made, partitions, rules=rules)
    assert world.profiles() == expected(made, rules)
    group = with_token(world, GROUPS[0])
    assert list(group["members"]) == sorted(USERS[:5])[:3]
    assert group["more_members"] is True
    small = with_token(world, GROUPS[1])
    assert small["members"] == {USERS[0]: {"first": START + 9, "last_day": (START + 9) // DAY * DAY}}
    assert "more_members" not in small
    made.append(of(10, GROUPS[1]))
    world.publish(made[-1])
    world.settle()
    assert world.profiles() == expected(made, rules)
    own = with_token(world, GROUPS[1])
    assert own["members"] == small["members"]
    assert world.merged()[str(small["profile_id"])] == own["profile_id"]


def test_a_group_that_joins_by_the_rules_is_left_by_nobody_who_is_erased() -> None:
    """It has no members but a profile, which it went on to forget."""
    rules = load_rules("version = 1\n[kinds]\nuser_id = { priority = 1 }\ngroup_id = { priority = 2 }\n")
    world = World(2, rules)
    other, group = token("email", 1), token("group_id", 1)
    world.publish(of(1, USERS[0], group))
    world.publish(of(2, other, group))
    world.settle()
    clear = {"erasure": "0" * 32, "partitions": 1}
    world.publish(structs.replace(of(3, other, type_="erase"), clear=clear))
    world.settle()
    assert_each_token_knows_its_profile(world)
    assert rows_of(world)[group].profile.hex() == with_token(world, USERS[0])["profile_id"]


def test_who_was_with_somebody_erased_forgets_that_profile_though_the_cluster_had_left_the_cache() -> None:
    world = World(1, cached=4)
    for n in range(8):
        world.publish(of(n, USERS[n], DEVICES[n]))
        world.settle()
    assert rows_of(world)[DEVICES[0]].profile
    clear = {"erasure": "0" * 32, "partitions": 1}
    world.publish(structs.replace(of(9, USERS[0], type_="erase"), clear=clear))
    world.settle()
    assert rows_of(world)[DEVICES[0]].profile == b""


def test_an_identifier_was_last_seen_on_the_latest_day_whatever_arrived_last() -> None:
    days = (5, 3, 5)
    made = [of(i, USERS[0], *[DEVICES[0]] * (i > 0), time=START + day * DAY) for i, day in enumerate(days)]
    world = ran(made, 1)
    assert world.profiles() == expected(made)


@settings(max_examples=80)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_other_rules_divide_again_what_was_there_and_give_the_profiles_that_they_would_have_given(
    seed: int, partitions: int
) -> None:
    rng = random.Random(seed)
    made = events(rng, 30)
    limits = {name: msgspec.structs.replace(kind, limit=rng.choice((0, 1, 2))) for name, kind in RULES.kinds.items()}
    other = msgspec.structs.replace(RULES, kinds=limits, limits=Limits(cluster_tokens=rng.choice((3, 100))))
    one, another = (RULES, other) if rng.random() < 0.5 else (other, RULES)
    world = ran(made, partitions, rng, one)
    assert world.profiles() == expected(made, one)
    world.under(another)
    assert world.profiles() == expected(made, another)
    assert_each_token_knows_its_profile(world)
    before = [len(log) for log in world.topics[Topic.PROFILES]]
    world.under(another)
    assert [len(log) for log in world.topics[Topic.PROFILES]] == before, "nothing is left to be done"


def test_an_identifier_in_very_many_events_takes_no_more_room() -> None:
    made = [of(i, USERS[0], DEVICES[0]) for i in range(2_000)]
    world = ran(made, 2)
    sizes = [len(v) for w in world.workers for t in w.tables.values() for v in t.rows.values()]
    assert max(sizes) < 4_096
    assert rows_of(world)[DEVICES[0]].profile == rows_of(world)[USERS[0]].profile


def test_more_links_than_are_kept_are_counted_and_their_events_too() -> None:
    rules = ruled("")
    made: Iterable[ProtectedEvent] = (of(i, USERS[0], token("anonymous_id", i)) for i in range(1_100))
    world = World(2, rules)
    for event in made:
        world.publish(event)
    overflow = 0
    while waiting := world.waiting():
        for worker, topic in waiting:
            world.take(worker, topic, 500)
            drain = worker.part.drain

            def counted(drain: Callable[[], Effects] = drain) -> Effects:
                nonlocal overflow
                effects = drain()
                overflow += effects.counts.get(("overflow", "link"), 0)
                return effects

            worker.part.drain = counted  # type: ignore[method-assign]
            world.checkpoint(worker)
            del worker.part.drain
    assert overflow == 100
    assert with_token(world, USERS[0])["events"] == {"track": 1_100}
