"""Many cases at once on a broker: their events mixed, and workers that come, go and are killed meanwhile.

The cases of a round have no token in common and are judged together, under rules that are the round's.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from confluent_kafka.admin import AdminClient

from pipeline.adapters import topics as kafka_topics
from pipeline.events import ProtectedEvent, Topic
from pipeline.stages.link import load_rules
from pipeline.stages.recompute import recompute
from pipeline.stages.reference import profile_id, unerased
from pipeline.stages.resolve import SPLIT_FROM
from tests.integration.pipeline_stage import Pipeline
from tests.integration.tools import Worker, last_values, produce, wait_for

from .cases import arriving, drawn, mixed, rules_text, salted
from .report import CONFLICT, Failure, Part, part

PARTITIONS = (1, 4, 12)
"""Of one round after another."""
CASES = 100
"""In a round."""
KILLS = 4
WORKERS = 2
SHORT_SESSIONS = ("-m", "tests.integration.crashing", "none")
REST_SECONDS = 180.0
COMMIT_SECONDS = 1.2
"""Within this time a worker commits what it has acknowledged."""


class Round(NamedTuple):
    seed: int
    number: int
    cases: range
    partitions: int
    kills: int = KILLS


def rounds(seed: int, cases: int) -> list[Round]:
    starts = range(0, cases, CASES)
    return [
        Round(seed, n, range(at, min(at + CASES, cases)), PARTITIONS[n % len(PARTITIONS)])
        for n, at in enumerate(starts)
    ]


def run(bootstrap: str, given: Round, directory: Path) -> Part:
    """Do a round. Logs of the workers are left in `directory`."""
    began = time.monotonic()
    rng = random.Random(f"{given.seed}/round {given.number}")
    texts = rules_text(rng)
    by_case = {number: salted(drawn(given.seed, number)) for number in given.cases}
    made = [event for events in by_case.values() for event in events]
    orders = [arriving(rng, events) for events in by_case.values()]
    records = [(e.anchor.encode(), msgspec.json.encode(e)) for e in mixed(rng, orders)]
    with prepared(bootstrap, given, texts, directory) as pipeline:
        counts: Counter[str] = Counter()
        try:
            work(pipeline, rng, records, given.kills, counts)
            wrong = judged(pipeline, by_case, texts, counts)
        except AssertionError as error:
            wrong = [str(error).partition("\n")[0]]
    counts.update(events=len(made), records=len(records))
    again = f"--seed {given.seed} --broker {given.cases.stop} --round {given.number}"
    failures = [Failure(f"round {given.number}, {given.partitions} partitions: {what}", again) for what in wrong]
    return part(len(given.cases), time.monotonic() - began, counts, failures)


@contextmanager
def prepared(bootstrap: str, given: Round, texts: tuple[str, str], directory: Path) -> Iterator[Pipeline]:
    """Topics of its own, and a directory of schemas with the round's rules."""
    schemas = directory / "schemas"
    schemas.mkdir(parents=True)
    for name, text in zip(("identity.toml", "computed.toml"), texts, strict=True):
        (schemas / name).write_text(text or "version = 1\n")
    prefix = f"proof-{given.seed}-{given.number}-{time.time_ns():x}."
    admin = AdminClient(kafka_topics.admin_config(bootstrap, None))
    specs = kafka_topics.specs(given.partitions, 1, prefix=prefix, append_time=False)
    kafka_topics.apply(bootstrap, None, specs)
    try:
        yield Pipeline(
            bootstrap,
            prefix,
            directory,
            SEALSTREAM_PARTITIONS=str(given.partitions),
            SEALSTREAM_SCHEMA_DIR=str(schemas),
        )
    finally:
        for done in admin.delete_topics([spec.name for spec in specs]).values():
            done.result(30)


def work(
    pipeline: Pipeline, rng: random.Random, records: list[tuple[bytes, bytes]], kills: int, counts: Counter[str]
) -> None:
    """Have workers take all of the records in; between portions of them one is killed, or ends, and another starts."""

    def started() -> Worker:
        return pipeline.launch([*SHORT_SESSIONS, "worker", "--legs", "identify"])

    workers = [started() for _ in range(WORKERS)]
    ends = ["kills"] * kills + ["terminated"] * rng.randint(0, kills)
    rng.shuffle(ends)
    cuts = sorted(rng.sample(range(1, len(records)), len(ends)))
    try:
        for how, begin, end in zip(ends, [0, *cuts], cuts, strict=False):
            wait_for(lambda: any(w.up for w in workers if w.running), 60, "a worker has partitions")
            produce(pipeline.bootstrap, pipeline.prefix + Topic.PROTECTED, records[begin:end])
            time.sleep(rng.uniform(0, 0.5))
            victim = rng.choice([w for w in workers if w.up and w.running] or workers)
            if how == "kills":
                victim.kill()
            else:
                assert victim.terminate(30) == 0, f"{victim.log_path.name}: SIGTERM ended it with another code than 0"
            counts[how] += 1
            workers[workers.index(victim)] = started()
        produce(pipeline.bootstrap, pipeline.prefix + Topic.PROTECTED, records[cuts[-1] if cuts else 0 :])
        pipeline.wait(REST_SECONDS, "identify")
        time.sleep(COMMIT_SECONDS)  # what was committed between two looks may have sent messages
        pipeline.wait(REST_SECONDS, "identify")
        for worker in [w for w in workers if w.up]:
            assert worker.terminate(30) == 0, f"{worker.log_path.name}: SIGTERM ended it with another code than 0"
        assert pipeline.caught_up("identify"), "messages were left that nobody had read"
    finally:
        for worker in workers:
            if worker.running:
                worker.kill()


def judged(
    pipeline: Pipeline, by_case: dict[int, list[ProtectedEvent]], texts: tuple[str, str], counts: Counter[str]
) -> list[str]:
    """What is wrong; `counts` is told of what is there."""
    wrong = []
    made = [event for events in by_case.values() for event in events]
    wanted = list(recompute(map(msgspec.json.encode, made), load_rules(*texts)))
    written = pipeline.read(Topic.PROFILES)
    latest = sorted(last_values(written).items())
    found = [value for _, value in latest if not value.startswith(b'{"merged_into"')]
    if {(key or b"").decode() for key, _ in latest} & {profile_id(event.event_id) for event in unerased(made)[1]}:
        wrong.append("something stands under an erased id")
    strange, missing = set(found) - set(wanted), set(wanted) - set(found)
    if found != wanted:
        lines = [b"missing " + text for text in sorted(missing)] + [b"strange " + text for text in sorted(strange)]
        (pipeline.directory / "difference.txt").write_bytes(b"\n".join(lines))
        case_of = {token: n for n, events in by_case.items() for e in events for token in e.tokens.values()}
        cases = {case_of[token] for text in (*strange, *missing) for token in msgspec.json.decode(text)["seen"]}
        wrong.append(
            f"of {len(wanted)} profiles {len(missing)} are missing, and {len(strange)} others are there; "
            f"cases {', '.join(map(str, sorted(cases)))}"
        )
    resolved = {msgspec.json.decode(r.value or b"{}")["event_id"] for r in pipeline.read(Topic.RESOLVED)}
    if lost := {e.event_id for e in made} - resolved:
        wrong.append(f"{len(lost)} events are not resolved")
    counts["profiles"] = len(wanted)
    counts["merges"] = len(latest) - len(found)
    counts["splits"] = sum(any(name == SPLIT_FROM for name, _ in r.headers) for r in written)
    for profile in map(msgspec.json.decode, wanted):
        counts.update(CONFLICT + c["rule"] for c in profile.get("conflicts", ()))
    return wrong
