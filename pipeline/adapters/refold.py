"""The identify leg's state is dropped, so that the workers fold every event anew; ids stay, since they go by origins.

1. A marker on `control`, with how the changelogs were made: from here on no identify worker starts (`begun`).
2. The group goes to the beginning of `events.protected`, and to the end of `identity`: what stands there was said by
   the earlier state, whose versions of facts could outlive the new ones.
3. The changelogs are deleted and made again, as they were.
4. The marker is taken away.

A repetition does all of it once more, with the marker's account of the changelogs, whatever the interruption has left:
a topic that was deleted, or one that is new already. Until the first changelog is deleted the old state is whole, and
workers that started again would fold nothing twice; so a broker that refuses the deletion leaves nothing behind.

Nothing is written to `profiles` here. The workers announce each profile again, and renounce each id that an event's
token was ever announced under, so what stood there before is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ..errors import Misuse, Transient
from . import control, topics
from .positions import Positions
from .resize import earlier_of
from .standstill import members
from .topic_specs import Spec

_MARKER = b"identity/refold"

Tell = Callable[[str], None]
"""Called with what is done next."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Topics by their names on the broker, but `events` and `messages` by their contractual ones."""

    control: str
    leg: str
    group: str
    events: str
    """Folded again from its beginning."""
    messages: str
    """Passed over to its end."""
    sources: tuple[str, ...]
    """Both of them, by their names on the broker."""
    changelogs: tuple[str, ...]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What an installation looks like before."""

    members: int
    starts: Mapping[int, int]
    """Partition of `events` → the first offset that it keeps."""
    partitions: Mapping[str, int]
    """Of sources and changelogs that are there."""
    earlier: tuple[int, ...]
    """Numbers of partitions that the topics had before they grew."""
    begun: bool
    """An earlier run has not come to its end."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    dry_run: bool
    resumed: bool
    events: int
    """Records of `events.protected` that are folded again."""
    changelogs: tuple[str, ...]
    blocked: tuple[str, ...] = ()
    """What forbids it; only in a dry run, else it is an error."""


UNFINISHED = "`sealstream identity refold` has not come to its end; repeat it, then start the workers"


class _Marker(msgspec.Struct, frozen=True):
    changelogs: list[Spec]


def blockers(plan: Plan, found: Found) -> list[str]:
    """What must be done before it can begin, or why it never can."""
    reasons = []
    if found.members:
        reasons.append(
            f"{plan.group} has {found.members} members: stop the identify workers (a killed one counts until its "
            "session ends)"
        )
    if lost := sum(start > 0 for start in found.starts.values()):
        reasons.append(
            f"{plan.events} has lost its beginning in {lost} partitions (retention): what those events said stands in "
            "the state alone, and would be gone"
        )
    if found.earlier:
        reasons.append(
            f"{plan.events} had fewer partitions once: its old events are not where their keys live now, and would be "
            "folded by the wrong owner"
        )
    needed = plan.sources if found.begun else (*plan.sources, *plan.changelogs)
    if missing := sorted(set(needed) - found.partitions.keys()):
        reasons.append(f"topics are missing: {', '.join(missing)}; run `sealstream topics apply`")
    if len(set(found.partitions.values())) > 1:
        reasons.append("topics differ in their number of partitions; repeat the `sealstream topics resize` that began")
    return reasons


def begun(standing: Mapping[bytes, bytes]) -> bool:
    """Whether a run was interrupted, by what stands on `control`: no worker may start on what it has left."""
    return _MARKER in standing


class Refold:
    """One run. Raises `Transient` when the broker does not answer, and then can be repeated."""

    def __init__(
        self, bootstrap: str, security: Mapping[str, str], plan: Plan, positions: Callable[[], Positions], tell: Tell
    ) -> None:
        self._kafka = (bootstrap, security)
        self._plan, self._positions, self._tell = plan, positions, tell

    def run(self, *, dry_run: bool = False) -> Report:
        """Raises `Misuse` if something forbids it (`blockers`), and if the broker refuses to delete topics."""
        plan = self._plan
        with self._positions() as at:
            standing = control.standing(*self._kafka, plan.control)
            bounds = at.bounds(plan.events)
            found = self._look(standing, {p: start for p, (start, _) in bounds.items()})
            blocked = blockers(plan, found)
            report = Report(
                dry_run=dry_run,
                resumed=found.begun,
                events=sum(end - start for start, end in bounds.values()),
                changelogs=plan.changelogs,
                blocked=tuple(blocked),
            )
            if dry_run:
                return report
            if blocked:
                raise Misuse("; ".join(blocked))
            made = self._begin(standing)
            self._move(at)
            self._renew(made, untouched=not found.begun)
        self._tell("looking whether nobody came in meanwhile")
        if self._members():
            raise Misuse("a worker came in meanwhile: stop the identify workers, then repeat `identity refold`")
        control.put(*self._kafka, plan.control, _MARKER, None)
        return report

    def _look(self, standing: Mapping[bytes, bytes], starts: Mapping[int, int]) -> Found:
        return Found(
            members=self._members(),
            starts=starts,
            partitions=topics.present(*self._kafka, (*self._plan.sources, *self._plan.changelogs)),
            earlier=earlier_of(standing),
            begun=begun(standing),
        )

    def _members(self) -> int:
        return members(*self._kafka, [self._plan.group])[self._plan.group]

    def _begin(self, standing: Mapping[bytes, bytes]) -> Sequence[Spec]:
        if _MARKER in standing:
            return msgspec.json.decode(standing[_MARKER], type=_Marker).changelogs
        self._tell("noting on control that it begins; no identify worker starts from here on")
        made = topics.as_made(*self._kafka, self._plan.changelogs)
        control.put(*self._kafka, self._plan.control, _MARKER, msgspec.json.encode(_Marker(made)))
        return made

    def _move(self, at: Positions) -> None:
        plan = self._plan
        self._tell(f"moving {plan.group} to the beginning of {plan.events} and the end of {plan.messages}")
        at.move(plan.leg, plan.events, {p: start for p, (start, _) in at.bounds(plan.events).items()})
        at.move(plan.leg, plan.messages, {p: end for p, (_, end) in at.bounds(plan.messages).items()})

    def _renew(self, made: Sequence[Spec], *, untouched: bool) -> None:
        """`untouched`: nothing was deleted before, so if the first deletion is refused all is as it was."""
        before = topics.topic_ids(*self._kafka, self._plan.changelogs)
        self._tell(f"deleting {', '.join(self._plan.changelogs)}")
        try:
            topics.remove(*self._kafka, self._plan.changelogs)
        except Misuse:
            if untouched and topics.topic_ids(*self._kafka, self._plan.changelogs) == before:
                control.put(*self._kafka, self._plan.control, _MARKER, None)
            raise
        self._tell(f"making {', '.join(self._plan.changelogs)}")
        topics.apply(*self._kafka, made)
        after = topics.topic_ids(*self._kafka, self._plan.changelogs)
        if any(after[name] in ("", before[name]) for name in after):
            raise Transient("Kafka has not made the changelogs again yet; repeat `sealstream identity refold`")
