"""The start-up check: the engine leans on internals of Faust and aiokafka, so it runs on checked versions only."""

from __future__ import annotations

from importlib.metadata import version

from ..errors import Misuse

CHECKED = {"faust-streaming": ("0.15.3",), "aiokafka": ("0.14.0",)}
"""Versions whose internals were read against `transport.py`, `recovery.py` and `output.py` (docs/decisions.md)."""


def check() -> None:
    """Refuse versions that were not checked, and pure-Python fallbacks.

    Faust's pure-Python stream acknowledges events of an old generation; aiokafka's pure-Python records are an
    order of magnitude slower.

    Raises:
        Misuse: names the package, its version, and what to install.
    """
    for package, versions in CHECKED.items():
        found = version(package)
        if found not in versions:
            raise Misuse(
                f"{package} {found} is not a version that the engine was checked against; install {versions[-1]}"
            )
    import faust.streams
    from aiokafka.record import default_records, memory_records

    if faust.streams._CStreamIterator is None:
        raise Misuse("faust-streaming runs its pure-Python stream; install a wheel with its compiled extension")
    if (
        default_records.DefaultRecordBatch is default_records._DefaultRecordBatchPy
        or memory_records.MemoryRecords is memory_records._MemoryRecordsPy
    ):
        raise Misuse("aiokafka runs its pure-Python records; install a wheel, and unset AIOKAFKA_NO_EXTENSIONS")
