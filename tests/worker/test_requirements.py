"""The engine refuses what it was not checked against, and says what to install."""

from __future__ import annotations

import faust.streams
import pytest
from aiokafka.record import default_records

from pipeline.errors import Misuse
from pipeline.worker import requirements


def test_what_is_installed_was_checked() -> None:
    requirements.check()


def test_another_version_of_faust_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(requirements.CHECKED, "faust-streaming", ("0.15.2",))
    with pytest.raises(Misuse, match=r"faust-streaming .*install 0\.15\.2"):
        requirements.check()


def test_fausts_pure_python_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust.streams, "_CStreamIterator", None)
    with pytest.raises(Misuse, match="compiled"):
        requirements.check()


def test_aiokafkas_pure_python_records_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_records, "DefaultRecordBatch", default_records._DefaultRecordBatchPy)
    with pytest.raises(Misuse, match="wheel"):
        requirements.check()
