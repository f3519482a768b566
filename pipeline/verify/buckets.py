"""Divide what identity is about so that a part fits into memory: no cluster of tokens spans two buckets.

Clusters are found over 64 bits of each token; should two tokens share them, their clusters come into one bucket, which
harms nobody. Memory: 16 bytes for each distinct pair of tokens. Disk: the records once, in files of a directory given.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..adapters.reader import Found
from ..stages.identity_rows import DIGEST

EVENTS = 25_000
"""Aimed at per bucket: 100 MB while it is recomputed."""
MOST = 400
"""Buckets, each an open file."""
_GATHERED = 1 << 20
_BUFFER = 1 << 15

Ids = NDArray[np.uint64]


class Kind(IntEnum):
    EVENT = 0
    TOKEN = 1
    EVIDENCE = 2


def id_of(token: str) -> int:
    """64 bits of a well-formed token."""
    return int(token[-2 * DIGEST : -DIGEST], 16)


def id_of_digest(digest: bytes) -> int:
    """The same from its digest, 16 bytes."""
    return int.from_bytes(digest[: DIGEST // 2], "big")


class Pairs:
    """Tokens that occur together, as ids; a token without others is a pair with itself."""

    def __init__(self) -> None:
        self._new = array("Q")
        self._distinct: Ids = np.empty((0, 2), np.uint64)
        self._gathered: list[Ids] = []

    def add(self, a: int, b: int) -> None:
        self._new.append(a)
        self._new.append(b)
        if len(self._new) >= 2 * _GATHERED:
            self._gather()

    def _gather(self) -> None:
        self._gathered.append(_distinct(np.frombuffer(self._new, np.uint64).reshape(-1, 2)))
        self._new = array("Q")
        if sum(map(len, self._gathered)) >= len(self._distinct):
            self._merge()

    def _merge(self) -> None:
        self._distinct = _distinct(np.concatenate([self._distinct, *self._gathered]))
        self._gathered = []

    def components(self) -> tuple[Ids, NDArray[np.int64]]:
        """The ids, ascending, and for each the position of the smallest id that it is connected with."""
        self._gather()
        self._merge()
        ids = np.unique(self._distinct)
        a, b = (np.searchsorted(ids, self._distinct[:, side]) for side in (0, 1))
        return ids, _connect(a, b, len(ids))


def _distinct(pairs: Ids) -> Ids:
    ordered = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    differs = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[: len(ordered)]
    found: Ids = ordered[differs]
    return found


def _connect(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Smallest label over the edges a[i]–b[i] of n nodes: hook roots to smaller ones, shorten the ways, repeat."""
    label = np.arange(n, dtype=np.int64)
    while True:
        x, y = label[a], label[b]
        open_ = x != y
        if not open_.any():
            return label
        a, b, x, y = a[open_], b[open_], x[open_], y[open_]
        np.minimum.at(label, np.maximum(x, y), np.minimum(x, y))
        while not np.array_equal(shorter := label[label], label):
            label = shorter


class Buckets:
    """The files. Records of one key or partition come back in the order in which they were written."""

    def __init__(self, directory: Path, pairs: Pairs, events: int) -> None:
        self._ids, component = pairs.components()
        self.tokens = len(self._ids)
        self.count = min(MOST, events // EVENTS + 1)
        self._bucket = (component % self.count).astype(np.uint16)
        self._paths = [directory / f"bucket-{i}" for i in range(self.count)]
        self._files = ExitStack()
        self._open: list[BinaryIO] = []

    def __enter__(self) -> Buckets:
        self._open = [self._files.enter_context(path.open("wb", buffering=_BUFFER)) for path in self._paths]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.close()

    def write(self, kind: Kind, batch: list[Found], ids: list[int]) -> None:
        """Each record into the bucket of the token with the id; one of a token that never occurred, into any."""
        files = self._open
        at = np.minimum(np.searchsorted(self._ids, np.array(ids, np.uint64)), max(0, self.tokens - 1))
        chosen = self._bucket[at].tolist() if self.tokens else [0] * len(batch)
        for found, number in zip(batch, chosen, strict=True):
            files[number].write(_packed(kind, found))

    def read(self) -> Iterator[Iterator[tuple[Kind, Found]]]:
        """Each bucket's records; its file is deleted as soon as it has been read. After `__exit__`."""
        for path in self._paths:
            with path.open("rb") as file:
                yield _unpacked(file)
            path.unlink()


_HEAD = struct.Struct("<BIqIi")


def _packed(kind: Kind, found: Found) -> bytes:
    key, value = found.key or b"", found.value
    size = -1 if value is None else len(value)
    return _HEAD.pack(kind, found.partition, found.offset, len(key), size) + key + (value or b"")


def _unpacked(file: BinaryIO) -> Iterator[tuple[Kind, Found]]:
    while head := file.read(_HEAD.size):
        kind, partition, offset, key_size, size = _HEAD.unpack(head)
        key = file.read(key_size)
        yield Kind(kind), Found(partition, offset, -1, key, None if size < 0 else file.read(size), ())


def batched(records: Iterable[Found], size: int = 4_096) -> Iterator[list[Found]]:
    batch: list[Found] = []
    for found in records:
        batch.append(found)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
