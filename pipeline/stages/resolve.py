"""Which tokens are one person: a distributed union-find by smallest label, one partition's part of it.

In: unions asked for by events, and messages of `identity`. Out: changed rows, messages, profiles. Rejects: none.
Metrics: `profile`, `merged`, `union`, `evidence`, `assigned`. Cost: 4 µs for the profile of a changed root, 6–9 µs for
a message.

A token is a *root* or points to a token that ranks before it. The root's partition holds the evidence: the members of
the cluster and their facts. Every message says something that stays true of the set of events, and is taken in by a
maximum or a union of sets; so the state that no message changes any more is the connected components, whatever
the order, the repetition and the number of partitions.

What is announced has an order all the same, since the last record of a key counts. A root that has been overtaken
may announce its profile once more when it repeats its work after a crash. But then it also hands its evidence on
once more, after that; and a root answers evidence that was handed on (`Evidence.moved`) by announcing its own profile
and the ids of the tokens in it again, changed or not. So the last word is the final root's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from itertools import islice

import msgspec

from ..events import Merged
from ..ports import Out, Table
from .compose import combine, ids, profile, tokens_json
from .identity_rows import (
    DIGEST,
    Assigned,
    Evidence,
    Facts,
    Message,
    Row,
    Union,
    decode_facts,
    decode_row,
    encode,
    evidence_key,
    pack,
    pack_members,
    profile_id,
    token_rank,
    unpack,
    unpack_members,
)
from .link import Rules

SHIPPED_BYTES = 256 * 1024
"""Facts in one message at most; a record of Kafka is 1 MiB by default."""
SHIPPED_TOKENS = 1000

_json = msgspec.json.Encoder().encode


class Cluster:
    """What a root's partition has decoded of a cluster. `facts` are those of the other members."""

    __slots__ = ("facts", "ident", "members", "mentioned", "others", "tokens", "untold")

    def __init__(self, members: set[str], facts: dict[str, Facts]) -> None:
        self.members = members
        self.facts = facts
        self.others: Facts | None = None  # `facts` combined; None: to be made again
        self.tokens: msgspec.Raw | None = None  # None: to be made again
        self.ident: bytes = b""  # b"": to be found again
        self.mentioned: set[str] = set()  # tokens whose ids are to be announced as merged
        self.untold: set[str] = set()  # members that are to be told their root


class Resolver:
    """The clusters of one partition, on its two tables. Nothing is written before `flush`."""

    def __init__(self, rules: Rules, tokens: Table, evidence: Table) -> None:
        self._rules = rules
        self._tokens, self._evidence = tokens, evidence
        self.rows: dict[str, Row] = {}
        self.clusters: dict[str, Cluster] = {}
        self.folded: dict[str, Row] = {}  # facts changed by events
        self.reborn: set[str] = set()  # of those, the ones with an earlier birth
        self._changed: dict[str, Row] = {}  # anything else changed
        self._touched: dict[str, None] = {}  # roots whose profile is to be announced
        self._messages: list[Out] = []
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

    def join(self, token: str, other: str) -> None:
        """An event names both; `token` is of this partition. Asks the owner of the higher one for the union."""
        if token_rank(token) > token_rank(other):
            self.union(token, other)
        else:
            self._send(other, Union(token))

    def union(self, high: str, low: str) -> None:
        """`high`, of this partition, belongs together with `low`, which ranks before it."""
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
        self._forget_evidence(root)
        row.parent = pack(low)
        self._changed[root] = row
        self.folded.pop(root, None)  # shipped just now
        self._touched.pop(root, None)

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
            for member in unpack_members(members):
                self._evidence.delete(evidence_key(root, member))
            self._evidence.delete(key)

    # -- evidence --------------------------------------------------------------------------------------------------

    def evidence(self, token: str, message: Evidence) -> None:
        row = self.row(token)
        if row.parent:
            self._send(unpack(row.parent), Evidence(message.entries, True))
            return
        cluster = self._cluster(token)
        members = cluster.members
        grown = False
        for member, version, facts in message.entries:
            new = member not in members
            if new:
                members.add(member)
                cluster.untold.add(member)
                grown = True
            if version:
                self._learn(token, cluster, member, version, facts)
            if message.moved:
                cluster.mentioned.add(member)
                cluster.untold.add(member)  # it, or one on its way, points elsewhere
        if grown:
            cluster.tokens = None
            self._evidence.put(pack(token), pack_members(sorted(members)))
        if not message.entries:
            self._say_again(token)
        elif grown or message.moved:
            self._touched[token] = None
            self._tokens.touch(pack(token))  # an announcement without a changed row would be one that nobody sees

    def _learn(self, root: str, cluster: Cluster, member: str, version: int, facts: bytes) -> None:
        known = cluster.facts.get(member)
        if known is not None and known.version >= version:
            return
        new = cluster.facts[member] = decode_facts(facts)
        cluster.others = None
        self._evidence.put(evidence_key(root, member), facts)
        self._touched[root] = None
        if known is None or len(known.births) != len(new.births) or known.births[-1] != new.births[-1]:
            cluster.ident = b""
            cluster.mentioned.add(member)

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
        if row.profile != message.profile:
            row.profile = message.profile
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
        cluster = self._cluster(root)
        cluster.untold.update(cluster.members)
        self._announced.discard(root)
        self._touched[root] = None

    def _cluster(self, root: str) -> Cluster:
        cluster = self.clusters.get(root)
        if cluster is None:
            value = self._evidence.get(pack(root))
            cluster = Cluster(set(), {})
            if value is not None:
                members = unpack_members(value)
                cluster.members.update(members)
                for member in members:
                    facts = self._evidence.get(evidence_key(root, member))
                    if facts is not None:
                        cluster.facts[member] = decode_facts(facts)
            self.clusters[root] = cluster
        return cluster

    # -- what it comes to ------------------------------------------------------------------------------------------

    def flush(self) -> tuple[list[Out], list[Out]]:
        """Put changed rows; return the records for `profiles` and the messages since the last call."""
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
        for root in touched:
            self._announce(root, profiles)
        put = self._tokens.put
        for token, row in changed.items():
            put(pack(token), encode(row))
        messages = self._messages
        self._messages, self._changed, self._touched, self.folded = [], {}, {}, {}
        self.reborn.clear()
        return profiles, messages

    def _announce(self, root: str, profiles: list[Out]) -> None:
        row = self.row(root)
        cluster = self._cluster(root)
        facts = self._facts(row.facts, cluster)
        if facts is None:
            return  # members without events yet: their anchors' facts are on the way
        if root in self.reborn:
            cluster.ident = b""
            cluster.mentioned.add(root)
        ident = cluster.ident
        if not ident:
            ident = cluster.ident = profile_id(facts, facts.births[-1])
        if cluster.tokens is None:
            cluster.tokens = tokens_json((root, *cluster.members))
        now = self.now
        other = ident != row.profile
        if other:
            row.profile = ident
            self._changed[root] = row
            cluster.untold.update(cluster.members)
        if other or root not in self._announced:
            # The life before may have announced it under another id, and a crash have taken that back here.
            self._announced.add(root)
            cluster.mentioned.update(cluster.facts)
            cluster.mentioned.add(root)
        if cluster.mentioned:
            self._renounce(root, row, cluster, profiles)
        profiles.append(Out(ident.hex().encode(), profile(ident, cluster.tokens, facts, self._rules), now))
        if cluster.untold:
            for member in sorted(cluster.untold):
                self._send(member, Assigned(root, ident))
            cluster.untold.clear()

    def _facts(self, own: Facts | None, cluster: Cluster) -> Facts | None:
        """Everything that is known of a root's cluster."""
        if not cluster.facts:
            return own
        bounds = self._rules.bounds
        if cluster.others is None:
            cluster.others = reduce(lambda a, b: combine(a, b, bounds), cluster.facts.values())
        return cluster.others if own is None else combine(own, cluster.others, bounds)

    def _renounce(self, root: str, row: Row, cluster: Cluster, profiles: list[Out]) -> None:
        """Say of each id that the mentioned tokens may have been announced under that it is part of this profile."""
        value = _json(Merged(cluster.ident.hex()))
        renounced: set[bytes] = set()
        for token in sorted(cluster.mentioned):
            facts = row.facts if token == root else cluster.facts.get(token)
            if facts is not None:
                renounced.update(ids(facts))
        renounced.discard(cluster.ident)
        profiles.extend(Out(ident.hex().encode(), value, self.now) for ident in sorted(renounced))
        cluster.mentioned.clear()

    def _send(self, to: str, message: Message) -> None:
        self._messages.append(Out(to.encode(), encode(message), self.now))

    def trim(self, most: int) -> None:
        """Forget decoded rows and clusters beyond `most` of each, those first that came first; only after `flush`."""
        if len(self._announced) > 4 * most:
            self._announced.clear()  # the others are renounced once more then
        for cached in (self.rows, self.clusters):
            for token in list(islice(cached, max(0, len(cached) - most))):
                del cached[token]
