"""Which tokens are one person: a distributed union-find by smallest label, one partition's part of it.

In: unions asked for by events, and messages of `identity`. Out: changed rows, messages, profiles. Rejects: none.
Metrics: `profile`, `merged`, `union`, `evidence`, `assigned`. Cost: 4 µs for the profile of a changed root, 6–9 µs for
a message, and `stages.partition` when links have changed.

A token is a *root* or points to a token that ranks before it. The root's partition holds the evidence: the members of
the cluster and their facts. Every message says something that stays true of the set of events, and is taken in by a
maximum or a union of sets; so the state that no message changes any more is the connected components, whatever
the order, the repetition and the number of partitions.

A cluster is what is *worked on together*, and often more than one person: the root divides it (`stages.partition`) and
announces each part. It only grows; a join that the rules take back stays within it. So that it does not grow beyond
all bounds, a token's owner no longer agrees to be joined with an anchor once its root has said that it is shared (true
for ever, as neighbours only become more), nor to anything when the cluster is full; the other end is told that the two
stay `Apart`. As an anchor a shared token goes on asking, for up to `flow.identify.MAX_LINKS` others. A full cluster is
the one place where the order of events matters.

What is announced has an order all the same, since the last record of a key counts. A root that has been overtaken
may announce its profile once more when it repeats its work after a crash. But then it also hands its evidence on
once more, after that; and a root answers evidence that was handed on (`Evidence.moved`) by announcing its own profiles
and the ids of the tokens in them again, changed or not. So the last word is the final root's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import islice

import msgspec

from ..events import DAY, Merged
from ..ports import Out, Table
from .compose import Said, Written, combine, erased_ids, group_facts, ids, profile, said, with_seen, written
from .fold import joined
from .identity_rows import (
    CAPPED,
    DIGEST,
    FULL,
    SHARED,
    SPLIT,
    Apart,
    Assigned,
    Evidence,
    Facts,
    Join,
    Left,
    Member,
    Message,
    Row,
    Union,
    Visits,
    decode_facts,
    decode_row,
    encode,
    evidence_key,
    group_id,
    kind_of,
    pack,
    pack_members,
    profile_id,
    token_rank,
    unpack,
    unpack_members,
)
from .link import Rules, digest
from .partition import Partitioner
from .size_cap import CAPS, size_cap

SHIPPED_BYTES = 256 * 1024
"""Facts in one message at most; a record of Kafka is 1 MiB by default."""
SHIPPED_TOKENS = 1000

SPLIT_FROM = "split_from"
"""Header of a profile that was part of another one (its id) until now."""

_SHARED, _FULL = "shared", "component_tokens"
_json = msgspec.json.Encoder().encode


class Part:
    """One person of a cluster."""

    __slots__ = ("has_root", "ident", "others", "said", "tokens", "written")

    def __init__(self, tokens: list[str], has_root: bool, said: Said) -> None:
        self.tokens = tokens
        self.has_root = has_root
        self.said = said
        self.others: Facts | None = None  # the facts of the tokens but the root, combined; None: to be made again
        self.ident: bytes = b""  # b"": to be found again
        self.written: Written | None = None


Told = tuple[bytes, int]
"""What a token's owner was told: its profile's id, and bits of `Row.state`."""

Span = tuple[int, int, bool, int, int, int]
"""Of a token's facts, what a division depends on: `linked`, first where there are windows, are there events? And what
only `seen` depends on: first, day of last, `sighted`."""


class Cluster:
    """What a root's partition has decoded of a cluster. `facts` are those of the other members."""

    __slots__ = (
        "apart",
        "as_rule",
        "capped",
        "facts",
        "members",
        "mentioned",
        "parts",
        "plain",
        "retell",
        "shared",
        "spans",
        "stale",
        "told",
    )

    def __init__(self, as_rule: Told | None) -> None:
        self.members: set[str] = set()
        self.facts: dict[str, Facts] = {}
        self.apart: dict[str, str] = {}  # tokens that stay outside → the rule that says so
        self.parts: dict[str, Part] | None = None  # by token; None: to be made again
        self.plain = True  # can the rules not have parted any of them?
        self.spans: dict[str, Span] = {}  # when `parts` was made
        self.shared: set[str] | tuple[()] = ()
        self.stale: dict[str, None] | None = {}  # tokens whose parts are to be announced; None: all
        self.mentioned: dict[str, None] = {}  # tokens whose ids are to be announced as merged
        self.told: dict[str, Told | None] = {}  # None: to be told again
        self.capped = False  # does a cap on size keep tokens out? When `parts` was made
        self.retell = False  # is there something to be told?
        self.as_rule = as_rule  # what those were told that are not in `told`; None: not known


class Resolver:
    """The clusters of one partition, on its two tables. Nothing is written before `flush`."""

    def __init__(self, rules: Rules, tokens: Table, evidence: Table) -> None:
        self._rules = rules
        self._partitioner = Partitioner(rules)
        self._digest = digest(rules)
        self._unchecked: list[bytes] | None = None  # keys of rows to be looked at; None: of all
        self.reevaluated = 0  # roots, since it was last set to 0
        self._tokens, self._evidence = tokens, evidence
        self.rows: dict[str, Row] = {}
        self.clusters: dict[str, Cluster] = {}
        self.folded: dict[str, Row] = {}  # facts changed by events
        self.reborn: set[str] = set()  # of those, the ones with an earlier birth
        self._changed: dict[str, Row] = {}  # anything else changed
        self._touched: dict[str, None] = {}  # roots whose profile is to be announced
        self._messages: list[Out] = []
        self._alerts: list[Out] = []
        self._announced: set[str] = set()  # roots, in this life
        self.now = 0
        """The latest record time taken in (ms ≥ 0): the timestamp of what is sent."""

    def row(self, token: str) -> Row:
        """The row of a token of this partition; of a new one an empty row, a root without events."""
        row = self.rows.get(token)
        if row is None:
            value = self._tokens.get(pack(token))
            row = self.rows[token] = Row() if value is None else decode_row(value)
        return row

    # -- unions ----------------------------------------------------------------------------------------------------

    def join(self, anchor: str, token: str) -> None:
        """An event of `anchor`, of this partition, names `token` as well, for the first time."""
        state = self.row(anchor).state
        if state & FULL:
            self.apart(anchor, [token], full=True)
        elif token_rank(anchor) > token_rank(token):  # of one kind
            self.union(anchor, token)
        else:  # be it shared: a neighbour that is counts as well when the other one is judged, and is seen then
            self._send(token, Join(anchor))

    def joined(self, token: str, anchor: str) -> None:
        """The other end of `join`: `token` is of this partition."""
        state = self.row(token).state
        if state & SHARED and kind_of(token) != kind_of(anchor):
            self._send(anchor, Apart([token], False))
        elif state & FULL:
            self._send(anchor, Apart([token], True))
        else:
            self.union(token, anchor)

    def link(self, anchor: str, token: str) -> None:
        """An operator says that both are one person: `anchor` is of this partition."""
        if token_rank(anchor) > token_rank(token):
            self.union(anchor, token)
        else:
            self._send(token, Union(anchor))

    def union(self, high: str, low: str) -> None:
        """`high`, of this partition, is to be worked on together with `low`, which ranks before it."""
        row = self.row(high)
        if not row.parent:
            self._give_up(high, row, low)
            return
        parent = unpack(row.parent)
        self._forget_evidence(high)
        if parent != low:
            first, second = sorted((parent, low), key=token_rank)
            self._send(second, Union(first))

    def _give_up(self, root: str, row: Row, low: str) -> None:
        """A root becomes a pointer and ships its evidence. Shipped even where there is none: see the module."""
        cluster = self._cluster(root)
        entries = [(root, 0, b"")] if row.facts is None else [(root, row.facts.version, encode(row.facts))]
        for member in sorted(cluster.members):
            facts = cluster.facts.get(member)
            entries.append((member, 0, b"") if facts is None else (member, facts.version, encode(facts)))
        self._ship(low, entries)
        for rule, full in ((_SHARED, False), (_FULL, True)):
            if tokens := sorted(token for token, why in cluster.apart.items() if why == rule):
                self._send(low, Apart(tokens, full))
        self._forget_evidence(root)
        if row.state & CAPPED:
            self._tell_cap(root, row, cluster)
        row.parent = pack(low)
        row.state &= ~SPLIT
        self._changed[root] = row
        self.folded.pop(root, None)  # shipped just now
        self._touched.pop(root, None)

    def _tell_cap(self, root: str, row: Row, cluster: Cluster) -> None:
        """Whether a cap keeps tokens out is otherwise than on-call was told."""
        row.state ^= CAPPED
        self._changed[root] = row
        size, most = len(cluster.members) + 1, self._rules.limits.cluster_tokens
        alert = size_cap(root, size, most, bool(row.state & CAPPED), self.now)
        self._alerts.append(Out(alert.dedup_key.encode(), _json(alert), self.now))

    def apart(self, token: str, others: list[str], *, full: bool) -> None:
        """`others` occurred with a token of the cluster of `token`, of this partition, and stay outside."""
        row = self.row(token)
        if row.parent:
            self._send(unpack(row.parent), Apart(others, full))
            return
        cluster = self._cluster(token)
        rule = _FULL if full else _SHARED
        news = [other for other in others if cluster.apart.get(other) not in (rule, _SHARED)]
        if news:
            cluster.apart.update(dict.fromkeys(news, rule))
            self._put_members(token, cluster)
            cluster.parts = None
            self._touched[token] = None

    def _ship(self, to: str, entries: list[tuple[str, int, bytes]]) -> None:
        part: list[tuple[str, int, bytes]] = []
        size = 0
        for entry in entries:
            if part and (size + len(entry[2]) > SHIPPED_BYTES or len(part) >= SHIPPED_TOKENS):
                self._send(to, Evidence(part, True))
                part, size = [], 0
            part.append(entry)
            size += len(entry[2])
        self._send(to, Evidence(part, True))

    def _forget_evidence(self, root: str) -> None:
        """Delete what a root that is none any more holds; also what a crash between two changelogs has left."""
        self.clusters.pop(root, None)
        key = pack(root)
        members = self._evidence.get(key)
        if members is not None:
            for member in unpack_members(members)[0]:
                self._evidence.delete(evidence_key(root, member))
            self._evidence.delete(key)

    # -- groups ----------------------------------------------------------------------------------------------------

    def visit(self, token: str, anchor: str, time: int, era: int) -> None:
        """An event of `anchor`, of this partition, names the group `token`."""
        self._send(token, Member(anchor, (time, time - time % DAY), era))

    def leave(self, token: str, anchor: str, era: int) -> None:
        """Events of `anchor`, of this partition, named the group `token`, and do not count any more."""
        self._send(token, Left(anchor, era))

    def member(self, token: str, anchor: str, visits: Visits | None, era: int) -> None:
        """An event of `anchor` named the group `token`, of this partition, which is in no cluster with others.

        What is said of a later era takes the place of all that was said before. None: there is nothing in this one yet.
        """
        row, cluster = self.row(token), self._cluster(token)
        before, known = row.members.get(anchor), row.eras.get(anchor, 0)
        after = visits if era > known else before
        if era == known and visits is not None:
            after = joined(before, visits)
        if after == before and era <= known:
            if token in self._announced:
                return
            self._tokens.touch(pack(token))  # as in `evidence`
        else:
            if not row.members:  # it may have been announced under the id of a group before, in a life that is lost
                cluster.mentioned[token] = None
            if era > known:
                row.eras[anchor] = era
            if after is None:
                row.members.pop(anchor, None)
            else:
                row.members[anchor] = after
            if before is None and not known:
                self._make_room(row)
            self._changed[token] = row
        if cluster.stale is not None:
            cluster.stale[token] = None
        self._touched[token] = None

    def _make_room(self, row: Row) -> None:
        """Who was erased keeps his place, so that those who are shown are a function of all who ever came."""
        places = row.members.keys() | row.eras.keys()
        if len(places) > self._rules.bounds.members:
            last = max(places)
            row.members.pop(last, None)
            row.eras.pop(last, None)
            row.crowd = True

    # -- evidence --------------------------------------------------------------------------------------------------

    def evidence(self, token: str, message: Evidence) -> None:
        row = self.row(token)
        if row.parent:
            self._send(unpack(row.parent), Evidence(message.entries, True))
            return
        cluster = self._cluster(token)
        members = cluster.members
        grown = retell = False
        # a life before may have told and announced other ids, and a crash have kept no more of it than the evidence
        unsure = message.moved or token not in self._announced
        for member, version, facts in message.entries:
            if member not in members:
                members.add(member)
                cluster.told[member] = None
                grown = True
            if version:
                self._learn(token, cluster, member, version, facts)
                # its owner, who takes the marker in again after a crash, has forgotten its profile once more
                if not unsure and cluster.facts[member].erasures:
                    cluster.told[member] = None
                    retell = True
            if unsure:
                cluster.mentioned[member] = None
                cluster.told[member] = None  # if it was handed on: it, or one on its way, points elsewhere
        if grown:
            cluster.parts = None
            self._put_members(token, cluster)
        if not message.entries:
            self._say_again(token)
        elif grown or unsure or retell:
            cluster.stale = None
            cluster.retell = True
            self._touched[token] = None
            self._tokens.touch(pack(token))  # an announcement without a changed row would be one that nobody sees

    def _put_members(self, root: str, cluster: Cluster) -> None:
        apart = sorted(cluster.apart.items())
        shared, full = ([token for token, why in apart if why == rule] for rule in (_SHARED, _FULL))
        self._evidence.put(pack(root), pack_members(sorted(cluster.members), shared, full))

    def _learn(self, root: str, cluster: Cluster, member: str, version: int, facts: bytes) -> None:
        known = cluster.facts.get(member)
        if known is not None and known.version >= version:
            return
        new = cluster.facts[member] = decode_facts(facts)
        self._evidence.put(evidence_key(root, member), facts)
        self._touched[root] = None
        if cluster.stale is not None:
            cluster.stale[member] = None
        part = cluster.parts.get(member) if cluster.parts is not None else None
        if part is not None:
            part.others = None
        if known is None or len(known.births) != len(new.births) or known.births[-1:] != new.births[-1:]:
            cluster.mentioned[member] = None
            if part is not None:
                part.ident = b""
        if new.erasures != (0 if known is None else known.erasures):
            self._forget_told(cluster, member)

    def erased(self, token: str, row: Row) -> None:
        """What was known of `token`, of this partition, was erased."""
        if not row.parent:
            cluster = self._cluster(token)
            cluster.as_rule = None  # of a cluster that is decoded only now it would be what the row has just forgotten
            self._forget_told(cluster, token)

    def _forget_told(self, cluster: Cluster, token: str) -> None:
        """With all that was erased the owner of `token` has forgotten its profile."""
        cluster.told[token] = None
        cluster.retell = True
        cluster.mentioned[token] = None

    def assigned(self, token: str, message: Assigned) -> None:
        row = self.row(token)
        root = message.root
        if not row.parent:  # a crash has taken back what made it a pointer
            self._give_up(token, row, root)
        elif (parent := unpack(row.parent)) != root:
            # Mostly one of them is a former root. But after a crash they may be roots that each hold this token's
            # evidence and do not know of each other, and this pointer may be all that joins them.
            first, second = sorted((parent, root), key=token_rank)
            self._send(second, Union(first))
            if first == parent:
                return
            row.parent = pack(root)
            self._changed[token] = row
        state = row.state | message.state
        if row.profile != message.profile or row.state != state:
            row.profile, row.state = message.profile, state
            self._changed[token] = row

    def repeat(self, keys: Iterable[bytes]) -> None:
        """Have the profiles announced again that rows with these keys, of either table, belong to.

        A former owner may have announced them after this one did. Goes through the whole table, so it is for rare use.
        """
        digests = {key[1 : 1 + DIGEST] if key.startswith(b"\0") else key[-DIGEST:] for key in keys}
        for packed in [key for key, _ in self._tokens.items() if key[-DIGEST:] in digests]:
            token = unpack(packed)
            row = self.row(token)
            if row.parent:  # it may have spoken as the root that this token was
                self._send(unpack(row.parent), Evidence([], True))
            else:
                self._say_again(token)

    def _say_again(self, root: str) -> None:
        self._tokens.touch(pack(root))  # as in `evidence`
        cluster = self._cluster(root)
        cluster.told.clear()
        cluster.as_rule = None
        cluster.stale = None
        cluster.retell = True
        self._announced.discard(root)
        self._touched[root] = None

    def _cluster(self, root: str) -> Cluster:
        cluster = self.clusters.get(root)
        if cluster is None:
            row = self.row(root)
            as_rule = None if row.state & SPLIT else (row.profile, row.state & FULL)
            cluster = self.clusters[root] = Cluster(as_rule)
            value = self._evidence.get(pack(root))
            if value is not None:
                members, shared, full = unpack_members(value)
                cluster.members.update(members)
                cluster.apart.update(dict.fromkeys(full, _FULL) | dict.fromkeys(shared, _SHARED))
                for member in members:
                    facts = self._evidence.get(evidence_key(root, member))
                    if facts is not None:
                        cluster.facts[member] = decode_facts(facts)
        return cluster

    def reevaluate(self, most: int) -> None:
        """Look at up to `most` rows: roots that other rules have divided are divided again. 2 µs a row."""
        if self._unchecked is None:
            self._unchecked = [key for key, _ in self._tokens.items()]
        todo = self._unchecked
        for key in todo[-most:]:
            value = self._tokens.get(key)
            if value is None:
                continue
            row = decode_row(value)
            if not row.parent and row.rules != self._digest:
                self._divide_again(unpack(key))
        del todo[-most:]

    def _divide_again(self, root: str) -> None:
        cluster = self._cluster(root)
        cluster.parts, cluster.stale = None, None
        self._touched[root] = None
        self.reevaluated += 1

    # -- what it comes to ------------------------------------------------------------------------------------------

    def flush(self) -> tuple[list[Out], list[Out], list[Out]]:
        """Put changed rows; return the records for `profiles`, the messages and the alerts since the last call."""
        profiles: list[Out] = []
        touched, changed = self._touched, self._changed
        for token, row in self.folded.items():
            changed[token] = row
            if row.parent:
                facts = row.facts
                assert facts is not None
                self._send(unpack(row.parent), Evidence([(token, facts.version, encode(facts))]))
            else:
                touched[token] = None
                stale = self._cluster(token).stale
                if stale is not None:
                    stale[token] = None
        for root in touched:
            self._announce(root, profiles)
        put = self._tokens.put
        for token, row in changed.items():
            put(pack(token), encode(row))
        messages, alerts = self._messages, self._alerts
        self._alerts = []
        self._messages, self._changed, self._touched, self.folded = [], {}, {}, {}
        self.reborn.clear()
        return profiles, messages, alerts

    def _announce(self, root: str, profiles: list[Out]) -> None:
        row, cluster = self.row(root), self._cluster(root)
        known = cluster.facts
        own = row.facts
        if own is None and not known and not row.members and not row.eras:
            return  # members without events yet: their anchors' facts are on the way
        parts = cluster.parts
        stale = cluster.stale
        if (
            parts is not None
            and stale is not None
            and len(stale) == 1
            and self._goes_on(root, row, cluster, parts, profiles)
        ):
            return
        if parts is not None:
            for token in (root, *known) if stale is None else stale:
                facts = own if token == root else known[token]
                if facts is not None and self._span(facts) != cluster.spans.get(token):
                    parts = None
                    break
        divided = parts is None
        if parts is None:
            parts = self._divide(root, row, cluster)
            stale = None
            if row.rules != self._digest:
                row.rules = self._digest
                self._changed[root] = row
            if bool(row.state & CAPPED) != cluster.capped:
                self._tell_cap(root, row, cluster)
        if root not in self._announced:
            # The life before may have announced it under another id, and a crash have taken that back here.
            self._announced.add(root)
            cluster.mentioned.update(dict.fromkeys(known))
            cluster.mentioned[root] = None
            if not cluster.plain:  # and told members so, whose id is now what it was before that
                cluster.told.clear()
                cluster.as_rule = None
                cluster.retell = True
        if root in self.reborn:
            parts[root].ident = b""
            cluster.mentioned[root] = None
        spoken: list[tuple[Part, Facts]] = []
        for part in {id(parts[t]): parts[t] for t in (parts if stale is None else stale)}.values():
            facts = self._facts(part, own if part.has_root else None, cluster)
            if facts is None:
                if not row.members:  # nobody's, or erased
                    divided = divided or part.ident != b""
                    part.ident = b""
                    continue
                facts = group_facts(row.members)
            if not part.ident:
                part.ident = profile_id(facts, facts.births[-1]) if facts.births else group_id(root)
                divided = True
            spoken.append((part, facts))
        came_from: dict[bytes, bytes] = {}
        if divided or cluster.retell:
            came_from = self._tell(root, row, cluster, parts)
            cluster.retell = False
        if cluster.mentioned:
            self._renounce(root, row, cluster, parts, profiles)
        now = self.now
        for part, facts in spoken:
            ident = part.ident
            headers = [(SPLIT_FROM, came_from[ident].hex().encode())] if ident in came_from else []
            traits = self._written(part, row)
            value = profile(ident, part.said, facts, traits, self._rules, row.members, row.crowd)
            profiles.append(Out(ident.hex().encode(), value, now, headers))
        cluster.stale = {}

    def _goes_on(self, root: str, row: Row, cluster: Cluster, parts: dict[str, Part], profiles: list[Out]) -> bool:
        """Announce the part of the one token that has changed, if it is as it was but for what it counts: most are."""
        if cluster.mentioned or cluster.retell or root in self.reborn or root not in self._announced or row.members:
            return False
        (token,) = cluster.stale or {root: None}
        facts = row.facts if token == root else cluster.facts[token]
        part = parts[token]
        before = cluster.spans.get(token)
        if facts is None or not part.ident or before is None:
            return False
        span = self._span(facts)
        if span != before:
            if span[:3] != before[:3]:
                return False
            cluster.spans[token] = span
            part.said = with_seen(part.said, self._partitioner.seen(_known(root, row, cluster), part.tokens))
        whole = self._facts(part, row.facts if part.has_root else None, cluster)
        if whole is None:
            return False
        value = profile(part.ident, part.said, whole, self._written(part, row), self._rules)
        profiles.append(Out(part.ident.hex().encode(), value, self.now))
        cluster.stale = {}
        return True

    def _divide(self, root: str, row: Row, cluster: Cluster) -> dict[str, Part]:
        known = _known(root, row, cluster)
        found = self._partitioner.divide(known, {root, *cluster.members}, cluster.apart)
        parts: dict[str, Part] = {}
        most = self._rules.bounds.conflicts
        for tokens, seen, conflicts in found.parts:
            part = Part(tokens, root in tokens, said(tokens, seen, conflicts, most))
            parts.update(dict.fromkeys(tokens, part))
        cluster.capped = any(c.rule in CAPS for part in found.parts for c in part.conflicts)
        cluster.parts, cluster.shared, cluster.plain = parts, found.shared or (), found.plain
        cluster.spans = {token: self._span(facts) for token, facts in known.items()}
        return parts

    def _span(self, facts: Facts) -> Span:
        first = facts.first
        timed = first if self._partitioner.windows else 0
        return facts.linked, timed, bool(facts.births), first, facts.last // DAY, facts.sighted

    def _tell(self, root: str, row: Row, cluster: Cluster, parts: dict[str, Part]) -> dict[bytes, bytes]:
        """Tell each member's owner what it does not know; return, by new id, the profile that it was part of."""
        room = FULL if len(parts) >= self._rules.limits.component_tokens else 0
        told, shared, as_rule = cluster.told, cluster.shared, cluster.as_rule
        own = parts[root]
        if not told and not shared and as_rule == (own.ident, room) and len(own.tokens) == len(parts):
            return {}  # one person still, and everybody knows
        live = {part.ident for part in parts.values()}
        came_from: dict[bytes, bytes] = {}
        for token, part in parts.items():
            ident = part.ident
            now = ident, room | SHARED if token in shared else room
            before = (row.profile, row.state & ~(SPLIT | CAPPED)) if token == root else told.get(token, as_rule)
            if before == now:
                continue
            if before is not None and before[0] not in (ident, b"") and before[0] in live and ident:
                came_from[ident] = before[0]
            if before is None or before[0] != ident:
                cluster.mentioned[token] = None
            if token == root:
                row.profile, row.state = ident, row.state | now[1]
                self._changed[root] = row
            else:
                self._send(token, Assigned(root, *now))
                told[token] = now
        state = row.state & ~SPLIT | (SPLIT if len(live) > 1 else 0)
        if state != row.state:
            row.state = state
            self._changed[root] = row
        if len(live) == 1 and not shared:
            told.clear()
            cluster.as_rule = row.profile, room
        return came_from

    def _facts(self, part: Part, own: Facts | None, cluster: Cluster) -> Facts | None:
        """Everything that is known of a part; None if no event is."""
        bounds = self._rules.bounds
        if own is not None and not own.births:
            own = None
        if part.others is None:
            others = [f for token in part.tokens if (f := cluster.facts.get(token)) is not None and f.births]
            if not others:
                return own
            part.others = reduce(lambda a, b: combine(a, b, bounds), others)
        return part.others if own is None else combine(own, part.others, bounds, traits=False)

    def _written(self, part: Part, row: Row) -> Written:
        """The traits of a part whose facts are known (`_facts`)."""
        own = row.facts if part.has_root and row.facts is not None and row.facts.births else None
        part.written = written(own, part.others, self._rules.bounds, part.written)
        return part.written

    def _renounce(self, root: str, row: Row, cluster: Cluster, parts: Mapping[str, Part], profiles: list[Out]) -> None:
        """Say of each id that the mentioned tokens may have been announced under that it is part of their profile, or
        by a tombstone that there is none."""
        renounced: dict[bytes, bytes | None] = {}
        for token in sorted(cluster.mentioned):
            facts = row.facts if token == root else cluster.facts.get(token)
            part = parts.get(token)
            if facts is not None and facts.gone:
                renounced.update(dict.fromkeys(erased_ids(facts)))
            if part is None:
                continue
            former = [] if facts is None else ids(facts)
            if row.members or row.eras:
                former.append(group_id(root))
            renounced.update((ident, part.ident or None) for ident in former if ident != part.ident)
        for ident, into in sorted(renounced.items()):
            value = None if into is None else _json(Merged(into.hex()))
            profiles.append(Out(ident.hex().encode(), value, self.now))
        cluster.mentioned.clear()

    def _send(self, to: str, message: Message) -> None:
        self._messages.append(Out(to.encode(), encode(message), self.now))

    def held(self) -> int:
        """How many rows and messages wait for `flush`."""
        return len(self.folded) + len(self._changed) + len(self._messages)

    def trim(self, most: int) -> None:
        """Forget decoded rows and clusters beyond `most` of each, those first that came first; only after `flush`."""
        if len(self._announced) > 4 * most:
            self._announced.clear()  # the others are renounced once more then
        for cached in (self.rows, self.clusters):
            for token in list(islice(cached, max(0, len(cached) - most))):
                del cached[token]


def _known(root: str, row: Row, cluster: Cluster) -> Mapping[str, Facts]:
    """What is known of a cluster's tokens, the root included."""
    return cluster.facts if row.facts is None else {**cluster.facts, root: row.facts}
