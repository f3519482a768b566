"""Event time from three clocks: the device's `timestamp` and `sentAt`, and Kafka's.

A device's clock may be years off, but its two readings are off by the same, so what lay between them is true:
time = received - (sentAt - timestamp). No event happened after it was received. Source: Segment's Spec, "timestamps".
"""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(time: datetime | int | None) -> int | None:
    """Return ms since 1970; a datetime without zone is UTC, an int is ms already."""
    if isinstance(time, datetime):
        since = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)) - _EPOCH
        return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000
    return time


def event_time(timestamp: datetime | int | None, sent: datetime | int | None, received: int) -> int:
    """Return the event's time in ms; `received` is Kafka's record time, negative where there is none."""
    happened = milliseconds(timestamp)
    if happened is None:
        return received
    if received < 0:
        return happened
    if sent is not None:
        happened += received - (milliseconds(sent) or 0)
    return happened if happened < received else received
