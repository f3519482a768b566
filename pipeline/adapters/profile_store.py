"""The topic `profiles` in SQL, so that a profile is found by any of its tokens: SQLite in a file, or PostgreSQL.

The tables mirror the topic, partition by partition: of each id the last record read, the tokens that it names, and the
offset at which to go on. All rows of a transaction and its offsets become durable together, so each record counts
once, however the reader ends. Nothing that is read of one partition changes a row of another; so the state is a
function of how far each partition was read, in whatever order their records arrive.

Whose a token is, is decided when it is asked for: of the profiles that name it then, the one with the newest record
(Kafka time; then partition and offset, to be definite). When that one lets go of it, or is gone, the other one holds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ..certificates import is_loopback
from ..errors import Misuse, Transient
from ..stages.profile_records import follow, profile_id, said
from .reader import Found

FORMAT = "1"
"""Of the tables; those of another one are dropped and read again from the topic."""
_WAIT_SECONDS = 10.0
_TLS = {"sslmode": ("verify-full",), "ssl_min_protocol_version": ("TLSv1.2", "TLSv1.3")}
"""By libpq's names what is good enough beyond this machine, the default first."""
_ELSEWHERE = {"hostaddr", "service"}
"""Where these are given, the host does not say where the connection leads."""
_CHUNK = 500
"""Values in one `IN (…)`: SQLite takes 32,766 parameters, older ones 999."""

_tables = MetaData()
ABOUT = Table("profile_about", _tables, Column("name", String, primary_key=True), Column("value", String))
POSITIONS = Table(
    "profile_positions",
    _tables,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("incarnation", String, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("complete_at", BigInteger, nullable=False),
)
RECORDS = Table(
    "profile_records",
    _tables,
    Column("profile_id", String(32), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("merged_into", String(32)),
    Column("body", LargeBinary),
)
"""`body` is the record's value of a profile, None of one that is merged into another."""
HOLDS = Table(
    "profile_tokens",
    _tables,
    Column("token", String, primary_key=True),
    Column("profile_id", String(32), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)
_NEWEST_FIRST = RECORDS.c.at.desc(), RECORDS.c.partition.desc(), RECORDS.c.offset.desc()
_BY_TOKEN = (
    select(RECORDS.c.body)
    .join(HOLDS, (HOLDS.c.profile_id == RECORDS.c.profile_id) & (HOLDS.c.partition == RECORDS.c.partition))
    .where(HOLDS.c.token == bindparam("token"))
    .order_by(*_NEWEST_FIRST)
    .limit(1)
)
_BY_ID = (
    select(RECORDS.c.merged_into, RECORDS.c.body)
    .where(RECORDS.c.profile_id == bindparam("profile_id"))
    .order_by(*_NEWEST_FIRST)
    .limit(1)
)


class Position(NamedTuple):
    """`complete_at`: ms; all that had been written to the partition by then was read."""

    next_offset: int
    complete_at: int


class Slice(NamedTuple):
    """Records of one partition in offset order, which take its position from `first` to `next`."""

    partition: int
    first: int
    next: int
    records: Sequence[Found]


class Overtaken(Transient):
    """Somebody else has moved the position: nothing was changed; go on from where it stands now."""


class ProfileStore:
    """Threads: one writes, any number read.

    Every call raises `Transient` where the database does not answer. Its messages and exceptions hold no row.
    """

    def __init__(self, url: str, topic: str, *, insecure: bool = False) -> None:
        """`url`: SQLAlchemy's, `sqlite:///file` or `postgresql://user@host/database`; `topic` with its prefix.

        `insecure`: the URL may ask for less than verified TLS on the way to another machine (`in_clear`).

        `Misuse` for another kind of database, a driver that is missing, or a database that holds another topic.
        """
        self._engine = _engine(url, insecure=insecure)
        try:
            with self._talking():
                self._prepare(topic)
        except BaseException:
            self.close()
            raise

    def _prepare(self, topic: str) -> None:
        with self._engine.begin() as db:
            ABOUT.create(db, checkfirst=True)
            about = {row.name: row.value for row in db.execute(select(ABOUT))}
            if about.get("topic", topic) != topic:
                raise Misuse("SEALSTREAM_SERVE_DATABASE holds the profiles of another topic; give each its own")
            if about.get("format", FORMAT) != FORMAT:
                _tables.drop_all(db)
                about = {}
            _tables.create_all(db)
            if not about:
                rows = [{"name": "topic", "value": topic}, {"name": "format", "value": FORMAT}]
                db.execute(self._upsert(ABOUT), rows)

    def close(self) -> None:
        self._engine.dispose()

    # -- reading along ---------------------------------------------------------------------------------------------

    def begin(self, incarnation: str, partitions: Iterable[int], now: int, oldest: int) -> dict[int, Position]:
        """Return where to go on in each of the topic's partitions, from the beginning in those that are new.

        All is forgotten if it was read of another incarnation of the topic, or before `oldest` (ms): tombstones of
        what is gone since may be compacted away.
        """
        wanted = set(partitions)
        with self._talking(), self._engine.begin() as db:
            rows = db.execute(select(POSITIONS)).all()
            if any(r.incarnation != incarnation or r.partition not in wanted or r.complete_at < oldest for r in rows):
                self._forget(db)
                rows = []
            found = {r.partition: Position(r.next_offset, r.complete_at) for r in rows}
            for number in sorted(wanted - found.keys()):
                found[number] = Position(0, now)
                row = {"partition": number, "incarnation": incarnation, "next_offset": 0, "complete_at": now}
                db.execute(self._upsert(POSITIONS), row)
            return found

    def forget(self) -> None:
        """Delete everything; the next `begin` starts anew."""
        with self._talking(), self._engine.begin() as db:
            self._forget(db)

    @staticmethod
    def _forget(db: Connection) -> None:
        for table in (HOLDS, RECORDS, POSITIONS):
            db.execute(delete(table))

    def take(self, incarnation: str, slices: Sequence[Slice]) -> int:
        """Take slices of different partitions in, all or nothing; return how many records were unreadable.

        Raises:
            Overtaken: a position is not where a slice begins.
        """
        unreadable = 0
        with self._talking(), self._engine.begin() as db:
            for part in slices:
                moved = db.execute(
                    update(POSITIONS)
                    .where(POSITIONS.c.partition == part.partition)
                    .where(POSITIONS.c.incarnation == incarnation, POSITIONS.c.next_offset == part.first)
                    .values(next_offset=part.next)
                )
                if moved.rowcount != 1:
                    raise Overtaken("another process follows the topic into the same database")
                unreadable += self._take(db, part)
        if self._engine.dialect.name == "sqlite" and any(r.value is None for part in slices for r in part.records):
            self._truncate()
        return unreadable

    def _truncate(self) -> None:
        """Empty the write-ahead log, in which earlier pages of what was deleted may stand."""
        with self._talking(), self._engine.connect() as db:
            db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def complete(self, now: int) -> None:
        """Note that all that had been written by `now` (ms) was read."""
        with self._talking(), self._engine.begin() as db:
            db.execute(update(POSITIONS).values(complete_at=now))

    def _take(self, db: Connection, part: Slice) -> int:
        tokens: dict[str, frozenset[str]] = {}
        rows: dict[str, dict[str, Any]] = {}
        unreadable = 0
        for record in part.records:
            ident = profile_id(record.key)
            content = None if record.value is None else said(record.value)
            if ident is None or (record.value is not None and content is None):
                unreadable += 1
                continue
            rows.pop(ident, None)
            tokens[ident] = frozenset() if content is None else content.tokens
            if content is not None:
                rows[ident] = {
                    "profile_id": ident,
                    "partition": part.partition,
                    "at": record.timestamp,
                    "offset": record.offset,
                    "merged_into": content.merged_into,
                    "body": None if content.merged_into else record.value,
                }
        held = self._held(db, part.partition, list(tokens))
        gone = [(t, i) for i, before in held.items() for t in before - tokens[i]]
        new = [(t, i) for i, after in tokens.items() for t in after - held.get(i, frozenset())]
        self._delete(db, part.partition, gone, [i for i in held if i not in rows])
        if new:
            db.execute(insert(HOLDS), [{"token": t, "profile_id": i, "partition": part.partition} for t, i in new])
        if rows:
            db.execute(self._upsert(RECORDS), list(rows.values()))
        return unreadable

    @staticmethod
    def _held(db: Connection, partition: int, idents: Sequence[str]) -> dict[str, frozenset[str]]:
        """Id → the tokens that its row names, of those that have one."""
        found: dict[str, frozenset[str]] = {}
        for chunk in _chunks(idents):
            query = select(RECORDS.c.profile_id, RECORDS.c.body)
            query = query.where(RECORDS.c.partition == partition, RECORDS.c.profile_id.in_(chunk))
            for ident, body in db.execute(query):
                content = None if body is None else said(bytes(body))
                found[ident] = frozenset() if content is None else content.tokens
        return found

    @staticmethod
    def _delete(db: Connection, partition: int, holds: Sequence[tuple[str, str]], idents: Sequence[str]) -> None:
        here = {"p": partition}
        if holds:
            one = delete(HOLDS).where(HOLDS.c.token == bindparam("t"), HOLDS.c.profile_id == bindparam("i"))
            db.execute(one.where(HOLDS.c.partition == bindparam("p")), [{"t": t, "i": i, **here} for t, i in holds])
        if idents:
            one = delete(RECORDS).where(RECORDS.c.profile_id == bindparam("i"), RECORDS.c.partition == bindparam("p"))
            db.execute(one, [{"i": i, **here} for i in idents])

    def _upsert(self, table: Table) -> Any:
        made = (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)
        new = {c.name: made.excluded[c.name] for c in table.columns if not c.primary_key}
        return made.on_conflict_do_update(index_elements=list(table.primary_key), set_=new)

    # -- being asked -----------------------------------------------------------------------------------------------

    def by_token(self, token: str) -> bytes | None:
        """Return the JSON of the profile that the token belongs to."""
        with self._talking(), self._engine.connect() as db:
            body = db.execute(_BY_TOKEN, {"token": token}).scalar()
            return None if body is None else bytes(body)

    def by_id(self, ident: str) -> bytes | None:
        """Return the JSON of the profile that `ident` is, or has been merged into."""
        bodies: dict[str, bytes] = {}
        with self._talking(), self._engine.connect() as db:

            def merged_into(one: str) -> str | None:
                row = db.execute(_BY_ID, {"profile_id": one}).first()
                if row is not None and row.body is not None:
                    bodies[one] = bytes(row.body)
                return None if row is None else row.merged_into

            last = follow(ident, merged_into)
            return None if last is None else bodies.get(last)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:  # the latter: on a new connection
            raise Transient(f"the profile database does not answer as it should ({type(error).__name__})") from None


def in_clear(url: str) -> bool:
    """Whether it asks for less than TLS 1.2 with the server's name verified, on the way to another machine."""
    return _is_weak(_asked(_parsed(url)))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite":
            return parsed
    except (ArgumentError, NoSuchModuleError):
        raise Misuse("SEALSTREAM_SERVE_DATABASE is no URL of a database") from None
    raise Misuse("SEALSTREAM_SERVE_DATABASE takes sqlite:///file or postgresql://…")


def _asked(url: URL) -> dict[str, Any]:
    """What is asked of TLS, by libpq's names: nothing on this machine, elsewhere the best unless the URL says less."""
    if url.get_backend_name() == "sqlite":
        return {}
    given = url.get_dialect()().create_connect_args(url)[1]
    if not _ELSEWHERE & given.keys() and not {f"PG{name.upper()}" for name in _ELSEWHERE} & os.environ.keys():
        hosts = str(given.get("host") or os.environ.get("PGHOST") or "/").split(",")
        if all(host.startswith(("/", "@")) or is_loopback(host) for host in hosts):  # directories of sockets, or TCP
            return {}
    return {name: given.get(name, good[0]) for name, good in _TLS.items()}


def _is_weak(asked: Mapping[str, Any]) -> bool:
    return any(value not in _TLS[name] for name, value in asked.items())


def _engine(url: str, *, insecure: bool = False) -> Engine:
    options: dict[str, Any] = {"hide_parameters": True}
    parsed = _parsed(url)
    asked = _asked(parsed)
    if _is_weak(asked) and not insecure:
        raise Misuse(
            "SEALSTREAM_SERVE_DATABASE: on the way to another machine sslmode must be verify-full, and "
            "ssl_min_protocol_version TLSv1.2 or TLSv1.3 (both by default), or set SEALSTREAM_INSECURE=true"
        )
    try:
        if parsed.get_backend_name() == "postgresql":
            options |= {"connect_args": {"connect_timeout": round(_WAIT_SECONDS), **asked}, "pool_pre_ping": True}
            return create_engine(parsed, **options)
    except ImportError:
        raise Misuse("PostgreSQL needs its driver: pip install 'sealstream[postgresql]'") from None
    if parsed.database in (None, "", ":memory:"):
        raise Misuse("SEALSTREAM_SERVE_DATABASE: SQLite needs a file, sqlite:///file")
    _make_private(str(parsed.database))
    options["connect_args"] = {"timeout": _WAIT_SECONDS}
    engine = create_engine(parsed, **options)
    event.listen(engine, "connect", _on_connect)
    return engine


def _make_private(path: str) -> None:
    """SQLite gives its log and index the mode of the file. `Misuse` if others may use one that is there."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        files = [path + end for end in ("", "-wal", "-shm") if os.path.exists(path + end)]
        open_to_others = [file for file in files if os.stat(file).st_mode & 0o077]
    except OSError as error:
        raise Misuse(f"SEALSTREAM_SERVE_DATABASE: the file cannot be opened ({error.strerror})") from None
    if open_to_others:
        raise Misuse(
            f"profile database {open_to_others[0]}: others may use it; run `chmod 600` on it, and ask who has read it"
        )


def _on_connect(connection: Any, _: object) -> None:
    """WAL: who reads waits for nobody. NORMAL: the machine may take its last transactions along, never half of one."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten: an erased person's profile


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK))
