"""`python -m pipeline` and the console script `sealstream`."""

from __future__ import annotations

import sys


def main() -> None:
    from .cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
