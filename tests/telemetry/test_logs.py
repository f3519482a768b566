"""Guarantee: all loggers of the process write one form, and no exception's message that may hold a value is in it.

Mutations seen red: `format_exc_info` for `exceptions`; no `_withhold`, or not for a mapping; UnicodeError or
LookupError held for harmless; exceptions among the values left alone; a suppressed context told; the outermost frames
kept; old handlers kept.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Corrupt, Misuse, SealstreamError, Transient
from pipeline.telemetry import logs
from pipeline.telemetry.logs import WITHHELD, describe, frames

CANARY = "canary@example.org"
ERRORS: list[BaseException] = [
    KeyError(CANARY),
    ValueError(CANARY),
    LookupError(1, CANARY),
    UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
    UnicodeEncodeError("utf-8", CANARY, 0, 1, "no"),
    AssertionError(CANARY),
    StopIteration(CANARY),
    ExceptionGroup(CANARY, [KeyError(CANARY)]),
    json.JSONDecodeError("no", CANARY, 0),
]


class Sink(io.StringIO):
    """Takes the logs; `terminal` is what it says to be."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        [line] = self.lines
        return line


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging as it was: `configure` is for a whole process."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = [(each, each.level) for each in map(logging.getLogger, (None, "aiokafka", "faust", "mode"))]
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    for each, level in levels:
        each.setLevel(level)


@pytest.fixture
def sink() -> Sink:
    """Where JSON of level info goes."""
    made = Sink()
    logs.configure("json", "info", made)
    return made


def ours() -> Any:
    return structlog.get_logger("pipeline.ours")


def theirs() -> logging.Logger:
    return logging.getLogger("theirs")


def fail(error: BaseException) -> None:
    local = CANARY + " local"
    assert local
    raise error


# -- form ------------------------------------------------------------------------------------------------------------


def test_json_is_one_object_a_line_with_event_level_logger_time_and_what_was_given(sink: Sink) -> None:
    ours().warning("two\nlines", leg="protect", partitions=[1, 2])
    assert sink.getvalue().count("\n") == 1
    line = sink.line
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "two\nlines",
        "level": "warning",
        "logger": "pipeline.ours",
        "leg": "protect",
        "partitions": [1, 2],
    }


def test_the_standard_librarys_loggers_go_the_same_way(sink: Sink) -> None:
    theirs().error("rebalanced %d of %s", 3, "events.raw")
    line = sink.line
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "rebalanced 3 of events.raw", "level": "error", "logger": "theirs"}


def test_warnings_of_python_are_logged(sink: Sink) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old-fashioned", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert (sink.line["logger"], sink.line["level"]) == ("py.warnings", "warning")


@pytest.mark.parametrize("format", ["console", "auto"])
def test_on_a_terminal_it_is_for_people(format: str) -> None:
    sink = Sink()
    sink.terminal = True
    logs.configure(format, "info", sink)
    ours().info("partitions assigned", leg="watch")
    text = sink.getvalue()
    assert "partitions assigned" in text
    assert "watch" in text
    assert "\x1b[" in text
    assert not text.startswith("{")


def test_console_off_a_terminal_has_no_colours() -> None:
    sink = Sink()
    logs.configure("console", "info", sink)
    ours().info("partitions assigned", leg="watch")
    theirs().info("joined")
    assert "leg=watch" in sink.getvalue()
    assert "joined" in sink.getvalue()
    assert "\x1b" not in sink.getvalue()


@pytest.mark.parametrize(("format", "terminal"), [("auto", False), ("json", True), ("json", False)])
def test_off_a_terminal_or_if_asked_for_it_is_json(format: str, terminal: bool) -> None:
    sink = Sink()
    sink.terminal = terminal
    logs.configure(format, "info", sink)
    ours().info("x")
    assert sink.line["event"] == "x"


def test_it_goes_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    ours().info("x")
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["event"]) == ("", "x")


def test_configured_again_it_replaces_itself(sink: Sink) -> None:
    second = Sink()
    logs.configure("json", "info", second)
    theirs().info("x")
    ours().info("y")
    assert sink.getvalue() == ""
    assert [line["event"] for line in second.lines] == ["x", "y"]


def test_what_is_bound_to_the_context_is_in_each_line(sink: Sink) -> None:
    with structlog.contextvars.bound_contextvars(leg="protect"):
        ours().info("x")
        theirs().info("y")
    ours().info("z")
    assert [line.get("leg") for line in sink.lines] == ["protect", "protect", None]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_less_than_the_level_is_not_logged_by_anybody(level: str, expected: list[str]) -> None:
    sink = Sink()
    logs.configure("json", level, sink)
    for each in ("debug", "info", "warning", "error"):
        getattr(ours(), each)("x")
        getattr(theirs(), each)("y")
    assert [line["level"] for line in sink.lines if line["event"] == "x"] == expected
    assert [line["level"] for line in sink.lines if line["event"] == "y"] == expected


# -- exceptions ------------------------------------------------------------------------------------------------------


def log_each_way(error: BaseException) -> int:
    """Log `error` in every way that we and the libraries below us do, and return in how many."""
    try:
        fail(error)
    except BaseException as caught:
        ours().exception("ours")
        ours().error("ours", exc_info=caught)
        ours().error("ours", exc_info=(type(caught), caught, caught.__traceback__))
        ours().error("ours", error=caught)
        ours().error(caught)
        theirs().exception("theirs")
        theirs().error("theirs", exc_info=caught)
        theirs().error("theirs: %r", caught)
        theirs().error("theirs: %s at %d", caught, 7)
        theirs().error("theirs: %(error)r", {"error": caught})
    return 10


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_of_an_exception_that_may_hold_a_value_the_type_is_logged_and_not_the_message(
    format: str, error: BaseException
) -> None:
    sink = Sink()
    logs.configure(format, "debug", sink)
    ways = log_each_way(error)
    assert "canary" not in sink.getvalue()
    assert "raise error" not in sink.getvalue()  # no source lines
    assert sink.getvalue().count(WITHHELD) >= ways
    assert sink.getvalue().count(type(error).__name__) >= ways


@given(
    st.text(max_size=20), st.sampled_from([KeyError, ValueError, RuntimeError, TypeError, Exception, AttributeError])
)
def test_whatever_the_text_of_a_foreign_exception_nothing_of_it_is_told(text: str, kind: type[Exception]) -> None:
    assert describe(kind(CANARY + text)) == f"{kind.__name__}: {WITHHELD}"


@pytest.mark.parametrize(
    "error",
    [
        Misuse("set SEALSTREAM_KAFKA"),
        Corrupt("the key ring was changed"),
        Transient("away"),
        SealstreamError("ours"),
        FileNotFoundError(2, "No such file or directory"),
        ConnectionResetError(104, "reset by peer"),
        socket.gaierror(-2, "Name or service not known"),
        TimeoutError("late"),
        KafkaConnectionError("no brokers"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_messages_of_types_that_promise_to_hold_no_value_are_logged(sink: Sink, error: BaseException) -> None:
    assert describe(error) == f"{type(error).__name__}: {error}"
    ours().error("x", error=error)
    assert sink.line["error"] == describe(error)


def translate(cause: BaseException | None, shown: bool) -> None:
    """Raise a `Transient` while a foreign exception is handled."""
    try:
        fail(KeyError(CANARY))
    except KeyError:
        if shown:
            raise Transient("away")  # noqa: B904 - that is the case
        raise Transient("away") from cause


@pytest.mark.parametrize(
    ("cause", "shown", "told"),
    [
        (ValueError(CANARY), False, f"Transient: away <- ValueError: {WITHHELD}"),
        (None, True, f"Transient: away <- KeyError: {WITHHELD}"),
        (None, False, "Transient: away"),
    ],
    ids=["cause", "context", "suppressed"],
)
def test_what_lies_behind_an_exception_is_named_by_type(cause: BaseException | None, shown: bool, told: str) -> None:
    with pytest.raises(Transient) as raised:
        translate(cause, shown)
    assert describe(raised.value) == told


def test_a_chain_without_end_is_cut() -> None:
    one, other = KeyError(CANARY), ValueError(CANARY)
    one.__cause__, other.__cause__ = other, one
    assert describe(one).count(" <- ") == 4


def test_where_it_was_raised_is_told_outermost_first_without_source_or_locals(sink: Sink) -> None:
    try:
        fail(KeyError(CANARY))
    except KeyError:
        ours().exception("x")
    line = sink.line
    assert line["exception"] == f"KeyError: {WITHHELD}"
    outer, inner = line["frames"]
    assert outer.endswith(" test_where_it_was_raised_is_told_outermost_first_without_source_or_locals")
    assert inner.endswith(" fail")
    assert "tests/telemetry/test_logs.py:" in inner
    assert "exc_info" not in line


def test_of_a_deep_fall_the_innermost_frames_are_told() -> None:
    def down(depth: int) -> None:
        if depth == 0:
            fail(KeyError(CANARY))
        down(depth - 1)

    with pytest.raises(KeyError) as raised:
        down(100)
    told = frames(raised.value.__traceback__)
    assert len(told) == 20
    assert told[-1].endswith(" fail")


def test_an_exc_info_without_an_exception_is_nothing(sink: Sink) -> None:
    ours().error("x", exc_info=None)
    ours().error("x", exc_info=False)
    theirs().error("x", exc_info=False)
    ours().error("x", exc_info=True)
    assert len(sink.lines) == 4
    assert not any({"exception", "frames", "exc_info"} & line.keys() for line in sink.lines)


def test_what_libraries_say_of_values_loses_its_text(sink: Sink) -> None:
    """asyncio shows callbacks with their arguments, warnings their message, others an exception within a list."""
    error = KeyError(CANARY)

    async def nobody_looks() -> None:
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": f"callback f({CANARY!r})", "exception": error})

    asyncio.run(nobody_looks())
    theirs().error(error)
    theirs().error("failed: %r", [error, (error,)])
    theirs().error("failed: %(why)r", {"why": {"inner": error}})
    ours().error("failed", errors=[error])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(CANARY, UserWarning, stacklevel=1)
    theirs().error("failed", stack_info=True)
    assert sink.getvalue().count("\n") == 7
    assert CANARY not in sink.getvalue()
    assert "KeyError" in sink.getvalue()
    assert "UserWarning" in sink.getvalue()


def test_libraries_that_show_what_they_send_never_log_at_debug() -> None:
    made = Sink()
    logs.configure("json", "debug", made)
    logging.getLogger("aiokafka.conn").debug(CANARY)
    ours().debug("seen")
    assert CANARY not in made.getvalue()
    assert "seen" in made.getvalue()
