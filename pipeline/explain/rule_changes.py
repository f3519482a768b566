"""How two versions of the rules differ, and from when each difference holds."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from ..stages.link import Rules

_LISTED = 5
"""Elements of a list that are shown."""


class Takes(StrEnum):
    """What makes a difference hold for what is there already."""

    RESTART = "restart"
    """The workers divide the clusters again from what their tables hold."""
    REFOLD = "refold"
    """The tables do not hold it: only `sealstream identity refold` brings it to earlier events."""
    NEW_EVENTS = "new_events"
    """Nothing: it holds for what is protected from then on."""


class RuleChange(msgspec.Struct, frozen=True):
    """`before` and `after` as they are shown: of what is blocked, which may be somebody's address, counts alone."""

    path: str
    before: str
    after: str
    takes: Takes


def rule_changes(before: Rules, after: Rules) -> list[RuleChange]:
    """Return the differences by path, defaults filled in."""
    one, other = dict(_leaves(before)), dict(_leaves(after))
    return [
        RuleChange(path, *_shown(path, one.get(path), other.get(path)), takes=_takes(path, before, after))
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def _leaves(rules: Rules) -> Iterator[tuple[str, Any]]:
    for section, value in msgspec.to_builtins(rules).items():
        if section in ("kinds", "computed"):
            for name, parts in value.items():
                yield from _flat(f"{section}.{name}", parts)
        else:
            yield from _flat(section, value)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _flat(f"{path}.{name}", part)
    else:
        yield path, value


def _shown(path: str, before: Any, after: Any) -> tuple[str, str]:
    """Of lists that are long, or not for everybody's eyes, the number of elements alone."""
    lists = [value for value in (before, after) if isinstance(value, tuple)]
    counted = path.startswith("blocked.") or any(len(value) > _LISTED for value in lists)
    return _value(before, after, counted), _value(after, before, counted)


def _value(value: Any, other: Any, counted: bool) -> str:
    if value is None:
        return "absent"
    if not isinstance(value, tuple):
        return msgspec.json.encode(value).decode()
    if counted:
        return f"{len(value)} entries ({len(set(value) - set(other or ()))} of them here only)"
    return ", ".join(map(str, value)) or "none"


def _takes(path: str, before: Rules, after: Rules) -> Takes:
    """Events are folded with bounds, and what was not joined, since one end was shared or full, is not remembered."""
    section, *names = path.split(".")
    match section:
        case "blocked":
            return Takes.NEW_EVENTS
        case "kinds":
            kind, key = names
            refold = _links_more(kind, key, before, after)
        case "limits":
            refold = path == "limits.component_tokens" and _raised(path, before, after)
            if path == "limits.shared_neighbours":
                refold = any(_shared_later(kind, before, after) for kind in _linking(before))
        case "bounds":
            refold = names[0] != "conflicts" and _raised(path, before, after)
        case "computed":
            refold = names[0] in after.computed
        case _:
            refold = section in ("traits", "duplicates")
    return Takes.REFOLD if refold else Takes.RESTART


def _links_more(kind: str, key: str, before: Rules, after: Rules) -> bool:
    """Whether more may be joined than was. An identifier is shared by its neighbours of an equal or stronger kind: with
    other priorities, or without a kind, it may no longer be."""
    one, other = _linking(before), _linking(after)
    if kind not in one:
        return kind in other
    if kind not in other:
        return kind != one[-1]
    match key:
        case "shared":
            return _shared_later(kind, before, after)
        case "priority":
            return [k for k in one if k in other] != [k for k in other if k in one]
    return False


def _linking(rules: Rules) -> list[str]:
    """The kinds that link, the strongest first."""
    return sorted(filter(rules.links, rules.kinds), key=lambda kind: rules.kinds[kind].priority)


def _shared_later(kind: str, before: Rules, after: Rules) -> bool:
    return after.links(kind) and after.shared_at(kind) > before.shared_at(kind)


def _raised(path: str, before: Rules, after: Rules) -> bool:
    section, name = path.split(".")
    one, other = (getattr(getattr(rules, section), name) for rules in (before, after))
    return bool(other > one)
