"""How many values were made under each key on this machine, over all restarts: an upper bound, in an append-only file.

A line `<key id> <values>` reserves that many, and is durable before the first of them leaves. So a crash counts what
was left of a block as made, and nothing is ever made that is not counted. Several processes may append to one file. A
line that does not read back was torn by a crash: nothing of it was used.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..errors import Misuse
from .private_file import sync_directory

FIRST, BLOCK = 1 << 10, 1 << 16
"""Values per line, from a process's first one on, doubling. At 2^32 values a key's lines are 1.3 MB."""
_LINE = re.compile(rb"([a-z]+\.[0-9]{1,9}) ([0-9]{1,12})")


class KeyUses:
    """Not thread-safe. `told` gets each key's total when it grows."""

    def __init__(self, path: Path, most: int, told: Callable[[str, int], None]) -> None:
        self._path, self._most, self._told = path, most, told
        self._left: dict[str, int] = {}
        self._next: dict[str, int] = {}

    def take(self, key_id: str, values: int) -> None:
        """Count values that are about to leave; `Misuse` beyond the cap, or if they cannot be counted.

        Blocks on the disk once in so many thousand values.
        """
        left = self._left.get(key_id, 0) - values
        if left < 0:
            size = self._next.get(key_id, FIRST)
            self._next[key_id] = min(2 * size, BLOCK)
            self._reserve(key_id, max(size, -left))
            left += max(size, -left)
        self._left[key_id] = left

    def _reserve(self, key_id: str, values: int) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append(self._path, b"\n%b %d\n" % (key_id.encode(), values))  # apart from what a crash has torn
            total = totals(self._path)[key_id]
        except OSError as e:
            raise Misuse(
                f"key uses {self._path}: cannot be written ({e.strerror}); without it no key is used"
            ) from None
        if total > self._most:
            raise Misuse(
                f"{key_id} has made the {self._most} values that SEALSTREAM_KEY_VALUES_MAX allows: rotate it, and "
                "raise the cap for the records that came before (docs/operations.md, Keys)"
            )
        self._told(key_id, total)


def totals(path: Path) -> Counter[str]:
    """Key id → values; of a file that is not there nothing. `Misuse` if it cannot be read."""
    found: Counter[str] = Counter()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    except OSError as e:
        raise Misuse(f"key uses {path}: cannot be read ({e.strerror})") from None
    for line in content.split(b"\n"):
        if read := _LINE.fullmatch(line):
            found[read[1].decode()] += int(read[2])
    return found


def _append(path: Path, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, line) != len(line):
            raise OSError(28, os.strerror(28))
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(path.parent)
