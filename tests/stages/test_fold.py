"""What is kept of a token's events is a function of their set, within its bounds, and gives what the oracle computes.

Mutations seen red: an origin counts twice; the last event to arrive writes a trait, or a consent; a trait is written
and its provenance is not; a repeated event counts; of its copies the first to arrive counts; the other one's amounts
are not taken back; the value of a repeated one is not noticed; it leaves no version; the window grows; what left it
stays in `counted`; writers or streams of another token are not mapped; a former writer stays; provenance of withheld
sources; a group's last time is not its day's; a bound by arrival (groups, values, purposes of one event); a bound that
is not held when tokens are put together; a period that does not end, or ends a day early; sums of floats; a tie of
values by arrival; the first value of another token wins; facts changed by being put together.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import Origin, ProtectedEvent, event_id
from pipeline.stages.compose import combine, profile, written
from pipeline.stages.compose import said as shown_of
from pipeline.stages.content import MAX_NAME, Content, Event, EventOrigin, content_reader, cut, event_decoder
from pipeline.stages.fold import BEFORE, NARROW, OTHER, REPEATED, REPEATED_BORN, Folded, count, fold, sight
from pipeline.stages.identity_rows import Facts, Row, decode_row, encode, profile_id, stream
from pipeline.stages.link import Bounds, Duplicates, Kind, Rules, load_rules
from pipeline.stages.partition import Partitioner
from pipeline.stages.recompute import recompute
from tests.flow.identity_world import COMPUTED

DAY = 86_400_000
START = 20_000 * DAY
RULES = Rules(1, {"user_id": Kind(1)}, bounds=Bounds(event_names=5, traits=3, sources=2))


def event(offset: int, *, partition: int = 0, time: int = 0, name: str = "Viewed", source: str = "shop") -> Event:
    origin = EventOrigin("events.raw", "", partition, offset)
    return Event(f"{offset:032x}", origin, source, "track", time, 1_000 + offset, "user_id.1." + "0" * 32, name)


def said(traits: dict[str, bytes]) -> Content:
    return Content(traits, {}, None, [], (0, 0))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=60), st.randoms(use_true_random=False))
def test_each_origin_counts_once_in_any_order(origins: list[tuple[int, int]], rng: random.Random) -> None:
    row = Row()
    rng.shuffle(origins)
    for partition, offset in origins:
        fold(row, event(offset, partition=partition), "events.raw\0", None, RULES)
        row = decode_row(encode(row))
    assert (row.facts.events if row.facts else {}) == ({"Viewed": len(set(origins))} if origins else {})


def test_what_is_remembered_of_origins_is_bounded_and_nothing_counts_twice() -> None:
    row = Row()
    for _ in range(2):
        for offset in range(0, 5_000, 3):
            fold(row, event(offset), "events.raw\0", None, RULES)
    assert row.facts is not None
    assert row.facts.events == {"Viewed": len(range(0, 5_000, 3))}
    assert len(encode(row)) < 4 * NARROW + 200


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60), st.randoms(use_true_random=False))
def test_counters_beyond_the_bound_are_counted_together_whatever_came_first(
    names: list[str], rng: random.Random
) -> None:
    def counted() -> dict[str, int]:
        found: dict[str, int] = {}
        for name in names:
            count(found, name, 1, 5)
        return found

    one = counted()
    rng.shuffle(names)
    assert counted() == one
    assert sum(one.values()) == len(names)
    assert len(one.keys() - {OTHER}) <= 5


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("pqrst"), st.integers(0, 9)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_latest_event_writes_a_trait_not_the_last_to_arrive(
    written: list[tuple[int, str, int]], rng: random.Random
) -> None:
    made = [(event(i, time=time), {name: msgspec.json.encode(value)}) for i, (time, name, value) in enumerate(written)]

    def traits() -> dict[str, bytes]:
        row = Row()
        for e, found in made:
            fold(row, e, "events.raw\0", said(found), RULES)
        return {name: trait[-1] for name, trait in sorted(row.facts.traits.items())} if row.facts else {}

    in_order = traits()
    rng.shuffle(made)
    assert traits() == in_order
    last = {
        name: (time, i, value) for i, (time, name, value) in sorted(enumerate(written), key=lambda w: (w[1][0], w[0]))
    }
    assert in_order == {name: msgspec.json.encode(last[name][2]) for name in sorted(last)[:3]}


@given(st.lists(st.sampled_from(["app", "desk", "shop", "web"]), max_size=20))
def test_sources_beyond_the_bound_are_the_first_in_order(sources: list[str]) -> None:
    row = Row()
    for i, source in enumerate(sources):
        fold(row, event(i, source=source), "events.raw\0", None, RULES)
    assert (row.facts.sources if row.facts else []) == sorted(set(sources))[:2]


@given(st.text(max_size=300), st.text(max_size=300))
def test_long_names_are_cut_and_stay_apart(one: str, other: str) -> None:
    try:
        one.encode(), other.encode()
    except UnicodeEncodeError:
        return
    assert len(cut(one)) <= MAX_NAME
    assert (cut(one) == cut(other)) == (one == other)


# -- everything that a profile says, against the oracle ----------------------------------------------------------------

TEXT = """
version = 1
[kinds]
user_id = { priority = 1 }
email = { priority = 2 }
device_id = { priority = 3 }
group_id = { priority = 4, links = false }
[traits]
clear = ["traits.*", "context.os.name"]
max_bytes = 60
[bounds]
event_names = 3
traits = 3
sources = 2
consents = 2
groups = 2
computed_values = 2
[consent.withhold]
Ads = ["events", "computed"]
Mail = ["traits"]
Sharing = ["sources", "groups"]
"""
LOCALE = """
[computed.locale]
op = "last"
event = "bought"
path = "context.locale"
"""
WHOLE_CONTEXT = load_rules(TEXT, COMPUTED + LOCALE)
LAZY_CONTEXT = load_rules(TEXT.replace(', "context.os.name"', ""), COMPUTED)
NO_WINDOW = msgspec.structs.replace(LAZY_CONTEXT, duplicates=Duplicates(0))

ANCHORS = [f"email.1.{i:032x}" for i in range(3)]
DEVICE = f"device_id.1.{9:032x}"
GROUPS = [f"group_id.1.{i:032x}" for i in range(4)] + ["group_id.1.nonsense", "group_id."]
NUMBERS = st.one_of(
    st.integers(-(10**19), 10**19),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-1000, 1000, places=3).map(float),
    st.sampled_from([0, -0.0, 5e-7, 1.5e-6, 1e15, 999_999_999_999_999, 1e308, -1e308, 2**70]),
)
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["", "a", "b", "c", "x" * 300, None, True, False, "\U0001f600", "\0"]),
    st.lists(st.integers(0, 2), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
)


def mostly(wanted: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Sometimes any other value."""
    return st.integers(0, 9).flatmap(lambda n: VALUES if n == 9 else wanted)


PURPOSES = st.sampled_from(["Ads", "Mail", "Sharing", "Zeal", "not plain", "", "x" * 65, "ä"])
CONSENT = st.fixed_dictionaries(
    {"categoryPreferences": mostly(st.dictionaries(PURPOSES, mostly(st.booleans()), max_size=3))}
)
CONTEXT = st.fixed_dictionaries(
    {},
    optional={"locale": VALUES, "os": mostly(st.fixed_dictionaries({"name": VALUES})), "consent": mostly(CONSENT)},
)
CLEAR = st.none() | st.fixed_dictionaries(
    {"traits": mostly(st.dictionaries(st.sampled_from("pqrst"), VALUES, max_size=3))},
    optional={
        "properties": mostly(st.fixed_dictionaries({}, optional={"total": NUMBERS, "item": VALUES})),
        "context": mostly(CONTEXT),
    },
)
PLACES = st.tuples(st.sampled_from(["", "second"]), st.integers(0, 1), st.integers(0, 200))
TIMES = st.one_of(st.integers(0, 5 * DAY), st.sampled_from([-START, 27_000 * DAY]))


@st.composite
def protected(draw: st.DrawFn) -> ProtectedEvent:
    anchor = draw(st.sampled_from(ANCHORS))
    groups = draw(st.lists(st.sampled_from(GROUPS), max_size=2))
    return ProtectedEvent(
        "",
        Origin("events.raw", *draw(PLACES)),
        draw(st.sampled_from(["app", "desk", "shop"])),
        draw(st.sampled_from(["track/1", "track/2"])),
        "track",
        START + draw(TIMES),
        START + draw(st.integers(0, 3)),
        draw(st.sampled_from(["", "m1", "m2", "m3"])),
        anchor,
        draw(st.sampled_from(["Bought", "bought", "Viewed", None])),
        {"a": anchor, "d": DEVICE, **{f"g{i}": group for i, group in enumerate(groups)}},
        draw(CLEAR),
    )


def folded(events: Iterable[ProtectedEvent], rules: Rules, rng: random.Random) -> bytes:
    """The profile of everybody's events, which come in this order."""
    decode, content_of = event_decoder(rules), content_reader(rules)
    rows: dict[str, Row] = {}
    for e in events:
        found = decode(msgspec.json.encode(e))
        row = rows.get(e.anchor, Row())
        if fold(row, found, stream(e.origin.topic, e.origin.incarnation), content_of(found), rules) is not BEFORE:
            sight(row, found, DEVICE, 10)
        rows[e.anchor] = decode_row(encode(row))
    known = {token: row.facts for token, row in rows.items() if row.facts is not None}
    (part,) = Partitioner(rules).divide(known, {*rows, DEVICE}, {}).parts
    all_facts = [row.facts for row in rows.values() if row.facts is not None]
    rng.shuffle(all_facts)
    before = [encode(facts) for facts in all_facts]
    facts = reduce(lambda a, b: combine(a, b, rules.bounds), all_facts)
    assert [encode(facts) for facts in all_facts] == before, "they are kept, and put together again"
    return profile(
        profile_id(facts, facts.births[-1]),
        shown_of(*part, 100),
        facts,
        written(facts, None, rules.bounds, None),
        rules,
    )


def oracle(events: Iterable[ProtectedEvent], rules: Rules) -> bytes:
    (found,) = (p for p in recompute([msgspec.json.encode(e) for e in events], rules) if b'"email":' in p)
    return found  # not those of groups


@pytest.mark.parametrize("rules", [WHOLE_CONTEXT, LAZY_CONTEXT, NO_WINDOW], ids=["whole", "lazy", "no window"])
@settings(max_examples=60)
@given(
    events=st.lists(protected(), min_size=1, max_size=12, unique_by=lambda e: e.origin),
    rng=st.randoms(use_true_random=False),
)
def test_what_a_profile_says_is_what_the_oracle_computes(
    rules: Rules, events: list[ProtectedEvent], rng: random.Random
) -> None:
    wanted = oracle(events, rules)
    again = [*events, *rng.choices(events, k=3)]
    for _ in range(3):
        rng.shuffle(again)
        assert folded(again, rules, rng) == wanted


def made(number: int, clear: Any = None, **changed: Any) -> ProtectedEvent:
    """Each an hour after the one before, on one anchor."""
    origin = Origin("events.raw", "", 0, number)
    time = START + number * 3_600_000
    e = ProtectedEvent(
        event_id(origin).hex(), origin, "shop", "track/1", "track", time, time, f"m{number}", ANCHORS[0], "Bought",
        {"a": ANCHORS[0], "d": DEVICE}, clear,
    )  # fmt: skip
    return msgspec.structs.replace(e, **changed)


def shown(events: Sequence[ProtectedEvent], rules: Rules = LAZY_CONTEXT) -> dict[str, Any]:
    found = folded(events, rules, random.Random(0))
    assert found == oracle(events, rules)
    return msgspec.json.decode(found)  # type: ignore[no-any-return]


def outcomes(events: Iterable[ProtectedEvent], rules: Rules) -> list[Folded]:
    decode, content_of, row = event_decoder(rules), content_reader(rules), Row()
    return [
        fold(row, found, "events.raw\0", content_of(found), rules)
        for found in (decode(msgspec.json.encode(e)) for e in events)
    ]


def test_provenance_names_the_event_that_wrote_a_trait() -> None:
    found = shown(
        [
            made(2, {"traits": {"plan": "pro"}}, source="app", schema="identify/2"),
            made(1, {"traits": {"plan": "free", "tier": 1}}),
        ]
    )
    assert found["traits"] == {"plan": "pro", "tier": 1}
    assert found["provenance"] == {
        "plan": {"source": "app", "schema": "identify/2", "time": START + 7_200_000},
        "tier": {"source": "shop", "schema": "track/1", "time": START + 3_600_000},
    }


def test_provenance_follows_the_trait_when_tokens_are_put_together() -> None:
    def of(anchor: str, number: int, trait: str, source: str) -> ProtectedEvent:
        tokens = {"a": anchor, "d": DEVICE}
        return made(number, {"traits": {trait: number}}, anchor=anchor, tokens=tokens, source=source)

    events = [of(ANCHORS[0], 1, "p", "app"), of(ANCHORS[0], 2, "q", "desk"), of(ANCHORS[1], 3, "p", "shop")]
    for order in permutations(events):
        assert {name: wrote["source"] for name, wrote in shown(order)["provenance"].items()} == {
            "p": "shop",
            "q": "desk",
        }


def test_a_trait_of_an_earlier_version_has_no_provenance_rather_than_a_wrong_one() -> None:
    def facts(number: int) -> Facts:
        row, e = Row(), event_decoder(LAZY_CONTEXT)(msgspec.json.encode(made(number)))
        fold(row, e, "events.raw\0", said({"plan": b"%d" % number}), LAZY_CONTEXT)
        assert row.facts is not None
        return row.facts

    new, old = facts(1), msgspec.structs.replace(facts(2), writers=[], wrote={})
    for both in (combine(new, old, LAZY_CONTEXT.bounds), combine(old, new, LAZY_CONTEXT.bounds)):
        found = msgspec.json.decode(
            profile(b"", shown_of([], {}, [], 1), both, written(both, None, Bounds(), None), LAZY_CONTEXT)
        )
        assert found["traits"] == {"plan": 2}
        assert "provenance" not in found


def test_writers_that_have_nothing_left_are_forgotten() -> None:
    row, decode = Row(), event_decoder(LAZY_CONTEXT)
    for i in range(300):
        e = made(i, {"traits": {"plan": i}}, source=f"s{i}", message_id="")
        fold(row, decode(msgspec.json.encode(e)), "events.raw\0", said({"plan": b"%d" % i}), LAZY_CONTEXT)
    assert row.facts is not None
    assert len(row.facts.writers) < 20
    assert row.facts.writers[row.facts.wrote["plan"]] == ("s299", "track/1")


def test_a_message_counts_once_and_of_its_copies_the_first_by_record_time() -> None:
    first = made(1, {"properties": {"total": 10}})
    copy = made(2, {"properties": {"total": 99}}, message_id="m1")
    other = made(3, {"properties": {"total": 5}}, message_id="m1", source="app")
    for order in ([first, copy, other], [copy, other, first], [other, copy, first, copy]):
        found = shown(order)
        assert found["events"] == {"Bought": 2}
        assert (found["computed"]["bought"], found["computed"]["spent"]) == (2, 15)
    assert outcomes([first, copy, copy, made(0, message_id="m1")], LAZY_CONTEXT)[1:] == [
        REPEATED,
        BEFORE,
        REPEATED_BORN,
    ]


def test_a_value_that_only_a_repeated_event_has_takes_its_place_among_the_bounded_ones() -> None:
    def item(number: int, value: str, **changed: Any) -> ProtectedEvent:
        return made(number, {"properties": {"item": value}}, **changed)

    events = [item(1, "b"), item(2, "a", message_id="m1"), item(3, "c"), item(4, "c")]
    for order in permutations(events):
        assert shown(order)["computed"]["usual_item"] == "b"  # of "a", "b" and "c" two are kept


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(0, 4))
def test_the_window_holds_the_last_different_messages(messages: list[int], window: int) -> None:
    rules = msgspec.structs.replace(LAZY_CONTEXT, duplicates=Duplicates(window))
    events = [made(i, {"properties": {"total": 1}}, message_id=f"m{m}") for i, m in enumerate(messages)]
    if not events:
        return
    found = shown(events, rules)
    assert found["events"]["Bought"] == found["computed"]["bought"] == found["computed"]["spent"]
    row, decode, content_of = Row(), event_decoder(rules), content_reader(rules)
    for e in events:
        parsed = decode(msgspec.json.encode(e))
        fold(row, parsed, "events.raw\0", content_of(parsed), rules)
        assert len(row.recent) <= 8 * window
        assert len(row.counted) <= window


def test_a_repeated_event_leaves_a_state_of_its_own() -> None:
    """Two states of a token under one version would be one of them lost at the root."""
    row, decode = Row(), event_decoder(LAZY_CONTEXT)
    for i in range(3):
        e = decode(msgspec.json.encode(made(i, message_id="m")))
        fold(row, e, "events.raw\0", None, LAZY_CONTEXT)
        assert row.facts is not None
        assert row.facts.version == i + 1


@pytest.mark.parametrize(
    ("purpose", "absent"),
    [
        ("Ads", {"events", "computed"}),
        ("Mail", {"traits", "provenance"}),
        ("Sharing", {"sources", "groups", "provenance"}),
        ("Zeal", set()),
    ],
)
def test_what_a_denied_purpose_withholds_is_not_shown_until_it_is_granted(purpose: str, absent: set[str]) -> None:
    clear = {"traits": {"plan": "pro"}, "properties": {"total": 1}}
    tokens = {"a": ANCHORS[0], "d": DEVICE, "g": GROUPS[0]}

    def said(number: int, granted: bool) -> ProtectedEvent:
        context = {"consent": {"categoryPreferences": {purpose: granted}}}
        return made(number, {**clear, "context": context}, tokens=tokens)

    sections = {"events", "traits", "sources", "computed", "groups", "provenance"}
    denied = shown([said(2, False), said(1, True)])
    assert sections - denied.keys() == absent
    assert denied["consents"][purpose]["state"] == "denied"
    assert ("source" in denied["consents"][purpose]) == ("sources" not in absent)
    granted = shown([said(3, True), said(2, False), said(1, True)])
    assert sections <= granted.keys()
    assert granted["consents"] == {purpose: {"state": "granted", "time": START + 3 * 3_600_000, "source": "shop"}}


def test_withholding_holds_for_every_token_of_the_profile() -> None:
    denied = made(1, {"context": {"consent": {"categoryPreferences": {"Mail": False}}}}, anchor=ANCHORS[1])
    denied = msgspec.structs.replace(denied, tokens={"a": ANCHORS[1], "d": DEVICE})
    assert "traits" not in shown([denied, made(2, {"traits": {"plan": "pro"}})])


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_of_a_purpose_the_latest_event_counts_not_the_last_to_arrive(
    given_: list[tuple[int, bool]], rng: random.Random
) -> None:
    events = [
        made(i, {"context": {"consent": {"categoryPreferences": {"Zeal": granted}}}}, time=START + time)
        for i, (time, granted) in enumerate(given_)
    ]
    _, last = max(enumerate(given_), key=lambda e: (e[1][0], e[0]))
    rng.shuffle(events)
    assert shown(events)["consents"]["Zeal"]["state"] == ("granted" if last[1] else "denied")


def test_ties_between_tokens_go_by_the_stream_of_the_origin_not_by_its_place_in_a_row() -> None:
    def of(anchor: str, incarnation: str, offset: int, granted: bool | None) -> ProtectedEvent:
        purposes = {} if granted is None else {"Zeal": granted}
        clear = {"context": {"consent": {"categoryPreferences": purposes}}, "properties": {"item": granted}}
        tokens, origin = {"a": anchor, "d": DEVICE}, Origin("events.raw", incarnation, 0, offset)
        return made(offset, clear, anchor=anchor, tokens=tokens, origin=origin, time=START)

    events = [of(ANCHORS[0], "", 5, True), of(ANCHORS[1], "second", 1, False), of(ANCHORS[1], "", 2, None)]
    for order in permutations(events):
        found = shown(order)
        assert found["consents"]["Zeal"]["state"] == "denied"
        assert found["computed"]["last_item_1d"] is False
        assert found["computed"]["first_item_3d"] is True


def test_groups_are_shown_with_the_time_of_the_first_event_and_the_day_of_the_last() -> None:
    named = {"a": ANCHORS[0], "d": DEVICE, "g": GROUPS[0]}
    found = shown([made(30, tokens=named), made(1, tokens=named), made(40)])
    assert found["groups"] == {GROUPS[0]: {"first": START + 3_600_000, "last_day": START + DAY}}


def test_sums_are_exact_to_a_millionth() -> None:
    totals = [1.5e-6, 5e-7, 19.99, 0.1, 0.2, -1e15, 999_999_999_999_999, 999_999_999_999_999.0, "7", True, 1e308]
    events = [made(i, {"properties": {"total": t}}) for i, t in enumerate(totals)]
    found = folded(events, LAZY_CONTEXT, random.Random(0))
    assert b'"spent":2000000000000018.290002,"spent_3d"' in found
    assert found == oracle(events, LAZY_CONTEXT)


def test_of_values_that_are_as_frequent_the_first_in_order_is_shown() -> None:
    events = [made(i, {"properties": {"item": item}}) for i, item in enumerate("baab")]
    for order in permutations(events):
        assert shown(order)["computed"]["usual_item"] == "a"


def test_a_period_ends_with_the_last_day_of_the_whole_profile() -> None:
    old = [made(i, {"properties": {"total": 0.1, "item": "pen"}}) for i in range(3)]
    assert shown(old)["computed"]["bought_2d"] == 3
    other = msgspec.structs.replace(made(24 * 2, event="Viewed"), anchor=ANCHORS[1])
    later = msgspec.structs.replace(other, tokens={"a": ANCHORS[1], "d": DEVICE})
    found = shown([later, *old])["computed"]
    assert found["bought"] == 3
    assert found["spent_3d"] == 0.3
    assert "bought_2d" not in found
    assert "last_item_1d" not in found


def test_what_a_token_keeps_for_computed_traits_is_bounded() -> None:
    row, decode, content_of = Row(), event_decoder(LAZY_CONTEXT), content_reader(LAZY_CONTEXT)
    for i in range(2_000):
        clear = {"properties": {"total": 1e14, "item": f"{i:04d}" + "x" * 240}}
        e = decode(msgspec.json.encode(made(i * 24, clear)))
        fold(row, e, "events.raw\0", content_of(e), LAZY_CONTEXT)
    assert len(encode(row)) < 100_000


BAD: dict[str, Any] = {
    "purposes": {"context": {"consent": {"categoryPreferences": {f"p{i}": True for i in reversed(range(10_000))}}}},
    "a long purpose": {"context": {"consent": {"categoryPreferences": {"p" * 10_000: True}}}},
    "numbers": {"properties": {"total": 1e308}},
    "huge integer": {"properties": {"total": 10**300}},
    "nested": {"properties": {"item": msgspec.json.decode("[" * 300 + "1" + "]" * 300)}},
    "names": {"traits": {"n" * 100_000: 1, "\U0001f600": 2}},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_folded_within_bounds(name: str) -> None:
    found = shown([made(1, BAD[name]), made(2, BAD[name], time=-(10**14)), made(3, BAD[name], time=4_102_444_800_000)])
    assert found["events"] == {"Bought": 3}
    assert len(msgspec.json.encode(found)) < 5_000


def test_consents_and_numbers_that_are_none_are_counted() -> None:
    decode, content_of = event_decoder(LAZY_CONTEXT), content_reader(LAZY_CONTEXT)
    purposes = {"Ads": True, "not plain": True, "Mail": 1}
    clear = {"context": {"consent": {"categoryPreferences": purposes}}, "properties": {"total": "7"}}
    content = content_of(decode(msgspec.json.encode(made(1, clear))))
    assert content is not None
    assert content.consents == {"Ads": True}
    assert content.ignored == (2, 2)  # the total is looked at twice


@pytest.mark.parametrize("part", [b'{"a":"\xff"}', b'{"consent":"\xff"}', b"[" * 5_000 + b"]" * 5_000])
def test_what_cannot_be_decoded_later_is_nothing(part: bytes) -> None:
    """Only records that the protect leg has not written; they are no reason to stop."""
    decode, content_of = event_decoder(LAZY_CONTEXT), content_reader(LAZY_CONTEXT)
    value = msgspec.json.encode(made(1, {"properties": 0, "context": 0}))
    value = value.replace(b'"properties":0', b'"properties":' + part)
    if b"consent" in part:
        value = value.replace(b'"context":0', b'"context":' + part)
    try:
        found = decode(value)
    except RecursionError:
        return  # counted as undecodable
    assert content_of(found) is not None  # it counts


def test_what_belongs_to_no_declaration_any_more_is_forgotten() -> None:
    row, last = Row(), LAZY_CONTEXT
    for i in range(40):
        last = load_rules(TEXT, COMPUTED.replace("properties.total", f"properties.total{i}"))
        clear = {"properties": {f"total{i}": 1, "item": "pen"}}
        e = event_decoder(last)(msgspec.json.encode(made(i, clear)))
        fold(row, e, "events.raw\0", content_reader(last)(e), last)
    assert row.facts is not None
    assert row.facts.computed is not None
    assert len(row.facts.computed.sums) <= len(last.computed)
    found = msgspec.json.decode(
        profile(b"", shown_of([], {}, [], 1), row.facts, written(row.facts, None, Bounds(), None), last)
    )
    assert (found["computed"]["spent"], found["computed"]["bought"]) == (1, 40)
