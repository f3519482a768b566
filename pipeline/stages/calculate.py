"""Keep what computed traits are made from, and make them.

In: what `content` reads of events, in any order; the amounts of each event once. Out: changed `Calculated`, and a
profile's values. Cost: 3 µs a trait of an event, 1.5 µs a trait of a profile.

Sums are integers, so that no order of addition matters. Days older than a trait's period are forgotten: a profile's
last day only grows, so they would never count again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..events import DAY
from .computed import Computed, Op
from .content import Amounts, signed
from .identity_rows import Amount, Calculated, Trait, later, moved

_BEFORE_ALL = -(1 << 63)


def add(state: Calculated, amounts: Amounts, time: int, last: int, values: int) -> list[Amount]:
    """Count an event at `time`; returns what was added. `last`: the latest event's time; `values`: their bound."""
    added: list[Amount] = []
    for trait, amount in amounts:
        key, day = trait.key, time // DAY if trait.days else 0
        match trait.op:
            case Op.COUNT:
                _count(state.counts.setdefault(key, {}), day, trait, last)
            case Op.SUM:
                sums = state.sums.setdefault(key, {})
                n, total = sums.get(day, (0, b""))
                sums[day] = n + 1, signed(_int(total) + _int(amount))
                if n == 0:
                    _expire(sums, trait, last)
            case _:
                days = notice(state, trait, amount, values)
                if days is not None:
                    _count(days, day, trait, last)
        added.append((key, day, amount))
    return added


def _count(counts: dict[int, int], day: int, trait: Computed, last: int) -> None:
    if day in counts:
        counts[day] += 1
    else:
        counts[day] = 1
        _expire(counts, trait, last)


def _expire(kept: dict[int, int] | dict[int, Trait] | dict[int, tuple[int, bytes]], trait: Computed, last: int) -> None:
    if trait.days:
        end = last // DAY - trait.days
        for day in [day for day in kept if day <= end]:
            del kept[day]


def notice(state: Calculated, trait: Computed, value: bytes, bound: int) -> dict[int, int] | None:
    """The days of a value that occurred, whether it counts or not; None if it is beyond the `bound` that sort first."""
    tally = state.tallies.setdefault(trait.key, {})
    days = tally.get(value)
    if days is None:
        days = tally[value] = {}
        if len(tally) > bound:
            last = max(tally)
            del tally[last]
            if last == value:
                return None
    return days


def take_back(state: Calculated, added: Iterable[Amount]) -> None:
    """Undo `add`, of which a part may have been forgotten since."""
    for key, day, amount in added:
        if day in (counts := state.counts.get(key, {})):
            _less(counts, day)
        elif day in (sums := state.sums.get(key, {})):
            n, total = sums[day]
            if n == 1:
                del sums[day]
            else:
                sums[day] = n - 1, signed(_int(total) - _int(amount))
        elif day in (days := state.tallies.get(key, {}).get(amount, {})):
            _less(days, day)


def _less(counts: dict[int, int], day: int) -> None:
    if counts[day] == 1:
        del counts[day]
    else:
        counts[day] -= 1


def keep_extremes(
    state: Calculated, values: Amounts, at: tuple[int, int, int, int], streams: list[str], last: int
) -> None:
    """Take in the values of the event written at (time, stream, partition, offset)."""
    for trait, value in values:
        write: Trait = (*at, value)
        if trait.op is Op.LAST:
            before = state.lasts.get(trait.key)
            state.lasts[trait.key] = write if before is None else _later(before, write, streams)
            continue
        firsts = state.firsts.setdefault(trait.key, {})
        day = at[0] // DAY if trait.days else 0
        before = firsts.get(day)
        if before is not None:
            firsts[day] = _earlier(before, write, streams)
        else:
            firsts[day] = write
            _expire(firsts, trait, last)


def _later(a: Trait, b: Trait, streams: list[str]) -> Trait:
    return b if later(streams, b, a) else a


def _earlier(a: Trait, b: Trait, streams: list[str]) -> Trait:
    return b if later(streams, a, b) else a


def forget_others(state: Calculated, computed: Mapping[str, Computed]) -> None:
    """Drop what belongs to declarations that are none any more, once there is more than there are declarations."""
    every: tuple[dict[str, Any], ...] = state.counts, state.sums, state.firsts, state.lasts, state.tallies
    if sum(map(len, every)) <= len(computed):
        return
    keys = {trait.key for trait in computed.values()}
    for kept in every:
        for key in kept.keys() - keys:
            del kept[key]


# -- of several tokens --------------------------------------------------------------------------------------------


def combine_calculated(
    a: Calculated | None, b: Calculated | None, streams: list[str], b_index: list[int], values: int
) -> Calculated | None:
    """What both say; neither is changed. `b_index`: where the streams of `b` stand in `streams`."""
    if b is None:
        return a
    firsts = {key: {d: moved(t, b_index) for d, t in kept.items()} for key, kept in b.firsts.items()}
    lasts = {key: moved(t, b_index) for key, t in b.lasts.items()}
    if a is None:
        return Calculated(b.counts, b.sums, firsts, lasts, b.tallies)
    made = Calculated(
        {key: dict(days) for key, days in a.counts.items()},
        {key: dict(days) for key, days in a.sums.items()},
        {key: dict(days) for key, days in a.firsts.items()},
        dict(a.lasts),
        {key: {value: dict(days) for value, days in tally.items()} for key, tally in a.tallies.items()},
    )
    for key, counts in b.counts.items():
        _add_counts(made.counts.setdefault(key, {}), counts)
    for key, sums in b.sums.items():
        into = made.sums.setdefault(key, {})
        for day, (n, total) in sums.items():
            m, before = into.get(day, (0, b""))
            into[day] = m + n, signed(_int(before) + _int(total))
    for key, kept in firsts.items():
        ours = made.firsts.setdefault(key, {})
        for day, first in kept.items():
            ours[day] = _earlier(ours[day], first, streams) if day in ours else first
    for key, last in lasts.items():
        made.lasts[key] = _later(made.lasts[key], last, streams) if key in made.lasts else last
    for key, tally in b.tallies.items():
        theirs = made.tallies.setdefault(key, {})
        for value, counts in tally.items():
            _add_counts(theirs.setdefault(value, {}), counts)
        for value in sorted(theirs)[values:]:
            del theirs[value]
    return made


def _add_counts(into: dict[int, int], counts: Mapping[int, int]) -> None:
    for day, n in counts.items():
        into[day] = into.get(day, 0) + n


# -- of a profile -------------------------------------------------------------------------------------------------


def values_of(state: Calculated, computed: Mapping[str, Computed], last: int) -> dict[str, int | msgspec.Raw]:
    """The traits by name, without those that no event of their period has a value for. `last`: of the profile."""
    found: dict[str, int | msgspec.Raw] = {}
    for name, trait in computed.items():
        value = _value(state, trait, last // DAY - trait.days if trait.days else _BEFORE_ALL)
        if value is not None:
            found[name] = value
    return found


def _value(state: Calculated, trait: Computed, end: int) -> int | msgspec.Raw | None:
    """`end`: the day after which events count."""
    key = trait.key
    match trait.op:
        case Op.COUNT:
            return sum(n for day, n in state.counts.get(key, {}).items() if day > end) or None
        case Op.SUM:
            totals = [_int(total) for day, (_, total) in state.sums.get(key, {}).items() if day > end]
            return msgspec.Raw(_number(sum(totals))) if totals else None
        case Op.FIRST:
            days = [day for day in state.firsts.get(key, {}) if day > end]
            return msgspec.Raw(state.firsts[key][min(days)][4]) if days else None
        case Op.LAST:
            last = state.lasts.get(key)
            return None if last is None or last[0] // DAY <= end else msgspec.Raw(last[4])
        case Op.MOST_FREQUENT:
            tally = state.tallies.get(key, {})
            counts = {value: sum(n for day, n in days.items() if day > end) for value, days in tally.items()}
            counts = {value: n for value, n in counts.items() if n}
            return msgspec.Raw(min(counts, key=lambda value: (-counts[value], value))) if counts else None


def _int(signed_bytes: bytes) -> int:
    return int.from_bytes(signed_bytes, "little", signed=True)


def _number(millionths: int) -> bytes:
    """As a JSON number, without a fraction that is none."""
    whole, rest = divmod(abs(millionths), 1_000_000)
    text = f"{'-' if millionths < 0 else ''}{whole}" + (f".{rest:06d}".rstrip("0") if rest else "")
    return text.encode()
