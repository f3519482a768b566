"""From when a difference between two versions of the rules holds.

Mutations seen red: a path may be passed over; what is blocked is shown; a raised bound, a new computed trait, a kind
that links now, a higher `shared` or another order of kinds need no refold; a lowered bound, a limit or a removed
computed trait needs one.
"""

from __future__ import annotations

import pytest

from pipeline.explain.rule_changes import RuleChange, Takes, rule_changes
from pipeline.stages.link import load_rules

TEXT = """
version = 1
[kinds]
user_id = { priority = 1, limit = 1 }
email = { priority = 2, limit = 5, shared = 4 }
device_id = { priority = 3, limit = 20 }
group_id = { priority = 4, links = false }
[limits]
shared_neighbours = 10
[bounds]
traits = 10
conflicts = 10
[blocked]
literals = ["null", "canary@example.com"]
[traits]
clear = ["traits.*"]
"""
COMPUTED = """
version = 1
[computed.orders]
op = "count"
event = "Order Completed"
"""


def changes(*replaced: tuple[str, str], computed: str = COMPUTED) -> list[RuleChange]:
    text = TEXT
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return rule_changes(load_rules(TEXT, COMPUTED), load_rules(text, computed))


def takes(*replaced: tuple[str, str], computed: str = COMPUTED) -> dict[str, Takes]:
    return {change.path: change.takes for change in changes(*replaced, computed=computed)}


def test_equal_rules_do_not_differ() -> None:
    assert changes(("[limits]", "# of all\n[limits]")) == []


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("priority = 1, limit = 1", "priority = 1, limit = 2", "kinds.user_id.limit"),
        ("limit = 5,", 'limit = 5, window = "7d",', "kinds.email.window"),
        ("shared = 4", "shared = 3", "kinds.email.shared"),
        ("shared_neighbours = 10", "shared_neighbours = 9", "limits.shared_neighbours"),
        ("[bounds]", "cluster_tokens = 20\n[bounds]", "limits.cluster_tokens"),
        ("traits = 10", "traits = 9", "bounds.traits"),
        ("conflicts = 10", "conflicts = 11", "bounds.conflicts"),
        ("[traits]", '[consent.withhold]\nAds = ["traits"]\n[traits]', "consent.withhold.Ads"),
        ("device_id = { priority = 3,", "device_id = { priority = 3, links = false,", "kinds.device_id.links"),
        ("group_id = { priority = 4", "group_id = { priority = 9", "kinds.group_id.priority"),
    ],
)
def test_what_the_tables_hold_is_divided_anew_at_a_restart(old: str, new: str, path: str) -> None:
    assert takes((old, new)) == {path: Takes.RESTART}


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("priority = 4, links = false", "priority = 4, links = true", "kinds.group_id.links"),
        ("shared = 4", "shared = 5", "kinds.email.shared"),
        (", shared = 4", "", "kinds.email.shared"),  # 10, the default
        ("shared_neighbours = 10", "shared_neighbours = 11", "limits.shared_neighbours"),
        ("[bounds]", "component_tokens = 30000\n[bounds]", "limits.component_tokens"),
        ("traits = 10", "traits = 11", "bounds.traits"),
        ('["traits.*"]', '["traits.plan"]', "traits.clear"),
        ("[traits]", "[duplicates]\nwindow = 8\n[traits]", "duplicates.window"),
        ("email = { priority = 2,", "email = { priority = 2, links = false,", "kinds.email.links"),  # devices had it
    ],
)
def test_what_the_tables_do_not_hold_takes_a_refold(old: str, new: str, path: str) -> None:
    assert takes((old, new)) == {path: Takes.REFOLD}


def test_another_order_of_kinds_may_make_a_shared_identifier_one_again() -> None:
    swapped = takes(
        ("email = { priority = 2", "email = { priority = 3"),
        ("device_id = { priority = 3", "device_id = { priority = 2"),
    )
    assert swapped == {"kinds.email.priority": Takes.REFOLD, "kinds.device_id.priority": Takes.REFOLD}


def test_a_new_kind_links_earlier_events_after_a_refold() -> None:
    found = takes(("[limits]", "phone = { priority = 7 }\n[limits]"))
    assert set(found.values()) == {Takes.REFOLD}
    assert "kinds.phone.priority" in found


def test_computed_traits_count_earlier_events_after_a_refold_and_go_without() -> None:
    more = COMPUTED + '[computed.first]\nop = "first"\nevent = "Order Completed"\npath = "properties.total"\n'
    assert set(takes(computed=more).values()) == {Takes.REFOLD}
    assert set(takes(computed="").values()) == {Takes.RESTART}
    assert Takes.REFOLD in takes(computed=COMPUTED.replace("Completed", "Cancelled")).values()


def test_what_is_blocked_is_counted_and_not_shown() -> None:
    (change,) = changes(('"canary@example.com"', '"canary@example.com", "canary-2@example.com"'))
    assert change == RuleChange(
        "blocked.literals", "2 entries (0 of them here only)", "3 entries (1 of them here only)", Takes.NEW_EVENTS
    )


def test_both_sides_are_shown() -> None:
    assert changes(("limit = 1 ", "limit = 2 ")) == [RuleChange("kinds.user_id.limit", "1", "2", Takes.RESTART)]
    (change,) = changes(('["traits.*"]', '["traits.plan", "traits.city"]'))
    assert (change.before, change.after) == ("traits.*", "traits.plan, traits.city")
