"""All checks over a snapshot, in few passes: raw, protected (twice), rejected, resolved, profiles, and the changelogs.

Memory: 9 bytes an event, 16 bytes a pair of tokens, 0.3 kB a profile, 0.3 kB a member of a group, 8 bytes a subject
key, and one bucket of events. Rows of groups are not checked but by their profiles.
Disk: `events.protected` and the identify leg's changelogs once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ..adapters.changelog import standing
from ..adapters.partitioner import partitions
from ..adapters.reader import Found
from ..adapters.topic_specs import EVIDENCE, SUBJECT_KEYS, TOKENS
from ..events import ORDERS, Origin, Profile, ProtectedEvent, Topic
from ..stages.content import Event
from ..stages.fold import GROUP
from ..stages.identity_rows import DIGEST, kind_of
from ..stages.link import Rules
from ..stages.recompute import Groups, encode, recompute_part, repeated, with_members
from ..stages.reference import profile_id, unerased
from . import records
from .account import Account
from .buckets import Buckets, Kind, Pairs, batched, id_of, id_of_digest
from .findings import Check, Findings, Report
from .keys import Keys
from .log import Progress, Snapshot, unseen
from .profiles import Profiles
from .tables import Known, Person, Tables

LOGS = (
    *(t.value for t in (Topic.RAW, Topic.PROTECTED, Topic.REJECTED, Topic.RESOLVED, Topic.PROFILES)),
    SUBJECT_KEYS,
    TOKENS,
    EVIDENCE,
)
"""What a snapshot holds."""

_event = msgspec.json.Decoder(Event)


_protected = msgspec.json.Decoder(ProtectedEvent)
_OF_A_GROUP = Origin(Topic.PROTECTED, "", -1, -1)
"""Where there is no event of its own to point at."""


def verify(snapshot: Snapshot, rules: Rules, *, progress: Progress = unseen, directory: Path | None = None) -> Report:
    """Return what was found; `seconds` is left 0. Records are kept in a private directory in `directory` meanwhile."""
    with TemporaryDirectory(prefix="sealstream-verify-", dir=directory) as private:
        return _Run(snapshot, rules, progress, Path(private)).report()


class _Run:
    def __init__(self, snapshot: Snapshot, rules: Rules, progress: Progress, directory: Path) -> None:
        self._snapshot = snapshot
        self._logs = snapshot.logs
        self._rules = rules
        self._progress = progress
        self._directory = directory
        self._findings = Findings()
        self._account = Account(self._logs[Topic.RAW], self._findings)
        self._pairs = Pairs()
        self._events = 0
        self._groups: dict[str, tuple[Profile, Origin]] = {}  # with events of their own, and the oldest of them
        self._members: Groups = {}

    def report(self) -> Report:
        snapshot, logs = self._snapshot, self._logs
        for leg, count in snapshot.behind.items():
            self._findings.add(Check.BEHIND, f"the {leg} leg has not committed all of its input", count=count)
        account = self._account
        for found in self._records(Topic.RAW):
            account.raw(found)
        self._protected()
        for found, origin in self._outputs(Topic.REJECTED):
            account.output(Topic.REJECTED, found, origin)
        profiles = tokens = 0
        if snapshot.settled:
            for _, origin in self._outputs(Topic.RESOLVED):
                account.resolved(origin)
            account.unresolved(logs[Topic.RESOLVED].whole and logs[Topic.PROTECTED].whole)
        else:
            self._findings.add(Check.BEHIND, "identities still move; not checked: resolved, profiles, tables")
        if snapshot.settled and not logs[Topic.PROTECTED].whole:
            self._findings.add(Check.PROFILES, "not checked, nor tables: events.protected has lost its beginning")
        elif snapshot.settled:
            profiles, tokens = self._identity()
        events = account.close(snapshot.committed)
        found_all = self._findings.all()
        return Report(
            not found_all, events, account.duplicates, profiles, tokens, dict(snapshot.behind), found_all, 0.0
        )

    def _records(self, name: str, what: str = "") -> Iterable[Found]:
        log = self._logs[name]
        return self._progress(what or name, log.total, log.records)

    def _outputs(self, topic: Topic) -> Iterator[tuple[Found, Origin]]:
        read = records.rejected if topic == Topic.REJECTED else records.resolved
        for found in self._records(topic):
            origin = read(found)
            if origin is None:
                self._unreadable(topic, found)
            else:
                yield found, origin

    def _unreadable(self, name: str, found: Found) -> None:
        self._findings.add(Check.UNREADABLE, f"{name}: a record is not ours", self._logs[name].place(found))

    def _protected(self) -> None:
        account, pairs, links = self._account, self._pairs, self._rules.links
        keys = Keys(standing(self._records(SUBJECT_KEYS)), self._findings)
        for batch in batched(self._records(Topic.PROTECTED)):
            events = []
            for found in batch:
                event = records.protected(found)
                if event is None:
                    self._unreadable(Topic.PROTECTED, found)
                    continue
                events.append((found, event.origin))
                anchor = event.anchor
                if found.key != anchor.encode():
                    self._findings.add(Check.ANCHOR, "a protected event is not keyed by its anchor", event.origin)
                if not account.output(Topic.PROTECTED, found, event.origin):
                    continue
                self._events += 1
                keys.take(event)
                at = id_of(anchor)
                pairs.add(at, at)
                if links(kind_of(anchor)):
                    for token in event.tokens.values():
                        if token != anchor and links(kind_of(token)):
                            pairs.add(at, id_of(token))
            self._placed(events)
        keys.close()

    def _placed(self, events: list[tuple[Found, Origin]]) -> None:
        """Events written before the topics grew stay where they were."""
        for count in (len(self._logs[Topic.PROTECTED].bounds), *self._snapshot.earlier):
            wanted = partitions([found.key or b"" for found, _ in events], count)
            events = [event for event, partition in zip(events, wanted, strict=True) if event[0].partition != partition]
        for _, origin in events:
            self._findings.add(Check.PARTITION, "a protected event is not on its key's partition", origin)

    # -- identity --------------------------------------------------------------------------------------------------

    def _identity(self) -> tuple[int, int]:
        """Returns how many profiles and tokens there are."""
        profiles = Profiles(self._logs[Topic.PROFILES], self._records(Topic.PROFILES), self._findings)
        with Buckets(self._directory, self._pairs, self._events) as buckets:
            for batch in batched(self._records(Topic.PROTECTED, "events.protected again")):
                self._spill_events(buckets, batch)
            for kind, name in ((Kind.TOKEN, TOKENS), (Kind.EVIDENCE, EVIDENCE)):
                for batch in batched(standing(self._records(name))):
                    self._spill_rows(buckets, kind, name, batch)
        for bucket in self._progress("profiles by bucket", buckets.count, buckets.read()):
            self._bucket(bucket, profiles)
        own = [profile for profile, _ in self._groups.values()]
        for profile in with_members(own, self._members, self._rules):
            token = profile.tokens["group_id"][0]
            _, oldest = self._groups.get(token, (None, _OF_A_GROUP))
            profiles.expect(bytes.fromhex(profile.profile_id), encode(profile), oldest)
        profiles.close()
        return profiles.live, buckets.tokens

    def _spill_events(self, buckets: Buckets, batch: list[Found]) -> None:
        taken, ids = [], []
        for found in batch:
            event = records.protected(found)
            if event is not None and self._account.is_first(found, event.origin):
                taken.append(found)
                ids.append(id_of(event.anchor))
        buckets.write(Kind.EVENT, taken, ids)

    def _spill_rows(self, buckets: Buckets, kind: Kind, name: str, batch: list[Found]) -> None:
        taken, ids = [], []
        for found in batch:
            digest = _routing_digest(found.key or b"", kind)
            if digest is None:
                self._unreadable(name, found)
            else:
                taken.append(found)
                ids.append(id_of_digest(digest))
        buckets.write(kind, taken, ids)

    def _bucket(self, bucket: Iterable[tuple[Kind, Found]], profiles: Profiles) -> None:
        events: dict[Origin, tuple[bytes, Event]] = {}
        rows: dict[Kind, list[Found]] = {Kind.TOKEN: [], Kind.EVIDENCE: []}
        for kind, found in bucket:
            if kind != Kind.EVENT:
                rows[kind].append(found)
                continue
            value = found.value or b""
            event = _event.decode(value)
            o = event.origin
            events[Origin(o.topic, o.incarnation, o.partition, o.offset)] = value, event
        every = [_protected.decode(value) for value, _ in events.values()]
        erased = {event.origin for event in unerased(every)[1]}
        known = self._known(events, erased)
        tables = Tables(
            self._logs[TOKENS],
            self._logs[EVIDENCE],
            len(self._logs[Topic.PROTECTED].bounds),
            rows[Kind.TOKEN],
            rows[Kind.EVIDENCE],
            self._findings,
        )
        people: list[Person] = []
        made, groups = recompute_part(every, self._rules)
        for profile in made:
            tokens = [token for of_kind in profile.tokens.values() for token in of_kind]
            origins = (o for token in tokens for o in known[token].origins if o not in erased)
            oldest = min(origins, key=lambda o: (events[o][1].received_at, o))
            ident = bytes.fromhex(profile.profile_id)
            if tokens[0].startswith(GROUP):
                self._groups[tokens[0]] = profile, oldest
                continue
            profiles.expect(ident, encode(profile), oldest)
            people.append(Person(tokens, ident))
        for origin in sorted(erased):
            profiles.erased(bytes.fromhex(profile_id(events[origin][1].event_id)), origin)
        for token, members in groups.items():
            self._members.setdefault(token, {}).update(members)
        tables.check(known, people)
        tables.close()

    def _known(self, events: Mapping[Origin, tuple[bytes, Event]], erased: Set[Origin]) -> dict[str, Known]:
        """Every token of which the identify leg keeps a row."""
        links = self._rules.links
        first: dict[str, Origin] = {}
        anchored: dict[str, list[Origin]] = defaultdict(list)
        for origin in sorted(events):
            event = events[origin][1]
            first.setdefault(event.anchor, origin)
            anchored[event.anchor].append(origin)
            if event.type != "cut" and links(kind_of(event.anchor)):
                for token in event.tokens.values():
                    if links(kind_of(token)):
                        first.setdefault(token, origin)
        return {
            token: Known(at, anchored[token], self._uncounted(anchored[token], events, erased))
            for token, at in first.items()
        }

    def _uncounted(
        self, origins: list[Origin], events: Mapping[Origin, tuple[bytes, Event]], erased: Set[Origin]
    ) -> int:
        """Of one token's events: an operator's, repeats, and erased ones, which its counters pass over."""
        told = [(o, event) for o in origins if (event := events[o][1]).type not in ORDERS and o not in erased]
        told.sort(key=lambda pair: (pair[1].received_at, pair[0]))
        messages = [(event.source, event.message_id, event.event or event.type) for _, event in told]
        return len(origins) - len(told) + sum(repeated(messages, self._rules.duplicates.window))


def _routing_digest(key: bytes, kind: Kind) -> bytes | None:
    """The digest of the token whose cluster a row belongs to; None for what is no key of the table."""
    if kind == Kind.EVIDENCE and key[0] == 0:
        return key[1 : 1 + DIGEST] if len(key) == 1 + 2 * DIGEST else None
    return key[-DIGEST:] if len(key) > DIGEST else None
