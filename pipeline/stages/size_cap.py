"""Alert: a cap on size keeps identifiers out of a profile, or does so no more.

In: a root's cluster when that changed. Out: an `Alert`, keyed by the root. Either it is somebody who is many (a
script, a shared login), or rules are missing that would part them; both are for somebody to look at. The refused
pairs stand in the profile's conflicts.
"""

from __future__ import annotations

from ..events import RUNBOOKS, Alert, AlertStatus, Feature, Severity

KIND = "size_cap"
CAPS = frozenset(("cluster_tokens", "component_tokens"))
"""Rules of conflicts that say so."""

_SAYS = {
    True: "a cap on size keeps identifiers out of the profile",
    False: "no cap on size keeps anything out of the profile any more",
}


def size_cap(root: str, identifiers: int, most: int, capped: bool, at: int) -> Alert:
    """`identifiers` hang together at `root`, and a profile has `most` of them; `at` in ms."""
    return Alert(
        dedup_key=f"{KIND}:token={root}",
        status=AlertStatus.TRIGGER if capped else AlertStatus.RESOLVE,
        severity=Severity.WARNING,
        score=100,
        kind=KIND,
        watched=f"token={root}",
        summary=_SAYS[capped],
        first_at=at,
        last_at=at,
        count=1,
        features=[Feature("identifiers", identifiers, most)],
        runbook=f"{RUNBOOKS}{KIND}.md",
    )
