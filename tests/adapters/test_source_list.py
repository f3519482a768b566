"""Sources as they stand on `control`, announced and followed. On a broker: `tests/integration/test_sources.py`.

Mutations seen red: see `tests/flow/test_signed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.adapters import source_list
from pipeline.adapters.source_list import STALE_SECONDS, SourceList, of
from pipeline.errors import Fatal, Misuse, Transient
from pipeline.stages.sources import LEAD_MS, Secret, Source

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


class Times:
    """Each look at the clock is so many ms after the one before."""

    def __init__(self, *steps: int) -> None:
        self._at, self._steps = 1_000_000, iter(steps)

    def __call__(self) -> int:
        self._at += next(self._steps, 0)
        return self._at


def announced(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], int]) -> list[int]:
    """The times from which what was put on control holds."""
    put: list[int] = []

    class Put:
        def __init__(self, *_: object) -> None: ...

        def send(self, topic: str, key: bytes, value: bytes) -> None:
            assert (topic, key) == ("control", b"sources/shop")
            put.append(msgspec.json.decode(value)["secrets"][0]["since"])

        def flush(self) -> None: ...

    monkeypatch.setattr(source_list, "Writer", Put)

    def change(at: int) -> Source:
        return Source("shop", (Secret("0a1b2c3d", 1, at),))

    made = source_list.announce("", {}, "control", change, clock)
    assert made.since == put[-1]
    return put


def test_a_change_holds_two_seconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    assert announced(monkeypatch, Times()) == [1_000_000 + LEAD_MS]


def test_one_that_came_to_the_broker_too_late_is_announced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late = LEAD_MS - round(STALE_SECONDS * 1000)
    assert announced(monkeypatch, Times(0, late, 0, late - 1)) == [1_000_000 + LEAD_MS, 1_000_000 + late + LEAD_MS]
    with pytest.raises(Transient, match="Kafka took too long"):
        announced(monkeypatch, Times(*[late] * 20))


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
