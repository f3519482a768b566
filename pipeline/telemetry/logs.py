"""structlog to stderr, JSON or console; the standard library's loggers (Faust, aiokafka) go the same way.

An exception's message may hold a value of an event: `KeyError('ann@…')`. So only messages of types that promise not to
are written (ours, the operating system's, aiokafka's); of all others the type and where it was raised. No source
lines, no locals.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from ..errors import SealstreamError

Event = MutableMapping[str, Any]
_FRAMES = 20
WITHHELD = "(message withheld: it may hold a value of an event)"


def configure(format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logs of the process to `stream` (default: stderr). `format`: auto | json | console."""
    stream = sys.stderr if stream is None else stream
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        exceptions,
    ]
    last: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_withhold)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for library in ("aiokafka", "faust", "mode", "botocore", "urllib3"):  # at DEBUG they show what they fetch and send
        logging.getLogger(library).setLevel(max(logging.INFO, root.level))


def exceptions(logger: Any, name: str, event: Event) -> Event:
    """structlog processor: replace `exc_info` by `exception`, type and frames, and any exception among the values."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event["exception"] = describe(info)
        event["frames"] = frames(info.__traceback__)
    for key, value in event.items():
        event[key] = _clean(value)
    return event


def describe(error: BaseException) -> str:
    """Return the exception's type, with its message where that cannot hold a value; causes behind ` <- `."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        parts.append(f"{type(seen).__name__}: {seen if _harmless(seen) else WITHHELD}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " <- ".join(parts)


def frames(trace: TracebackType | None) -> list[str]:
    """Return where an exception passed, outermost first, as `module file:line function`."""
    return [
        f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.StackSummary.extract(traceback.walk_tb(trace), lookup_lines=False)[-_FRAMES:]
    ]


def _harmless(error: BaseException) -> bool:
    if isinstance(error, SealstreamError | KeyboardInterrupt):
        return True
    if isinstance(error, OSError) and not isinstance(error, UnicodeError):
        return True
    return type(error).__module__.partition(".")[0] in ("aiokafka", "confluent_kafka", "cimpl")


def _withhold(record: logging.LogRecord) -> bool:
    """Logging filter: what may hold a value in a message of a library loses its text.

    Exceptions, wherever they stand in it; asyncio's pictures of tasks and callbacks, with their arguments; a warning's
    message and the line that caused it.
    """
    record.stack_info = None
    if record.name == "asyncio":
        record.msg, record.args = "asyncio reports a failure " + WITHHELD, ()
    elif record.name == "py.warnings":  # "<file>:<line>: <type>: <message>" and a source line
        record.msg, record.args = f"{': '.join(record.getMessage().split(': ', 2)[:2])} {WITHHELD}", ()
    else:
        record.msg = _clean(record.msg)
        record.args = _clean(record.args)
    return True


def _clean(value: Any) -> Any:
    """Return `value` with every exception in it replaced by its description; what holds none stays itself."""
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    return type(value)(map(_clean, value)) if type(value) in (list, tuple, set) else value
