"""The rules of identity: read as they are written, and refused with the key that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Misuse
from pipeline.stages.link import load_rules
from pipeline.stages.normalize import KINDS

SHIPPED = (Path(__file__).parents[2] / "schemas" / "identity.toml").read_text()
USER = "[kinds]\nuser_id = { priority = 1 }\n"


def test_the_shipped_rules_rank_the_kinds_as_the_protect_leg_does() -> None:
    rules = load_rules(SHIPPED)
    assert sorted(rules.kinds, key=lambda kind: rules.kinds[kind].priority) == list(KINDS)
    assert rules.links("email")
    assert not rules.links("group_id")
    assert not rules.links("never heard of")


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
