"""Guarantee: what is served is a function of how far each partition was read, whatever the order between partitions.

Against a plain model: the last readable record per partition and id; the token's profile is the newest of those that
name it. On SQLite and on PostgreSQL.

Mutations seen red: the newest by partition, or the oldest; a token that is let go of stays; offset or incarnation not
compared; a transaction per slice; another incarnation, or an old state, goes on; an unreadable record as a tombstone; a
tombstone, or a token let go of, in all partitions; one row per id; deleted content left in pages, or in the log; file
mode 0644, of one that is there, too; another format goes on; a tombstone leaves what its own batch brought; a circle
leads to its last; of TLS nothing asked, `require`, a weaker one let pass, `hostaddr` or the environment not looked at.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from pipeline.adapters import profile_store
from pipeline.adapters.profile_store import Overtaken, Position, ProfileStore, Slice, in_clear
from pipeline.adapters.reader import Found
from pipeline.errors import Misuse, Transient
from tests.adapters import databases
from tests.certificates import Authority
from tests.conftest import CI

TOPIC = "profiles"
PARTITIONS = 3
NOW = 1_790_000_000_000
IDS = [f"{n:032x}" for n in range(1, 5)]
TOKENS = [f"{kind}.1.{n:032x}" for kind in ("user_id", "email") for n in range(3)]
STRANGE = [
    b"",
    b"{",
    b"[]",
    b'{"tokens": 1}',
    b'{"events": {}}',
    b'{"merged_into": "x"}',
    b'{"tokens":{"email":["x"]}}',
]


def profile(ident: str, *tokens: str, **more: Any) -> bytes:
    by_kind: dict[str, list[str]] = {}
    for token in sorted(tokens):
        by_kind.setdefault(token.partition(".")[0], []).append(token)
    return json.dumps({"profile_id": ident, "tokens": by_kind, **more}).encode()


def merged(into: str) -> bytes:
    return json.dumps({"merged_into": into}).encode()


class Model:
    """What is read of each partition, in dictionaries."""

    def __init__(self) -> None:
        self.last: dict[tuple[int, str], tuple[int, int, int, bytes]] = {}

    def take(self, record: Found) -> None:
        ident = (record.key or b"").decode()
        if ident not in IDS or record.value in STRANGE:
            return
        if record.value is None:
            self.last.pop((record.partition, ident), None)
        else:
            self.last[record.partition, ident] = record.timestamp, record.partition, record.offset, record.value

    def _newest(self, says: Callable[[str, dict[str, Any]], bool]) -> bytes | None:
        found = [row for (_, ident), row in self.last.items() if says(ident, json.loads(row[3]))]
        return max(found)[3] if found else None

    def by_token(self, token: str) -> bytes | None:
        return self._newest(lambda _, p: any(token in tokens for tokens in p.get("tokens", {}).values()))

    def by_id(self, ident: str) -> bytes | None:
        for _ in range(len(IDS) + 1):
            value = self._newest(lambda i, _, wanted=ident: i == wanted)  # type: ignore[misc]
            if value is None or "merged_into" not in json.loads(value):
                return value
            ident = json.loads(value)["merged_into"]
        return None


def agree(store: ProfileStore, model: Model) -> None:
    assert {t: store.by_token(t) for t in TOKENS} == {t: model.by_token(t) for t in TOKENS}
    assert {i: store.by_id(i) for i in IDS} == {i: model.by_id(i) for i in IDS}


values = st.one_of(
    st.builds(
        lambda i, t, n: profile(i, *t, events={"x": n}),
        st.sampled_from(IDS),
        st.sets(st.sampled_from(TOKENS)),
        st.integers(0, 3),
    ),
    st.sampled_from(IDS).map(merged),
    st.none(),
    st.sampled_from(STRANGE),
)
records = st.tuples(st.sampled_from([*IDS, "none of ours"]), values, st.integers(-1, 4))
steps = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.lists(records, max_size=5)), max_size=12)
Steps = list[tuple[int, list[tuple[str, bytes | None, int]]]]


class Feed:
    """Hands records over with offsets, some left out as compaction does, and keeps a model beside the store."""

    def __init__(self, store: ProfileStore) -> None:
        self.store = store
        self.model = Model()
        self.at = dict.fromkeys(range(PARTITIONS), 0)
        assert store.begin("A", self.at, NOW, 0) == {p: Position(0, NOW) for p in self.at}

    def slice(self, partition: int, batch: Sequence[tuple[str, bytes | None, int]]) -> Slice:
        first = self.at[partition]
        found = [Found(partition, first + 2 * n, t, k.encode(), v, ()) for n, (k, v, t) in enumerate(batch)]
        return Slice(partition, first, first + 2 * len(batch) + 1, found)

    def take(self, *slices: Slice) -> int:
        unreadable = self.store.take("A", slices)
        for part in slices:
            self.at[part.partition] = part.next
            for record in part.records:
                self.model.take(record)
        return unreadable

    def run(self, todo: Steps) -> None:
        for partition, batch in todo:
            self.take(self.slice(partition, batch))


def binaries() -> Path:
    found = databases.postgresql_binaries()
    if found is None:
        if CI:
            pytest.fail("these tests need PostgreSQL's server; on Debian: apt install postgresql")
        pytest.skip("NO POSTGRESQL, NOTHING PROVED: its server's binaries are not here")
    return found


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with databases.postgresql(binaries()) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database that outlives its store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'profiles.db'}"
    found: str = request.getfixturevalue("postgresql")
    emptied(found)
    return found


def emptied(url: str) -> None:
    engine = profile_store._engine(url)
    profile_store._tables.drop_all(engine)
    engine.dispose()


@pytest.fixture
def store(url: str) -> Iterator[ProfileStore]:
    made = ProfileStore(url, TOPIC)
    yield made
    made.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProfileStore, ProfileStore]]:
    """Two SQLite stores, for all examples of a property."""
    directory = tmp_path_factory.mktemp("two")
    stores = tuple(ProfileStore(f"sqlite:///{directory / name}", TOPIC) for name in ("a.db", "b.db"))
    yield stores[0], stores[1]
    for each in stores:
        each.close()


def feed_of(store: ProfileStore) -> Feed:
    store.forget()
    return Feed(store)


@settings(max_examples=100)
@given(steps)
def test_it_says_what_the_last_record_of_each_id_says(two: tuple[ProfileStore, ProfileStore], todo: Steps) -> None:
    feed = feed_of(two[0])
    feed.run(todo)
    agree(feed.store, feed.model)


@settings(max_examples=6)
@given(st.lists(steps, min_size=1, max_size=3))
def test_postgresql_says_the_same(postgresql: str, lives: list[Steps]) -> None:
    emptied(postgresql)
    feed = Feed(ProfileStore(postgresql, TOPIC))
    for todo in lives:
        feed.run(todo)
        feed.store.close()
        feed.store = ProfileStore(postgresql, TOPIC)
    agree(feed.store, feed.model)
    feed.store.close()


@settings(max_examples=25)
@given(steps, st.data())
def test_the_order_between_partitions_makes_no_difference(
    two: tuple[ProfileStore, ProfileStore], todo: Steps, data: st.DataObject
) -> None:
    feed = feed_of(two[0])
    feed.run(todo)
    waiting = {p: [batch for n, batch in todo if n == p] for p in range(PARTITIONS)}
    other = feed_of(two[1])
    while any(waiting.values()):
        partition = data.draw(st.sampled_from([p for p, batches in waiting.items() if batches]))
        other.take(other.slice(partition, waiting[partition].pop(0)))
    agree(other.store, feed.model)


def test_a_token_that_moves_is_the_newer_profiles_whichever_record_comes_first(url: str) -> None:
    old, new, token = IDS[0], IDS[1], TOKENS[0]
    before = (old, profile(old, token, TOKENS[1]), 1)
    lets_go = (old, profile(old, TOKENS[1]), 2)
    takes = (new, profile(new, token), 2)
    for first, second in (((0, lets_go), (1, takes)), ((1, takes), (0, lets_go))):
        emptied(url)
        feed = Feed(ProfileStore(url, TOPIC))
        feed.run([(0, [before])])
        feed.run([(first[0], [first[1]])])
        agree(feed.store, feed.model)
        feed.run([(second[0], [second[1]])])
        assert feed.store.by_token(token) == takes[1]
        feed.run([(1, [(new, None, 3)])])
        assert feed.store.by_token(token) is None, "the old profile does not name it any more"
        feed.store.close()


def test_when_the_newer_one_lets_go_the_other_one_holds(store: ProfileStore) -> None:
    a, b, token = IDS[0], IDS[1], TOKENS[0]
    feed = Feed(store)
    feed.run([(0, [(a, profile(a, token), 5)]), (1, [(b, profile(b, token), 7)])])
    assert store.by_token(token) == profile(b, token)
    feed.run([(1, [(b, merged(a), 8)])])
    assert store.by_token(token) == profile(a, token)
    assert store.by_id(b) == profile(a, token)


def test_a_slice_counts_once(store: ProfileStore) -> None:
    feed = Feed(store)
    again = feed.slice(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])
    feed.take(again)
    feed.run([(0, [(IDS[0], None, 2)])])
    with pytest.raises(Overtaken):
        store.take("A", [again])
    with pytest.raises(Overtaken):
        store.take("B", [feed.slice(0, [(IDS[1], profile(IDS[1], TOKENS[1]), 1)])])
    agree(store, feed.model)


def test_a_transaction_that_fails_leaves_neither_rows_nor_offsets(store: ProfileStore) -> None:
    feed = Feed(store)
    feed.run([(1, [(IDS[2], profile(IDS[2], TOKENS[2]), 1)])])
    good = feed.slice(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])
    elsewhere = feed.slice(1, [(IDS[1], profile(IDS[1], TOKENS[1]), 1)])
    with pytest.raises(Overtaken):
        store.take("A", [good, elsewhere._replace(first=99)])
    agree(store, feed.model)
    feed.take(good, elsewhere)
    agree(store, feed.model)


def test_it_goes_on_where_it_was_and_a_new_partition_begins_at_the_beginning(url: str) -> None:
    feed = Feed(ProfileStore(url, TOPIC))
    feed.run([(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)]), (2, [(IDS[1], merged(IDS[0]), 1)])])
    feed.store.complete(NOW + 5)
    feed.store.close()
    feed.store = ProfileStore(url, TOPIC)
    positions = feed.store.begin("A", range(PARTITIONS + 1), NOW + 9, NOW)
    assert positions == {p: Position(at, NOW + 5) for p, at in feed.at.items()} | {PARTITIONS: Position(0, NOW + 9)}
    agree(feed.store, feed.model)
    feed.store.close()


@pytest.mark.parametrize(
    ("incarnation", "partitions", "oldest"),
    [("B", PARTITIONS, 0), ("A", PARTITIONS - 1, 0), ("A", PARTITIONS, NOW + 1)],
    ids=["another topic of that name", "fewer partitions", "older than tombstones are kept"],
)
def test_what_cannot_go_on_begins_anew(store: ProfileStore, incarnation: str, partitions: int, oldest: int) -> None:
    feed = Feed(store)
    feed.run([(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])])
    later = NOW + 2
    assert store.begin(incarnation, range(partitions), later, oldest) == dict.fromkeys(
        range(partitions), Position(0, later)
    )
    agree(store, Model())


def test_unreadable_records_are_counted_and_change_nothing(store: ProfileStore) -> None:
    feed = Feed(store)
    feed.run([(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])])
    assert feed.take(feed.slice(0, [(IDS[0], value, 2) for value in STRANGE])) == len(STRANGE)
    foreign = [(key, None, 2) for key in ("", "x", IDS[0].upper()[:31], IDS[0] + "\n")]
    assert feed.take(feed.slice(0, foreign)) == len(foreign)
    assert store.by_token(TOKENS[0]) == profile(IDS[0], TOKENS[0])


def test_a_newer_versions_fields_are_served_as_they_are(store: ProfileStore) -> None:
    value = profile(IDS[0], TOKENS[0], consents=[{"purpose": "mail"}], tokens_of_tomorrow={"a": 1})
    Feed(store).run([(0, [(IDS[0], value, 1)])])
    assert store.by_token(TOKENS[0]) == store.by_id(IDS[0]) == value


def test_pointers_in_a_circle_lead_to_nobody(store: ProfileStore) -> None:
    feed = Feed(store)
    feed.run([(0, [(IDS[0], merged(IDS[1]), 1), (IDS[1], merged(IDS[0]), 1), (IDS[2], merged(IDS[2]), 1)])])
    assert [store.by_id(i) for i in IDS] == [None] * len(IDS)


def test_more_ids_than_one_query_takes(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_store, "_CHUNK", 10)
    many = [f"{n:032x}" for n in range(10, 10 + 2 * profile_store._CHUNK + 1)]
    feed = Feed(store)
    feed.take(feed.slice(0, [(i, profile(i, f"email.1.{i}"), 1) for i in many]))
    feed.take(feed.slice(0, [(i, profile(i, f"email.2.{i}"), 2) for i in many]))
    assert all(store.by_token(f"email.1.{i}") is None for i in many)
    assert all(store.by_token(f"email.2.{i}") == profile(i, f"email.2.{i}") for i in many)


def test_a_database_of_another_topic_is_refused_and_one_of_another_format_read_anew(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(ProfileStore(url, TOPIC))
    feed.run([(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])])
    feed.store.close()
    with pytest.raises(Misuse, match="another topic"):
        ProfileStore(url, "other." + TOPIC)
    monkeypatch.setattr(profile_store, "FORMAT", "2")
    for _ in range(2):
        store = ProfileStore(url, TOPIC)
        agree(store, Model())
        store.close()


def test_of_what_a_tombstone_took_no_byte_is_left_in_the_files(tmp_path: Path) -> None:
    store = ProfileStore(f"sqlite:///{tmp_path / 'profiles.db'}", TOPIC)
    log = Feed(store)
    canary = "canary.3301" * 300
    log.take(log.slice(0, [(IDS[0], profile(IDS[0], TOKENS[0], traits={"plan": canary}), 1)]))
    log.take(log.slice(0, [(IDS[n], profile(IDS[n], TOKENS[n], traits={"plan": f"{n}" * 900}), 1) for n in (1, 2)]))
    log.take(log.slice(0, [(IDS[0], profile(IDS[0], TOKENS[0], traits={"plan": canary}), 2)]))

    def stands() -> bool:
        return any(b"canary.3301" in file.read_bytes() for file in tmp_path.iterdir())

    assert stands()
    log.take(log.slice(0, [(IDS[0], None, 3)]))
    assert not stands()
    store.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profiles.db"
    store = ProfileStore(f"sqlite:///{path}", TOPIC)
    Feed(store).run([(0, [(IDS[0], profile(IDS[0], TOKENS[0]), 1)])])
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert "profiles.db-wal" in modes
    assert set(modes.values()) == {0o600}
    store.close()


@pytest.mark.parametrize("name", ["profiles.db", "profiles.db-wal", "profiles.db-shm"])
def test_a_file_that_others_may_use_is_refused(name: str, tmp_path: Path) -> None:
    for mode in (0o640, 0o604, 0o620):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
        with pytest.raises(Misuse, match=rf"{name}: others may use it; run `chmod 600`"):
            ProfileStore(f"sqlite:///{tmp_path / 'profiles.db'}", TOPIC)


@pytest.mark.parametrize(
    "url", ["nothing", "sqlite://", "sqlite:///:memory:", "mysql://user:geheim@host/db", "oracle://geheim", "://"]
)
def test_other_databases_are_refused_without_repeating_the_url(url: str) -> None:
    with pytest.raises(Misuse, match="SEALSTREAM_SERVE_DATABASE") as caught:
        ProfileStore(url, TOPIC)
    assert "geheim" not in str(caught.value)


HERE = ["@127.0.0.1/d", "@localhost:5/d", "@[::1]/d", "@/d", "@/d?host=/run/pg", "@/d?host=localhost&host=/tmp"]
ELSEWHERE = [
    "@db.example/d",
    "@/d?host=localhost&host=10.0.0.1",
    "@localhost/d?hostaddr=10.0.0.1",
    "@localhost/d?service=x",
]


@pytest.mark.parametrize("place", HERE)
def test_on_this_machine_nothing_is_asked_of_tls(place: str) -> None:
    for more in ({}, {"sslmode": "disable"}):
        url = f"postgresql://u:geheim{place}{'&' if '?' in place else '?'}{urlencode(more)}"
        assert asked(url) == more
        assert not in_clear(url)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_on_the_way_to_another_machine_tls_with_its_name_verified_is_asked_for(place: str) -> None:
    url = f"postgresql://u:geheim{place}{'&' if '?' in place else '?'}"
    good = {"sslmode": "verify-full", "ssl_min_protocol_version": "TLSv1.2"}
    assert asked(url) == asked(url, insecure=True) == asked(f"{url}sslmode=verify-full") == good
    assert asked(f"{url}ssl_min_protocol_version=TLSv1.3") == good | {"ssl_min_protocol_version": "TLSv1.3"}
    assert not in_clear(url)
    less = [f"sslmode={mode}" for mode in ("disable", "allow", "prefer", "require", "verify-ca", "?")]
    for one in (*less, "ssl_min_protocol_version=TLSv1.1"):
        with pytest.raises(Misuse, match=r"^SEALSTREAM_SERVE_DATABASE: .* must be verify-full") as caught:
            asked(url + one)
        assert "geheim" not in str(caught.value)
        assert in_clear(url + one)
        name, _, value = one.partition("=")
        assert asked(url + one, insecure=True) == good | {name: value}


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_what_libpq_takes_from_its_environment_may_lead_to_another_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "10.0.0.1")
    assert asked("postgresql:///d")["sslmode"] == "verify-full"


def asked(url: str, *, insecure: bool = False) -> dict[str, Any]:
    """What the engine that is made of it says to the driver of TLS, beside the URL."""
    engine = profile_store._engine(url, insecure=insecure)
    said: dict[str, Any] = {}

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _args: object, given: dict[str, Any]) -> None:
        said.update({name: value for name, value in given.items() if name.startswith("ssl")})
        raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.connect()
    return said


def test_a_server_is_taken_by_its_certificate_alone(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "ca"), Authority(tmp_path, "stranger")
    with databases.postgresql(binaries(), authority.issue("db.example", 2)) as url:
        port = url.rpartition(":")[2].partition("/")[0]

        def served(name: str, more: str) -> bool:
            try:
                ProfileStore(f"postgresql://test@{name}:{port}/postgres?hostaddr=127.0.0.1&{more}", TOPIC).close()
            except Transient:
                return False
            return True

        assert served("db.example", f"sslrootcert={authority.cert}")
        assert not served("db.example", f"sslrootcert={stranger.cert}")
        assert not served("other.example", f"sslrootcert={authority.cert}")


def test_a_server_without_tls_is_not_taken(postgresql: str, tmp_path: Path) -> None:
    port = postgresql.rpartition(":")[2].partition("/")[0]
    ca = Authority(tmp_path, "ca").cert
    url = f"postgresql://test@db.example:{port}/postgres?hostaddr=127.0.0.1&sslrootcert={ca}"
    with pytest.raises(Transient):
        ProfileStore(url, TOPIC)
    ProfileStore(f"{url}&sslmode=disable", TOPIC, insecure=True).close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_that_does_not_answer_is_transient(kind: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(os.urandom(4096))
    broken.chmod(0o600)
    url = f"sqlite:///{broken}" if kind == "sqlite" else "postgresql://geheim:geheim@127.0.0.1:1/none"
    with pytest.raises(Transient) as caught:
        ProfileStore(url, TOPIC)
    assert "geheim" not in str(caught.value)
