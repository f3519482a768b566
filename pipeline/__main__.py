"""`python -m pipeline` and the console script `sealstream`."""

from __future__ import annotations

import os
import signal
import sys


class _Terminated(BaseException):
    """SIGTERM: what a command has started and made is taken away again before the process ends by it."""


def _unwind(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def main() -> None:
    from .cli.main import run

    signal.signal(signal.SIGTERM, _unwind)  # `worker` and `serve` have their own once they are at work
    try:
        sys.exit(run(sys.argv[1:]))
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
