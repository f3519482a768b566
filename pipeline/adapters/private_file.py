"""Secrets in files that their owner alone may use: reading one, and keeping what was written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import Misuse


def read(path: Path, what: str, max_bytes: int, remedy: str) -> bytes | None:
    """Return the content, or None if it is longer than `max_bytes`.

    `Misuse` if it is missing (`remedy` says how to come by one), not a plain file (a symbolic link included), not ours,
    or open to others; the message begins with `what`. The open file is checked, not its name: it cannot be exchanged
    between the check and the reading.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Misuse(f"{what} {path}: not there; {remedy}") from None
    except OSError as e:
        if path.is_symlink():
            raise Misuse(f"{what} {path}: is a symbolic link; give the path of the file itself") from None
        raise Misuse(f"{what} {path}: cannot be opened ({e.strerror}); run as its owner") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Misuse(f"{what} {path}: is not a plain file")
        if status.st_uid != os.geteuid():
            raise Misuse(f"{what} {path}: belongs to another user; run as its owner, or chown it")
        if status.st_mode & 0o077:
            raise Misuse(f"{what} {path}: others may use it; run `chmod 600` on it, and ask who has read it")
        with os.fdopen(os.dup(fd), "rb") as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(fd)
    return content if len(content) <= max_bytes else None


def sync_directory(directory: Path) -> None:
    """Make durable that files of `directory` were made or renamed. `OSError` if it cannot be."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
