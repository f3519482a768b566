"""What `bench identify --in-memory` measures is what it says: profiles of five identifiers, and clusters that meet.

Mutations seen red: an event that joins nothing; limits that bind in the wide rules; a cluster of one identifier less;
one device a profile; messages of the leg that get lost; a merge's time with that of making the clusters.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import profiles, verify
from bench.folding import Folding
from pipeline.ports import Out

IDENTIFIERS = 150


class Profiles:
    """The last record of each."""

    def __init__(self) -> None:
        self.by_id: dict[bytes, dict[str, Any]] = {}

    def __call__(self, out: Out) -> None:
        self.by_id[out.key] = json.loads(out.value or b"{}")

    def sizes(self) -> list[int]:
        return sorted(sum(map(len, p["tokens"].values())) for p in self.by_id.values() if "tokens" in p)


def test_each_profile_has_five_identifiers() -> None:
    seen = Profiles()
    world = Folding(verify.rules(), verify.PARTITIONS, verify.BEGIN_MS, seen)
    world.take(profiles.first_pass(40))
    assert seen.sizes() == [profiles.IDENTIFIERS] * 40
    found = profiles.memory(40)
    assert found["rows"] == sum(len(table) for tables in world.tables for table in tables.values())
    assert found["row_bytes"] > 40 * profiles.IDENTIFIERS * 50
    assert found["cpu_seconds"] >= 0


@pytest.mark.parametrize("wide", [True, False])
def test_two_clusters_become_one_profile_unless_our_rules_forbid_it(wide: bool) -> None:
    rules, seen = verify.rules(), Profiles()
    world = profiles.clusters(profiles.wide(rules) if wide else rules, IDENTIFIERS)
    world._profile = seen
    before = world.cpu_seconds
    world.take([profiles.joining(IDENTIFIERS)])
    assert world.cpu_seconds > before
    if wide:
        assert seen.sizes() == [2 * IDENTIFIERS]
    else:
        assert all(size < IDENTIFIERS for size in seen.sizes())
        assert any("conflicts" in p for p in seen.by_id.values())


def test_a_merge_is_measured_without_what_was_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class World:
        cpu_seconds = 100.0

        def take(self, events: list[Any]) -> None:
            assert events == [profiles.joining(IDENTIFIERS)]
            self.cpu_seconds += 0.25

    monkeypatch.setattr(profiles, "clusters", lambda _rules, identifiers: World())
    assert profiles.merges(IDENTIFIERS, 3) == {"one_profile": 250.0, "our_rules": 250.0}
