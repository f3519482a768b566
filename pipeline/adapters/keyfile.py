"""The key ring in a file: JSON `{"format", "kek", "ring"}`, the ring's document (`crypto.keyring`) and its KEK, under
which every other key is wrapped.

The KEK stands in it in clear (the default, for one machine: the file *is* the secret) or wrapped by a provider
(`crypto.data_kek`). Only its owner may read it. Back it up apart from the data that it protects; without it nothing
opens.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ..crypto.aead import KEY_BYTES
from ..crypto.data_kek import DataKek
from ..crypto.kek import Kek, LocalKek
from ..crypto.keyring import KeyRing
from ..errors import Corrupt, Misuse
from . import private_file

FORMAT = "sealstream/key-file/1"
WRAPPED = "sealstream/key-file/2"
MAX_BYTES = 1 << 20
_DAMAGED = "key file {}: its content is damaged or was changed; restore it from your backup"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    kek: str
    ring: msgspec.Raw

    def __repr__(self) -> str:
        return "_File(…)"


def create(path: Path, ring: KeyRing) -> None:
    """Write `ring` to a new file of mode 0600, durable on return; missing parents are made with mode 0700.

    `Misuse` if the file exists (it is never replaced), cannot be written, or the ring's KEK is not a local one.
    """
    content = _encode(ring)
    try:
        _make_parents(path.parent)
        fd = _make(path)
    except FileExistsError:
        raise Misuse(f"key file {path}: exists already; choose another path, for what it protects needs it") from None
    except OSError as e:
        raise Misuse(f"key file {path}: cannot be made ({e.strerror}); choose a directory that you own") from None
    try:
        _fill(fd, content)
        private_file.sync_directory(path.parent)
    except OSError as e:
        path.unlink(missing_ok=True)
        raise _unwritten(path, e) from None


def change(path: Path, make: Callable[[KeyRing], KeyRing], provider: Kek | None = None) -> KeyRing:
    """Put `make` of the file's ring in its place and return it; durable on return.

    At each moment the file is the former one or the new one, whole, of mode 0600. What `load` and `make` raise leaves
    it as it was. `Misuse` if another process is changing a key file of that directory, or it cannot be written.
    """
    with _locked(path):
        ring = make(load(path, provider))
        content = _encode(ring)
        new = path.with_name(f"{path.name}.new")  # one name: a crash leaves one copy, until the next time
        try:
            new.unlink(missing_ok=True)
            _fill(_make(new), content)
            new.replace(path)
            private_file.sync_directory(path.parent)
        except OSError as e:
            raise _unwritten(path, e) from None
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)
    return ring


def load(path: Path, provider: Kek | None = None) -> KeyRing:
    """Read a file made by `create`; `provider` is asked for its KEK, None: it stands there in clear.

    `Misuse` if it is missing, not a plain file (a symbolic link included), not ours, open to others, or of the other
    kind; `Corrupt` if its content is not byte for byte what `create` wrote, or another provider's; `Transient` if the
    provider is away.
    """
    content = private_file.read(path, "key file", MAX_BYTES, "make one with `sealstream keys init`")
    if content is None:
        raise Corrupt(_DAMAGED.format(path))
    try:
        read = msgspec.json.decode(content, type=_File)
        content_of_kek = base64.b64decode(read.kek, validate=True)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise Corrupt(_DAMAGED.format(path)) from None
    kek = _kek(path, read.format, content_of_kek, provider)
    try:
        ring = KeyRing.from_document(bytes(read.ring), kek)
    except Corrupt as e:
        raise Corrupt(f"{_DAMAGED.format(path)} ({e})") from None
    if _encode(ring) != content:
        raise Corrupt(_DAMAGED.format(path))
    return ring


def _kek(path: Path, format: str, content: bytes, provider: Kek | None) -> LocalKek:
    if format == WRAPPED:
        if provider is None:
            raise Misuse(f"key file {path}: a provider holds its KEK; set SEALSTREAM_KEK to the one that made it")
        try:
            return DataKek.open(provider, content)
        except Corrupt as e:
            raise Corrupt(f"key file {path}: its KEK cannot be opened ({e})") from None
    if format != FORMAT or len(content) != KEY_BYTES:
        raise Corrupt(_DAMAGED.format(path))
    if provider is not None:
        raise Misuse(f"key file {path}: holds its KEK in clear, but SEALSTREAM_KEK names a provider; unset it")
    return LocalKek(content)


def _encode(ring: KeyRing) -> bytes:
    kek = ring.kek
    if not isinstance(kek, LocalKek):
        raise Misuse("only a ring with a local KEK can be written to a key file")
    form, content = (WRAPPED, kek.wrapped) if isinstance(kek, DataKek) else (FORMAT, kek.export())
    text = base64.b64encode(content).decode()
    return msgspec.json.encode(_File(form, text, msgspec.Raw(ring.to_document()))) + b"\n"


def _make(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _fill(fd: int, content: bytes) -> None:
    """Make `content` that of the new, open file, durably, and close it."""
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _unwritten(path: Path, error: OSError) -> Misuse:
    return Misuse(f"key file {path}: cannot be written ({error.strerror}); make room or choose another disk")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The directory's lock, since the file itself is replaced; a process that ends gives it back."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise Misuse(f"key file {path}: its directory cannot be opened ({e.strerror})") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misuse(f"key file {path}: another command is changing it; see what it did, then try again") from None
        except OSError as e:
            raise Misuse(f"key file {path}: its directory cannot be locked ({e.strerror})") from None
        yield
    finally:
        os.close(fd)


def _make_parents(directory: Path) -> None:
    """`Path.mkdir(parents=True)` would make the upper ones with the default mode."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)
