"""The command line's root: it adds the commands, and turns what they raise into messages and exit codes.

Exit codes: 0 done · 1 a finding, or a failure of ours · 2 wrong use · 3 a dependency is unreachable · 130 interrupted.
Known errors print one line that says what to do next; SEALSTREAM_DEBUG=1 adds the traceback. Of an unknown error only
the type and the place are shown, since its message may hold a value of an event.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import SealstreamError
from .lazy import LazyGroup

INTERRUPTED = 130
BROKEN_PIPE = 141

_NAMESAKES = (
    "bench", "demo", "identity", "keys", "protect", "replay",
    "schemas", "serve", "sources", "topics", "verify", "worker",
)  # fmt: skip


@click.group(
    cls=LazyGroup,
    lazy={"rights": ("erase", "export"), **{name: (name,) for name in _NAMESAKES}},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="sealstream")
def cli() -> None:
    """Customer events in, identity-resolved profiles out, no personal data in the clear.

    \b
    Example:
      sealstream demo

    Settings are environment variables; `sealstream worker --help` lists them.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command and return the process's exit code; prints the message of whatever went wrong."""
    try:
        code = cli.main(list(arguments), prog_name="sealstream", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit does not fail again
        return BROKEN_PIPE
    except SealstreamError as error:
        _debug()
        click.echo(f"sealstream: {error}", err=True)
        return error.exit_code
    except Exception as error:  # the outermost loop
        from ..telemetry.logs import describe, frames

        _debug()
        click.echo(f"sealstream: a fault of ours, please report it: {describe(error)}", err=True)
        for frame in frames(error.__traceback__):
            click.echo(f"  {frame}", err=True)
        return 1


def _debug() -> None:
    if os.environ.get("SEALSTREAM_DEBUG") == "1":
        traceback.print_exc()
