"""Microseconds per event by stage of the protect leg, in memory: what a broker and the engine come on top of."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator

from bench import workload
from bench.setting import SCHEMAS
from pipeline import settings, wiring
from pipeline.adapters import schema_files
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto.keyring import KeyRing
from pipeline.crypto.subjects import SubjectKeys
from pipeline.events import EventIds, RawRecord
from pipeline.flow.protect import AT_ONCE, Place
from pipeline.stages.decode import decode
from pipeline.stages.reject import reject
from pipeline.stages.seal import seal
from pipeline.stages.tokenize import Tokens, tokenize
from pipeline.stages.unseal import unseal


def protect(events: int, seed: int) -> dict[str, float]:
    """Return stage → µs of CPU per event, sent in clear: a second pass, caches warm and every person known."""
    registry = schema_files.load(SCHEMAS)
    ring = KeyRing.generate(os.urandom, 0)
    tokens, boxes = Tokens(ring.tokenizer(), wiring.identity_rules(settings.load()).blocked), ring.reject_boxes()
    keys = SubjectKeys(MemoryTable(), ring.epochs())
    opener = ring.opener()
    place: Place = EventIds("events.raw", "", 0), "events.raw", "", 0
    spent = dict.fromkeys(("unseal", "decode", "tokenize", "seal", "reject"), 0.0)
    for measured in (False, True):
        for records in _batches(events, seed):
            marks = [time.process_time()]
            unsealed = unseal(records, opener, (), 1 << 20)
            marks.append(time.process_time())
            decoded = decode(unsealed.passed, registry, 1 << 20)
            marks.append(time.process_time())
            tokenized, _ = tokenize(decoded.passed, tokens)
            marks.append(time.process_time())
            seal(tokenized.passed, *place, keys)
            marks.append(time.process_time())
            reject(decoded.rejected + tokenized.rejected, *place, boxes)
            marks.append(time.process_time())
            if measured:
                for name, begin, end in zip(spent, marks, marks[1:], strict=False):
                    spent[name] += end - begin
    found = {name: round(seconds / events * 1e6, 2) for name, seconds in spent.items()}
    return {**found, "total": round(sum(found.values()), 2)}


def own_peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _batches(events: int, seed: int) -> Iterator[list[RawRecord]]:
    batch: list[RawRecord] = []
    for offset, (key, value, _) in enumerate(workload.events(events, seed)):
        batch.append(RawRecord(offset, workload.BEGIN_MS + offset, key, value))
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
