"""The rules of identity: read as they are written, and refused with the key that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.adapters import schema_files
from pipeline.errors import Misuse
from pipeline.stages.link import load_rules
from pipeline.stages.normalize import KINDS
from pipeline.stages.registry import plain_name
from pipeline.stages.schema import Protect

SCHEMAS = Path(__file__).parents[2] / "schemas"
SHIPPED = (SCHEMAS / "identity.toml").read_text()
USER = "[kinds]\nuser_id = { priority = 1 }\n"


def test_the_shipped_rules_rank_the_kinds_as_the_protect_leg_does() -> None:
    rules = load_rules(SHIPPED)
    assert sorted(rules.kinds, key=lambda kind: rules.kinds[kind].priority) == list(KINDS)
    assert rules.links("email")
    assert not rules.links("group_id")
    assert not rules.links("never heard of")


@pytest.mark.parametrize("pattern", ["[0-]*", "[0-9]+", r".*@example\.com", r"[)*+{]*\*\+", "(ab)?x", "test.*"])
def test_a_pattern_that_spares_ordinary_values_is_taken(pattern: str) -> None:
    found = load_rules(f"version = 1\n{USER}email = {{ priority = 2 }}\n[blocked]\npatterns = ['{pattern}']\n")
    assert found.blocked.patterns == (pattern,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = ", "not TOML"),
        ("version = 2\n" + USER, "version: this sealstream reads version 1"),
        (USER, "version"),
        ("version = 1\n", "kinds"),
        (
            "version = 1\n[kinds]\nuser_id = { priority = 1, links = false }\n",
            "line 2: kinds: at least one kind must link",
        ),
        ("version = 1\n[kinds]\n'User Id' = { priority = 1 }\n", "kinds.User Id"),
        ("version = 1\n[kinds]\nuser_id = { priority = 0 }\n", "kinds.user_id.priority"),
        ("version = 1\n[kinds]\nuser_id = { priority = 1, limit = -1 }\n", "kinds.user_id.limit"),
        ("version = 1\n[kinds]\nuser_id = { priority = 'high' }\n", "line 3: kinds.user_id.priority: Expected"),
        (
            "version = 1\n[kinds]\nuser_id = { priority = 1, color = 2 }\n",
            "line 3: kinds.user_id.color: there is no such key",
        ),
        ("version = 1\n" + USER + "email = { priority = 1 }\n", "line 4: kinds.email.priority: 1 is that of user_id"),
        ("version = 1\n" + USER + "[traits]\nclear = ['plan']\n", "line 5: traits.clear[0]"),
        ("version = 1\n" + USER + "[traits]\nclear = ['a.*.b']\n", "line 5: traits.clear[0]"),
        ("version = 1\n" + USER + "[bounds]\ntraits = 0\n", "line 5: bounds.traits: must be at least 1"),
        ("version = 1\n" + USER + "[limits]\ncluster_tokens = 0\n", "limits.cluster_tokens"),
        ("version = 1\n" + USER + "[blocked]\npatterns = ['0+', '[']\n", "blocked.patterns[1]: no regular expression"),
        ("version = 1\n" + USER + "[blocked]\npatterns = ['(0|-)+']\n", "blocked.patterns[0]: a repeated group"),
        ("version = 1\n" + USER + "[blocked]\npatterns = ['a*b+c{2,}']\n", "blocked.patterns[0]: more than 2 of"),
        ("version = 1\n" + USER + "[blocked]\npatterns = ['.+']\n", "blocked.patterns[0]: blocks every user_id"),
        ("version = 1\n" + USER + "[blocked.kinds.user_id]\npatterns = ['0', '\\S*']\n", "kinds.user_id.patterns[1]"),
        ("version = 1\n" + USER + "[blocked]\npatterns = ['[0-9].*', '[a-z].*']\n", "blocked: blocks every user_id"),
        ("version = 1\n" + USER + "[blocked.kinds.email]\nliterals = ['x']\n", "blocked.kinds.email: no such kind"),
        ("version = 1\n" + USER + "[duplicates]\nwindow = -1\n", "duplicates.window: must be 0 (none) to 4096"),
        ("version = 1\n" + USER + "[duplicates]\nwindow = 4097\n", "duplicates.window"),
        ("version = 1\n" + USER + "[consent.withhold]\nAds = ['tokens']\n", "consent.withhold"),
        (
            "version = 1\n" + USER + "[consent.withhold]\n'all ads' = ['traits']\n",
            "consent.withhold.all ads: a purpose is",
        ),
        ("version = 1\n" + USER + "[bounds]\nconsents = 0\n", "bounds.consents: must be at least 1"),
        ("version = 1\n" + USER + "[computed.orders]\nop = 'count'\n", "computed: is declared in computed.toml"),
        ("version = 1\ncolor = 3\n" + USER, "line 2: color: there is no such key"),
        ("version = 1\n[kinds.user_id]\npriority = 1\n\nlimit = -1\n", "line 5: kinds.user_id.limit"),
        ("version = 1\n" + USER + "[blocked]\npatterns = [\n  '(',\n]\n", "line 5: blocked.patterns[0]"),
        ("version = 1\n" + USER + "[kinds\n", "line 4"),
    ],
)
def test_a_wrong_rule_is_named(text: str, told: str) -> None:
    with pytest.raises(Misuse) as refused:
        load_rules(text)
    assert told in str(refused.value)
    assert str(refused.value).startswith("identity rules: ")


# -- computed traits ---------------------------------------------------------------------------------------------------

RULES = "version = 1\n" + USER
COUNT = "[computed.orders]\nop = 'count'\nevent = 'Order Completed'\n"
SUM = "[computed.spent]\nop = 'sum'\nevent = 'Order Completed'\npath = 'properties.total'\n"
WIDE = "".join(
    f"[computed.t{i}]\nop = 'most_frequent'\nevent = 'page'\npath = 'a'\nperiod = '366d'\n" for i in range(3)
)


@pytest.mark.parametrize("page", ["crypto.md", "decisions.md"])
def test_the_pages_say_of_repeated_messages_what_is_shipped(page: str) -> None:
    text = " ".join((SCHEMAS.parent / "docs" / page).read_text().split())
    assert set(re.findall(r"last (\d+) different ones", text)) == {str(load_rules(SHIPPED).duplicates.window)}


def test_the_shipped_computed_traits_look_at_what_the_schemas_have_in_clear() -> None:
    rules = load_rules(SHIPPED, (SCHEMAS / "computed.toml").read_text())
    registry = schema_files.load(SCHEMAS)
    for name, trait in rules.computed.items():
        found = registry.of("track", trait.event)
        assert found is not None, name
        assert plain_name(found.schema.event) == trait.event, name
        fields = found.schema.fields
        for part in trait.path:
            (at,) = [f for f in fields if f.name == part]
            fields = at.type.fields
        if trait.path:
            assert at.protect is Protect.CLEAR, name


def test_another_definition_under_the_same_name_has_a_state_of_its_own() -> None:
    def key(text: str) -> str:
        return load_rules(RULES, "version = 1\n" + text).computed["spent"].key

    assert key(SUM) == key(SUM.replace("Order Completed", "order_completed"))
    assert (
        len({key(SUM), key(SUM + "period = '7d'\n"), key(SUM.replace("total", "tax")), key(SUM.replace("sum", "last"))})
        == 4
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = ", "not TOML"),
        (COUNT, "version: this sealstream reads version 1"),
        ("version = 1\n[orders]\nop = 'count'\n", "orders: is not known here"),
        ("version = 1\ncomputed = 3\n", "computed: must hold a table for each trait"),
        ("version = 1\n[computed]\norders = 3\n", "computed.orders: Expected `object`"),
        ("version = 1\n" + COUNT.replace("orders", "'My Orders'"), "computed.My Orders: a name is"),
        ("version = 1\n" + COUNT.replace("'count'", "'mean'"), "computed.orders.op: "),
        ("version = 1\n" + COUNT + "color = 1\n", "computed.orders: Object contains unknown field `color`"),
        ("version = 1\n[computed.orders]\nop = 'count'\n", "computed.orders: Object missing required field `event`"),
        ("version = 1\n" + COUNT.replace("Order Completed", "--"), "computed.orders.event: must be the name"),
        ("version = 1\n" + COUNT + "path = 'properties.total'\n", "computed.orders.path: count counts events"),
        ("version = 1\n" + SUM.replace("properties.total", ""), "computed.spent.path: sum needs the path"),
        ("version = 1\n" + SUM.replace("properties.total", "properties..total"), "computed.spent.path: must be names"),
        ("version = 1\n" + COUNT + "period = '1w'\n", "computed.orders.period: must be whole days"),
        ("version = 1\n" + COUNT + "period = '367d'\n", "computed.orders.period: must be whole days"),
        ("version = 1\n" + "".join(COUNT.replace("orders", f"o{i}") for i in range(51)), "at most 50 traits"),
        ("version = 1\n" + WIDE, "bytes per token, more than"),
    ],
)
def test_a_wrong_computed_trait_is_named(text: str, told: str) -> None:
    with pytest.raises(Misuse) as refused:
        load_rules(RULES, text)
    assert told in str(refused.value)
    assert str(refused.value).startswith("computed traits: ")
