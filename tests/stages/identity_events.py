"""What the tests of identity share: rules with limits that bind, and protected events made by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from pipeline.events import Origin, ProtectedEvent, event_id
from pipeline.stages.link import Rules, load_rules

RULES_TEXT = """
version = 1
[kinds]
user_id = { priority = 1, limit = 1 }
email = { priority = 2, limit = 2 }
phone = { priority = 3, limit = 2, window = "1d" }
device_id = { priority = 4, shared = 3 }
anonymous_id = { priority = 5 }
group_id = { priority = 6, links = false }
[limits]
shared_neighbours = 50
cluster_tokens = 12
component_tokens = 100
"""
RULES = load_rules(RULES_TEXT)
DAY = 24 * 3_600_000


def rules(*changes: tuple[str, str]) -> Rules:
    """RULES with some text replaced."""
    text = RULES_TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return load_rules(text)


def token(kind: str, n: int) -> str:
    return f"{kind}.1.{n:032x}"


def user(n: int) -> str:
    return token("user_id", n)


def email(n: int) -> str:
    return token("email", n)


def phone(n: int) -> str:
    return token("phone", n)


def device(n: int) -> str:
    return token("device_id", n)


def anonymous(n: int) -> str:
    return token("anonymous_id", n)


def _rank(text: str) -> tuple[int, str]:
    kind = RULES.kinds.get(text.split(".")[0])
    return kind.priority if kind else 99, text


def seen(
    n: int, *tokens: str, time: int = 1_000, at: int | None = None, kind: str = "track", source: str = "shop"
) -> ProtectedEvent:
    """The event at offset `n`, of the tokens; `at`: when it was received (ms), by default in the order of `n`."""
    origin = Origin("events.raw", "", 0, n)
    names: Sequence[str] = ("left", "right") if kind in ("link", "cut") else [f"f{i}" for i in range(len(tokens))]
    return ProtectedEvent(
        event_id=event_id(origin).hex(),
        origin=origin,
        source="operator" if kind in ("link", "cut") else source,
        schema="made/1",
        type=kind,
        time=time,
        received_at=1_000_000 + n if at is None else at,
        message_id=f"m-{n}",
        anchor=min(tokens, key=_rank),
        tokens=dict(zip(names, tokens, strict=True)),
    )


def erasure(
    n: int, subject: str, *, time: int = 2_000_000, at: int | None = None, partitions: int = 1
) -> ProtectedEvent:
    """The marker at offset `n` of an erasure."""
    made = seen(n, subject, time=time, at=at, kind="erase", source="operator")
    return replace(made, tokens={"subject": subject}, clear={"erasure": f"{1:032x}", "partitions": partitions})


def new(text: str) -> str:
    """The same identifier's token under the next key version."""
    return f"{text.split('.')[0]}.2.{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def again(event: ProtectedEvent, n: int, *, former: bool) -> ProtectedEvent:
    """The same under the next key version at offset `n`, a year later; with `former` in the overlap."""
    made = seen(n, *map(new, event.tokens.values()), time=event.time + 365 * DAY, kind=event.type)
    tokens = made.tokens | ({f"{path}@1": token for path, token in event.tokens.items()} if former else {})
    return replace(made, tokens=tokens, anchor=new(event.anchor))
