"""Sources as they stand on `control`, announced and followed. On a broker: `tests/integration/test_sources.py`.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from pipeline.adapters import source_list
from pipeline.adapters.reader import Found
from pipeline.adapters.source_list import STALE_SECONDS, SourceList, add, of
from pipeline.errors import Fatal, Misuse, Transient
from pipeline.stages.sources import LEAD_MS, Secret, Source, merged

Change = Callable[[source_list.Sources, int], Source]
SHOP = Source("shop", (Secret("0a1b2c3d", 1, 5, 9), Secret("0a1b2c3e", 2, 7)), ((8, None),))
KIOSK = Source("kiosk", (Secret("0a1b2c3f", 1, 6),))


def row(source: Source) -> tuple[bytes, bytes]:
    return b"sources/" + source.name.encode(), msgspec.json.encode(source)


def test_sources_read_back_among_what_else_stands_on_control() -> None:
    assert of(dict([row(SHOP), (b"identity/rules", b"{}"), row(KIOSK)])) == {"shop": SHOP, "kiosk": KIOSK}
    assert of({}) == {}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        row(KIOSK)[1],
        msgspec.json.encode(msgspec.structs.replace(SHOP, secrets=())),
        msgspec.json.encode({**msgspec.to_builtins(SHOP), "of_a_later_release": 1}),
        msgspec.json.encode(SHOP).replace(b"0a1b2c3d", b"0A1B2C3D"),
    ],
)
def test_what_is_no_source_is_an_error_without_its_content(value: bytes) -> None:
    with pytest.raises(Misuse, match="a source does not read back") as told:
        of({b"sources/shop": value})
    assert "shop" not in str(told.value)


class Control:
    """The topic in memory, for `announce`; `step` is told of each look at it and of each write, before."""

    def __init__(self, *sources: Source) -> None:
        self.log: list[tuple[bytes, bytes | None]] = [row(source) for source in sources]
        self.step: Callable[[str], None] = lambda _: None

    def compacted(self) -> source_list.Sources:
        return of({key: value for key, value in dict(self.log).items() if value is not None})

    def added_up(self, end: int | None = None) -> source_list.Sources:
        rows: dict[bytes, bytes] = {}
        for key, value in self.log[:end]:
            add(rows, key, value)
        return of(rows)

    def announce(self, change: Change, now: Callable[[], int], tries: int = 1) -> Source:
        with self.patched():
            return source_list.announce("", {}, "control", change, now, tries)

    @contextmanager
    def patched(self) -> Iterator[None]:
        control = self

        class Written:
            def __init__(self, *_: object) -> None:
                self._rows: list[tuple[bytes, bytes | None]] = []

            def connect(self, topic: str) -> None:
                control.step(f"connect {topic}")

            def send(self, topic: str, key: bytes, value: bytes) -> None:
                assert topic == "control"
                self._rows.append((key, value))

            def flush(self) -> None:
                control.step("write")
                control.log += self._rows
                self._rows.clear()

        class Look:
            def __init__(self, *_: object) -> None:
                control.step("look")
                self._found = [Found(0, n, 0, key, value, ()) for n, (key, value) in enumerate(control.log)]

            def __enter__(self) -> list[Found]:
                return self._found

            def __exit__(self, *_: object) -> None: ...

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_list, "Writer", Written)
            patch.setattr(source_list, "Reader", Look)
            yield


class Times:
    """Each look at the clock is so many ms after the one before."""

    def __init__(self, *steps: int) -> None:
        self._at, self._steps = 1_000_000, iter(steps)

    def __call__(self) -> int:
        self._at += next(self._steps, 0)
        return self._at


def registered(_: source_list.Sources, at: int) -> Source:
    return Source("shop", (Secret("0a1b2c3d", 1, at),))


LATE = LEAD_MS - round(STALE_SECONDS * 1000)


def test_a_change_holds_two_seconds_after_a_moment_at_which_the_broker_is_known_to_answer() -> None:
    control, told = Control(), list[str]()
    control.step = told.append

    def now() -> int:
        told.append("now")
        return 1_000_000

    assert control.announce(registered, now).since == 1_000_000 + LEAD_MS
    assert told == ["connect control", "look", "now", "write", "now", "look"]


def test_a_secret_that_came_to_the_broker_too_late_is_announced_for_later() -> None:
    control = Control()
    made = control.announce(registered, Times(0, LATE, 0, LATE - 1), 5)
    assert [read_row(record).since - LEAD_MS for record in control.log] == [1_000_000, 1_000_000 + LATE]
    assert control.compacted() == control.added_up() == {"shop": made}
    with pytest.raises(Transient, match="Kafka took too long"):
        Control().announce(registered, Times(*[LATE] * 20), 5)


def test_what_was_announced_too_late_is_said_to_be_and_ends_no_later() -> None:
    control = Control(KIOSK)

    def revoked(found: source_list.Sources, at: int) -> Source:
        return found["kiosk"].revoked("0a1b2c3f", at)

    with pytest.raises(Transient, match="Kafka took too long: it holds"):
        control.announce(revoked, Times(0, LATE), 1)
    assert len(control.log) == 2
    control = Control(KIOSK)
    made = control.announce(revoked, Times(0, LATE), 2)
    assert made.secrets[0].until == 1_000_000 + LEAD_MS


def read_row(record: tuple[bytes, bytes | None]) -> Source:
    return msgspec.json.decode(record[1] or b"", type=Source)


# -- several at once -------------------------------------------------------------------------------------------------

AT = 1_000_000
BOTH = Source("shop", (Secret("0000000a", 1, 100), Secret("0000000b", 1, 200)))
CHANGES: dict[str, Change] = {
    "revoke a": lambda found, at: found["shop"].revoked("0000000a", at),
    "revoke b": lambda found, at: found["shop"].revoked("0000000b", at),
    "rotate": lambda found, at: found["shop"].revoked("0000000a", at + 1).rotated(Secret("0000000c", 1, at), 50),
    "disable": lambda found, at: found["shop"].disabled_from(at),
    "enable": lambda found, at: found["shop"].enabled_from(at),
    "register": lambda _, at: Source("shop", (Secret("0000000d", 1, at),)),
}


def interleaved(control: Control, names: list[str], order: list[int]) -> list[Source]:
    """Have each of these commands take its steps when it is its turn; return what those wrote that had to."""
    wrote: list[Source] = []
    failed: list[BaseException] = []
    goes = [threading.Semaphore(0) for _ in names]
    paused = threading.Semaphore(0)
    mine = threading.local()

    def step(_: str) -> None:
        paused.release()
        assert goes[mine.n].acquire(timeout=10)

    def run(n: int) -> None:
        mine.n = n

        def change(found: source_list.Sources, at: int) -> Source:
            made = CHANGES[names[n]](found, at)
            wrote.append(made)
            own.append(made)
            return made

        own: list[Source] = []
        try:
            step("")
            told = source_list.announce("", {}, "control", change, lambda: AT + n)
            assert merged(told, own[0]) == told
        except Misuse:
            pass  # nothing to change
        except BaseException as error:
            failed.append(error)
        ended[n] = True
        paused.release()

    ended = [False] * len(names)
    control.step = step
    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(names))]
    with control.patched():
        for thread in threads:
            thread.start()
            assert paused.acquire(timeout=10)
        for n in [*order, *(n for n in range(len(names)) for _ in range(30))]:
            if not ended[n]:
                goes[n].release()
                assert paused.acquire(timeout=10)
    if failed:
        raise failed[0]
    assert all(ended)
    return wrote


@given(
    off=st.booleans(),
    names=st.lists(st.sampled_from(list(CHANGES)), min_size=2, max_size=3),
    order=st.lists(st.integers(0, 2), max_size=20),
)
def test_changes_that_are_made_at_once_all_hold(off: bool, names: list[str], order: list[int]) -> None:
    before = BOTH.disabled_from(300) if off else BOTH
    control = Control(before)
    wrote = interleaved(control, names, [n % len(names) for n in order])
    (last,) = control.compacted().values()
    for source in (before, *wrote):
        assert merged(last, source) == last
    assert {"shop": last} == control.added_up()


class Message:
    def __init__(self, offset: int, key: bytes | None = None, value: bytes | None = None, error: Any = None) -> None:
        self._it = offset, key, value, error

    def offset(self) -> int:
        return self._it[0]

    def key(self) -> bytes | None:
        return self._it[1]

    def value(self) -> bytes | None:
        return self._it[2]

    def error(self) -> Any:
        return self._it[3]


class Failed:
    def __init__(self, code: int) -> None:
        self._code = code

    def code(self) -> int:
        return self._code


class Done(Exception):
    pass


class Log:
    """A topic that grows between two looks. `get_watermark_offsets` and `poll` are those of a consumer."""

    def __init__(self, *looks: list[Message] | Exception) -> None:
        self._looks = iter(looks)
        self._waiting: list[Message] = []
        self._end = 0

    def assign(self, _: object) -> None:
        pass

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        new = next(self._looks, None)
        if new is None:
            raise Done
        if isinstance(new, Exception):
            raise new
        self._waiting += new
        self._end = max([self._end, *(message.offset() + (message.error() is None) for message in new)])
        return 0, self._end

    def poll(self, _: float) -> Message | None:
        return self._waiting.pop(0) if self._waiting else None


class World:
    """A list with a clock, and what it handed over."""

    def __init__(self) -> None:
        self.now = 100.0
        self.used: list[set[str]] = []
        self.list = SourceList(("", {}), "control", self.use, lambda: self.now)

    def use(self, sources: Collection[Source]) -> None:
        self.used.append({source.name for source in sources})

    def follow(self, *looks: list[Message] | Exception, took: float = 0.0, rest: float = 0.5) -> None:
        def pause() -> None:
            self.now += rest

        log: Any = Log(*looks)
        if took:
            poll = log.poll

            def slow(timeout: float) -> Message | None:
                self.now += took
                found: Message | None = poll(timeout)
                return found

            log.poll = slow
        with pytest.raises(Done):
            self.list.follow(log, pause)


def test_each_change_is_handed_over_once_it_is_all_read() -> None:
    world = World()
    world.follow(
        [],
        [Message(0, *row(SHOP)), Message(1, b"identity/rules", b"{}")],
        [],
        [Message(2, *row(KIOSK)), Message(5, row(SHOP)[0], None)],
        [Message(6, *row(KIOSK))],
    )
    assert world.used == [set(), {"shop"}, {"kiosk"}]


def test_what_one_row_of_a_source_says_is_not_undone_by_the_next() -> None:
    revoked, rotated = KIOSK.revoked("0a1b2c3f", 100), KIOSK.rotated(Secret("0a1b2c40", 1, 50), 500)
    used: list[Any] = []
    follower = SourceList(("", {}), "control", lambda sources: used.append(list(sources)))
    log: Any = Log([Message(0, *row(KIOSK)), Message(1, *row(revoked))], [Message(2, *row(rotated))])
    with pytest.raises(Done):
        follower.follow(log, lambda: None)
    assert used == [[revoked], [merged(revoked, rotated)]]
    rows = dict([row(KIOSK)])
    add(rows, row(KIOSK)[0], b"no row")
    with pytest.raises(Misuse):
        of(rows)
    add(rows, *row(KIOSK))
    assert of(rows) == {"kiosk": KIOSK}


def test_what_compaction_took_away_is_not_waited_for() -> None:
    world = World()
    world.follow([Message(0, *row(SHOP)), Message(7, error=Failed(KafkaError._PARTITION_EOF))])
    assert world.used == [{"shop"}]


def test_it_is_fresh_for_a_while_from_the_beginning_of_a_look() -> None:
    world = World()
    with pytest.raises(Transient, match="was not read in time"):
        world.list.check()
    world.follow([Message(0, *row(SHOP))], took=0.5, rest=0.25)
    world.now = 100.0 + STALE_SECONDS - 0.01
    world.list.check()
    world.now = 100.0 + STALE_SECONDS
    with pytest.raises(Transient):
        world.list.check()


def test_it_is_not_fresh_after_the_machine_was_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = SourceList(("", {}), "control", lambda _: None)
    log: Any = Log([])
    awake = time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(time, "clock_gettime", lambda _: awake)
    with pytest.raises(Done):
        follower.follow(log, lambda: None)
    follower.check()
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake + 60 * (clock == time.CLOCK_BOOTTIME))
    with pytest.raises(Transient):
        follower.check()


def test_a_topic_that_was_made_anew_is_read_from_its_beginning() -> None:
    world = World()
    log: Any = Log()
    ends: Iterator[tuple[int, int]] = iter([(0, 1), (0, 0)])
    log.get_watermark_offsets = lambda *_, **__: next(ends)
    log._waiting = [Message(0, *row(SHOP))]
    world.list.follow(log, lambda: None)
    assert world.used == [{"shop"}]


def test_with_other_certificates_another_consumer_is_to_begin() -> None:
    world = World()
    answers = iter([False, True])
    replaced: Any = lambda: next(answers)  # noqa: E731
    log: Any = Log([Message(0, *row(SHOP))], [])
    world.list._replaced = replaced
    world.list.follow(log, lambda: None)
    assert world.used == [{"shop"}]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), Transient),
        (Misuse("wrong"), Misuse),
        (RuntimeError("wrong"), Fatal),
    ],
)
def test_what_goes_wrong_is_told_once_what_is_known_is_old(
    answer: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    logs: Iterator[Any] = iter([Log([], answer)])

    def consumer() -> Any:
        log = next(logs, None)
        if log is None:
            raise SystemExit
        log.close = lambda: None
        return log

    monkeypatch.setattr(world.list, "_consumer", consumer)
    monkeypatch.setattr("time.sleep", lambda _: None)
    if kind is Transient:
        with pytest.raises(SystemExit):
            world.list._keep()
    else:
        world.list._keep()
    world.list.check()
    world.now += STALE_SECONDS
    with pytest.raises(kind):
        world.list.check()
