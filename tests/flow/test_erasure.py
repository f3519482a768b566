"""Erasures: what an operator sends, and what becomes of the identifiers that it names.

That any order of raw partitions, any repetition and any crash come to what `recompute` says is `tests.proof`'s part.

Mutations seen red: here, another source may erase; what is no token, no name or no number of partitions passes; other
fields are sealed; the marker's time is that of the event; the told id is kept; a decision that was erased goes on; an
event that does not count has an effect on groups, or is resolved as its profile's; a copy of an erased event is
repeated. By the proof's cases: links stay; no tombstone is sent, or the id is merged into another; what is before a
marker that is on its way counts, for the leg or for the oracle; markers count by time and not by place; other streams
count whole; the messages of before are remembered; a group keeps the member, or loses the place; a former owner's word
brings a member back; what had met is forgotten, or not noted of what does not count; the last marker to arrive erases,
or each one; marks are not noted; who is known to the root is not told again, or only where he says nothing new.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from pipeline.errors import Misuse
from pipeline.events import Origin, ProtectedEvent, Topic, event_id
from pipeline.stages.decision import SOURCE
from pipeline.stages.identity_rows import Left, Member, Row, encode, group_id
from pipeline.stages.link import Rules
from pipeline.stages.recompute import recompute
from pipeline.stages.reference import profile_id, unerased
from pipeline.stages.schema import parse
from tests.flow.identity_world import Worker, World, partition_of
from tests.flow.test_identify import rows_of
from tests.stages.event_world import RECEIVED, Leg, document, envelope, field, registry
from tests.stages.identity_events import RULES, device, email, erasure, rules, seen, token, user

OPERATOR = (("source-id", SOURCE.encode()),)
NAME = "0123456789abcdef" * 2
GROUP = token("group_id", 1)


# -- through the protect leg ------------------------------------------------------------------------------------------


def sent(**fields: Any) -> dict[str, Any]:
    made = {
        "type": "erase",
        "messageId": "m",
        "timestamp": 5,
        "subject": user(1),
        "erasure": NAME,
        "partitions": 12,
    }
    return {name: value for name, value in {**made, **fields}.items() if value is not None}


def test_a_marker_becomes_a_protected_event_of_its_subject_with_nothing_sealed() -> None:
    side, found = Leg().one(sent(), headers=OPERATOR)
    assert side == "protected"
    assert (found["type"], found["schema"], found["anchor"]) == ("erase", "identity_erase/1", user(1))
    assert found["tokens"] == {"subject": user(1)}
    assert found["clear"] == {"erasure": NAME, "partitions": 12}
    assert "sealed" not in found
    assert "key" not in found


def test_its_time_is_the_same_on_every_partition_even_if_the_operators_clock_is_ahead() -> None:
    assert Leg().one(sent(timestamp=RECEIVED + 60_000), headers=OPERATOR)[1]["time"] == RECEIVED + 60_000


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"subject": "a@example.com"}, "bad_identifier", "subject"),
        ({"subject": ""}, "no_identifier", "subject"),
        ({"subject": None}, "missing_field", "subject"),
        ({"timestamp": None}, "missing_field", "timestamp"),
        ({"erasure": None}, "missing_field", "erasure"),
        ({"erasure": NAME[1:]}, "bad_value", "erasure"),
        ({"erasure": NAME.upper()}, "bad_value", "erasure"),
        ({"erasure": NAME + "\n"}, "bad_value", "erasure"),
        ({"partitions": 0}, "bad_value", "partitions"),
        ({"partitions": "many"}, "bad_type", "partitions"),
        ({"userId": "u-1"}, "bad_value", ""),
        ({"sentAt": 7}, "bad_value", ""),
    ],
)
def test_what_is_wrong_is_rejected_by_field_and_rule(fields: dict[str, Any], reason: str, path: str) -> None:
    side, found = Leg().one(sent(**fields), headers=OPERATOR)
    assert (side, found["reason"], found.get("path", "")) == ("rejected", reason, path)


@pytest.mark.parametrize("headers", [(), (("source-id", b"shop"),)])
def test_nobody_else_erases(headers: Any) -> None:
    side, found = Leg().one(sent(), headers=headers)
    assert (side, found["reason"], found["path"]) == ("rejected", "wrong_source", "source-id")


def test_the_schema_is_shipped_and_allows_nothing_else() -> None:
    assert "erase" in registry().generic
    own = json.loads(json.dumps(registry().generic["erase"].schema.avro))
    own["fields"] = [f for f in own["fields"] if f["name"] not in ("type", "messageId")]
    parse("made", 1, own, envelope())
    for wrong in (
        {**own, "fields": own["fields"][1:]},
        {**own, "fields": [*own["fields"], field("reason", protect="seal")]},
        {**own, "fields": [{**f, "protect": "token+seal"} if f["name"] == "subject" else f for f in own["fields"]]},
    ):
        with pytest.raises(Misuse, match="an erasure has"):
            parse("made", 1, wrong, envelope())
    with pytest.raises(Misuse, match="left and right"):
        parse("made", 1, document(field("subject", protect="token", identifier="token")), envelope())


# -- through the identify leg -----------------------------------------------------------------------------------------


def at(made: ProtectedEvent, partition: int, **changed: Any) -> ProtectedEvent:
    origin = replace(made.origin, partition=partition)
    return replace(made, origin=origin, event_id=event_id(origin).hex(), **changed)


def marker(n: int, subject: str, partition: int = 0, partitions: int = 1, time: int = 2_000_000) -> ProtectedEvent:
    return at(erasure(n, subject, time=time, partitions=partitions), partition)


def id_of(event: ProtectedEvent) -> str:
    return profile_id(event.event_id)


def settled(world: World, *made: ProtectedEvent) -> list[dict[str, Any]]:
    for event in made:
        world.publish(event)
    world.settle()
    return [msgspec.json.decode(profile) for profile in world.profiles()]


def held(*made: ProtectedEvent, partitions: int = 3, by: Rules = RULES) -> World:
    """What came of the events, which is what the oracle says."""
    world = World(partitions, by)
    settled(world, *made)
    assert world.profiles() == list(recompute((msgspec.json.encode(e) for e in made), by))
    _, erased = unerased(made)
    assert world.latest().keys().isdisjoint({id_of(e) for e in erased})
    return world


def resolved(world: World) -> dict[str, str]:
    """Event id → the id under which it was resolved last."""
    found = {}
    for record in world.records(Topic.RESOLVED):
        value = msgspec.json.decode(record.value or b"")
        assert value["profile_id"] == (record.key or b"").decode()
        found[value["event_id"]] = value["profile_id"]
    return found


def test_nothing_is_left_of_a_profile_that_was_erased_but_tombstones() -> None:
    made = [seen(0, user(1), email(1)), seen(1, email(1), device(1)), seen(2, device(1))]
    world = held(*made, *(marker(10 + n, t) for n, t in enumerate((user(1), email(1), device(1)))))
    assert not world.latest()
    for row in rows_of(world).values():
        assert not row.profile
        assert row.facts is not None
        assert not any((row.facts.births, row.facts.events, row.facts.traits, row.facts.links, row.facts.sources))
        assert not any((row.edges, row.recent, row.counted))
        assert row.latest == Row().latest


def test_what_comes_afterwards_is_another_profile_from_its_first_event_on() -> None:
    world = World(3)
    old = seen(0, user(1), email(1))
    (before,) = settled(world, old)
    assert settled(world, marker(1, user(1)), marker(2, email(1))) == []
    new = seen(3, user(1), device(7))
    (after,) = settled(world, new)
    assert after["profile_id"] == id_of(new) != before["profile_id"]
    assert after["tokens"] == {"device_id": [device(7)], "user_id": [user(1)]}
    assert after["events"] == {"track": 1}
    assert world.latest().keys() == {id_of(new)}
    assert resolved(world)[new.event_id] == id_of(new)


def test_no_event_is_resolved_under_the_id_that_was_told_before_the_erasure() -> None:
    world = World(3)
    (old,) = settled(world, seen(0, user(1)), seen(1, user(1), email(1)))
    new = seen(3, email(1))
    for event in (marker(2, email(1)), new):
        world.publish(event)
    ((worker, topic),) = world.waiting()
    world.take(worker, topic, 9)
    world.checkpoint(worker)
    assert resolved(world)[new.event_id] == id_of(new) != old["profile_id"]
    settled(world)
    assert rows_of(world)[email(1)].profile.hex() == old["profile_id"]  # whose link names it still


def test_of_a_profile_of_which_one_identifier_is_erased_the_rest_goes_on_under_an_id_of_its_own() -> None:
    made = [seen(0, user(1), email(1)), seen(1, email(1), device(1), source="app")]
    world = held(*made, marker(2, user(1)))
    (rest,) = map(msgspec.json.decode, world.profiles())
    assert rest["profile_id"] == id_of(made[1])
    assert rest["tokens"] == {"device_id": [device(1)], "email": [email(1)]}
    assert rest["sources"] == ["app"]


def test_an_event_counts_if_it_stands_after_the_marker_of_its_own_partition() -> None:
    before, after = at(seen(3, user(1)), 1, event="before"), at(seen(9, user(1)), 1, event="after")
    made = [seen(0, user(1)), marker(1, user(1), 0, 2), before, marker(5, user(1), 1, 2), after]
    (found,) = map(msgspec.json.decode, held(*made).profiles())
    assert found["events"] == {"after": 1}
    assert not held(*made[:3], after).profiles()  # no marker there: it may stand before it


def test_an_event_that_does_not_count_is_resolved_as_nobodys_and_so_is_a_copy_of_one() -> None:
    world = World(3)
    old, straggler, new = seen(0, user(1)), at(seen(2, user(1)), 1), seen(9, user(1))
    settled(world, old, marker(1, user(1), 0, 2), straggler, new, old, straggler)
    found = resolved(world)
    assert found[new.event_id] == id_of(new)
    assert found[old.event_id] == found[straggler.event_id] == "0" * 32
    counts = {row.facts.version for row in rows_of(world).values() if row.facts}
    assert counts == {4}


def test_a_marker_that_comes_twice_is_the_first_one_and_an_earlier_erasure_changes_nothing() -> None:
    new = seen(5, user(1))
    again, earlier = marker(7, user(1)), marker(8, user(1), time=1_999_999)
    world = held(seen(0, user(1)), marker(1, user(1)), new, again, marker(1, user(1)), earlier)
    assert world.latest().keys() == {id_of(new)}
    assert held(seen(0, user(1)), marker(1, user(1)), new, marker(7, user(1), time=2_000_001)).latest() == {}


def test_other_streams_and_partitions_that_were_added_later_go_by_time() -> None:
    made: list[ProtectedEvent] = [seen(0, user(1)), marker(1, user(1))]
    for partition, incarnation in ((0, "anew"), (7, "")):
        for n, received in ((0, 2_000_000), (1, 2_000_001)):
            origin = Origin("events.raw", incarnation, partition, n)
            one = replace(seen(0, user(1), at=received), origin=origin, event_id=event_id(origin).hex())
            made.append(replace(one, event=f"{partition} {received - 2_000_000}", message_id=f"m {partition} {n}"))
    (found,) = map(msgspec.json.decode, held(*made).profiles())
    assert found["events"] == {"0 1": 1, "7 1": 1}


def test_erased_decisions_and_links_part_what_they_joined() -> None:
    made = [seen(0, user(1)), seen(1, email(1)), seen(2, user(1), email(1), kind="link")]
    world = held(*made, marker(3, user(1)))
    assert [list(msgspec.json.decode(p)["tokens"]) for p in world.profiles()] == [["email"]]
    world = World(3)
    (whole,) = settled(world, seen(0, email(1)), seen(1, user(1), email(1), kind="link"))
    (alone,) = settled(world, marker(2, user(1)))
    assert whole["tokens"] == {"email": [email(1)], "user_id": [user(1)]}
    assert alone["tokens"] == {"email": [email(1)]}


def test_an_event_that_does_not_count_makes_the_rows_that_others_make() -> None:
    sighted, linked = (at(seen(n, user(1), email(n), kind=k), 1) for n, k in ((2, "track"), (3, "link")))
    world = held(seen(0, user(1)), marker(1, user(1), 0, 2), sighted, linked)
    assert rows_of(world).keys() == {user(1), email(2), email(3)}


@pytest.mark.parametrize("passed_over", [False, True])
def test_an_identifier_that_was_shared_stays_so(passed_over: bool) -> None:
    """`device_id` is shared by more than 3. Whoever is erased is one of those it has met."""
    erased = at(seen(5, user(1), device(1)), 1) if passed_over else seen(0, user(1), device(1))
    first = [marker(1, user(1), 0, 2), erased] if passed_over else [erased, marker(1, user(1), 0, 2)]
    others = [seen(n, user(n), device(1)) for n in (2, 3, 4)]
    made = [*first, marker(9, user(1), 1, 2), *others]
    profiles = [msgspec.json.decode(p) for p in held(*made).profiles()]
    assert len(profiles) == 3
    assert all(p["conflicts"][0]["rule"] == "shared" for p in profiles)


def test_an_event_that_does_not_count_may_make_an_identifier_shared_at_last() -> None:
    made = [*(seen(n, user(n), device(1)) for n in (1, 2, 3)), seen(4, user(1), email(9)), marker(5, email(9), 0, 2)]
    world = World(3, RULES)
    for event in (*made, last := at(seen(6, email(9), device(1)), 1)):
        settled(world, event)
    assert world.profiles() == list(recompute((msgspec.json.encode(e) for e in (*made, last)), RULES))
    assert all(b'"rule":"shared"' in profile for profile in world.profiles())


def test_a_group_loses_the_member_who_comes_back_with_a_later_visit() -> None:
    made = [seen(0, user(1), GROUP), seen(1, user(2), GROUP, time=5_000)]
    world = held(*made, marker(2, user(1)))
    group = msgspec.json.decode(world.latest()[group_id(GROUP).hex()])
    assert list(group["members"]) == [user(2)]
    assert group["first_seen"] == 5_000
    world = held(*made, marker(2, user(1)), seen(3, user(1), GROUP, time=9_000))
    group = msgspec.json.decode(world.latest()[group_id(GROUP).hex()])
    assert group["members"][user(1)]["first"] == 9_000
    world = World(3)
    assert len(settled(world, *made)) == 3
    assert settled(world, marker(2, user(1)), marker(3, user(2))) == []
    assert not world.latest()
    assert not rows_of(world)[GROUP].profile
    assert len(settled(world, seen(4, user(2), GROUP))) == 2


def test_a_member_keeps_its_place() -> None:
    few = rules(("[limits]", "[bounds]\nmembers = 2\n[limits]"))
    made = [seen(n, user(n), GROUP) for n in (1, 2, 3)]
    world = held(*made, marker(4, user(1)), by=few)
    group = msgspec.json.decode(world.latest()[group_id(GROUP).hex()])
    assert list(group["members"]) == [user(2)]
    assert group["more_members"] is True


def test_a_former_owners_word_brings_no_member_back() -> None:
    world = held(seen(0, user(1), GROUP), seen(1, user(2), GROUP), marker(2, user(1)))
    for message in (Member(user(1), (0, 0)), Left(user(2), 0)):
        world.append(Topic.IDENTITY, GROUP.encode(), encode(message), 0)
    world.settle()
    group = msgspec.json.decode(world.latest()[group_id(GROUP).hex()])
    assert list(group["members"]) == [user(2)]


def _stop_before_the_state(n: int) -> int:
    """A crash of a checkpoint of three phases, of which the last one is nothing yet."""
    return 2 if n == 3 else 0


def _apart(*tokens: str) -> tuple[World, list[Worker]]:
    """A world in which each of the tokens has an owner of its own."""
    for partitions in range(len(tokens), 40):
        homes = [partition_of(t.encode(), partitions) for t in tokens]
        if len(set(homes)) == len(homes):
            world = World(partitions)
            return world, [world.workers[home] for home in homes]
    raise AssertionError


@pytest.mark.parametrize("more", [False, True])
def test_an_owner_who_forgets_the_profile_once_more_after_a_crash_is_told_it_again(more: bool) -> None:
    """`more`: what it says then is news, since another event has come."""
    world, (root, owner) = _apart(user(1), email(1))
    (profile,) = settled(world, seen(0, user(1), email(1)), seen(1, email(1)))
    world.publish(marker(2, email(1)))
    world.take(owner, Topic.PROTECTED, 9)
    world.checkpoint(owner, _stop_before_the_state)
    world.take(root, Topic.IDENTITY, 9)
    world.checkpoint(root)
    if more:
        world.publish(seen(3, email(1)))
    for topic in (Topic.IDENTITY, Topic.PROTECTED):  # told first, then it forgets
        world.take(owner, topic, 9)
        world.checkpoint(owner)
    world.settle()
    assert rows_of(world)[email(1)].profile.hex() == profile["profile_id"]


def test_who_was_parted_in_a_life_that_a_crash_took_back_is_told_it_again() -> None:
    world, (root, owner, other) = _apart(user(1), email(1), device(1))
    (profile,) = settled(world, seen(0, user(1), email(1)), seen(1, email(1), device(1)))
    world.publish(marker(2, email(1)))
    world.take(owner, Topic.PROTECTED, 9)
    world.checkpoint(owner)
    world.take(root, Topic.IDENTITY, 9)
    world.checkpoint(root, _stop_before_the_state)
    world.take(other, Topic.IDENTITY, 9)
    world.checkpoint(other)
    assert not rows_of(world)[device(1)].profile
    world.publish(seen(3, email(1), device(1)))
    world.take(owner, Topic.PROTECTED, 9)
    world.checkpoint(owner)
    world.settle()
    assert [msgspec.json.decode(p)["profile_id"] for p in world.profiles()] == [profile["profile_id"]]
    assert rows_of(world)[device(1)].profile.hex() == profile["profile_id"]


def test_what_happened_is_counted() -> None:
    world = World(1)
    for event in (seen(0, user(1)), marker(1, user(1), 0, 2), at(seen(0, user(1)), 1), marker(1, user(1), 1, 2)):
        world.publish(event)
    world.take(world.workers[0], Topic.PROTECTED, 9)
    counts = world.workers[0].part.drain().counts
    assert (counts["erasure", ""], counts["erased", ""], counts["resolved", ""]) == (1, 1, 4)
