"""`sealstream topics resize` on a real broker: 4 → 12 partitions with customers before and after.

Mutations seen red: the sources grow first; rows move after the sources have grown; profiles forgotten; evidence by its
own key; no look whether everything stands still; raw records must be consumed even when nobody can; `control` not told
of the earlier count (verify then finds old events misplaced); a worker does not compare counts at its start.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from pipeline import settings, wiring
from pipeline.adapters.topic_specs import CHANGELOGS, SOURCES, changelog_name, group_name, is_claim
from pipeline.adapters.topics import counts
from pipeline.demo import story
from pipeline.errors import Misuse
from pipeline.events import Topic
from pipeline.stages.identity_rows import unpack, unpack_members
from pipeline.worker.engine import EngineConfig
from pipeline.worker.startup import await_topics
from tests.flow.identity_world import partition_of
from tests.integration.pipeline_stage import Pipeline, account, origin_of
from tests.integration.tools import Got, ending, ends, read_all, wait_for

END_MS = 1_790_000_000_000
CUSTOMERS = 200
BEFORE, AFTER = 2_000, 2_000
NEW = 12
IDLE = {"SEALSTREAM_WATCH_IDLE_SECONDS": "0.5"}
ROWS = (Topic.PROFILES.value, "identify/tokens", "identify/evidence", "watch/watch-state")
"""What moves; the other tables stay."""


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    return Pipeline(kafka, topics, tmp_path)


def work(pipeline: Pipeline, events: Iterator[story.DemoEvent], partitions: int) -> None:
    """A worker runs until everything, its own messages included, is consumed; then it is stopped."""
    worker = pipeline.worker(SEALSTREAM_PARTITIONS=str(partitions), **IDLE)
    with ending(worker):
        pipeline.produce(events)
        pipeline.wait()
        time.sleep(3)  # then every partition of watch has said that it is idle
        pipeline.wait()
        assert worker.terminate() == 0, worker.log
    assert pipeline.caught_up()


def old_and_new() -> tuple[Iterator[story.DemoEvent], Iterator[story.DemoEvent]]:
    """Events of the same customers."""
    events = story.events(5, BEFORE + AFTER, CUSTOMERS, END_MS)
    return islice(events, BEFORE), events


def topic_of(pipeline: Pipeline, name: str) -> str:
    leg, slash, table = name.partition("/")
    return changelog_name(leg, table, prefix=pipeline.prefix) if slash else pipeline.prefix + name


def live(records: list[Got]) -> dict[tuple[int, bytes], bytes]:
    """What compaction leaves in each partition, without claims."""
    rows: dict[tuple[int, bytes], bytes | None] = {}
    for r in records:
        assert r.key is not None
        if not is_claim(r.key or b""):
            rows[r.partition, r.key] = r.value
    return {place: value for place, value in rows.items() if value is not None}


TABLES = (Topic.PROFILES.value, *(f"{leg}/{table}" for leg, table in CHANGELOGS))


def rows_of(pipeline: Pipeline, *names: str) -> dict[str, dict[tuple[int, bytes], bytes]]:
    return {name: live(read_all(pipeline.bootstrap, topic_of(pipeline, name))) for name in names}


def homes(name: str, rows: Mapping[tuple[int, bytes], bytes]) -> dict[bytes, bytes]:
    """Row → the key by which records reach its owner, worked out anew: members rows name the root in full."""
    if name == "identify/tokens":
        return {key: unpack(key).encode() for _, key in rows}
    if name != "identify/evidence":
        return {key: key for _, key in rows}
    found: dict[bytes, bytes] = {}
    for (_, key), value in rows.items():
        if not key.startswith(b"\0"):
            found[key] = unpack(key).encode()
            for member in unpack_members(value)[0]:
                found[b"\0" + key[-16:] + bytes.fromhex(member[-32:])] = found[key]
    return found


def at_home(name: str, rows: Mapping[tuple[int, bytes], bytes], count: int) -> bool:
    """Every row stands where it belongs, and so nowhere else."""
    home = homes(name, rows)
    return all(partition_of(home[key], count) == partition for partition, key in rows)


def by_key(rows: Mapping[tuple[int, bytes], bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for (_, key), value in rows.items():
        assert found.setdefault(key, value) == value
    return found


def check_moved(before: Mapping[str, Mapping[tuple[int, bytes], bytes]], pipeline: Pipeline) -> None:
    after = rows_of(pipeline, *TABLES)
    for name, rows in before.items():
        assert rows, name
        if name in ROWS:
            assert at_home(name, rows, 4), name
            assert at_home(name, after[name], NEW), name
            assert by_key(after[name]) == by_key(rows), name
            assert len({partition for partition, _ in after[name]}) > 4, name
        else:
            assert after[name] == rows, name


def check_goes_on(pipeline: Pipeline, events: Iterator[story.DemoEvent]) -> None:
    """Old customers' new events count on, as if nothing had been."""
    work(pipeline, events, NEW)
    protected, rejected = account(pipeline)
    assert len(protected) + len(rejected) == BEFORE + AFTER
    assert {partition for partition, _ in protected} == set(range(NEW)), "all raw partitions are used"
    resolved = Counter(origin_of(json.loads(r.value or b"")) for r in pipeline.read(Topic.RESOLVED))
    assert resolved.keys() == protected.keys()
    rows = live(pipeline.read(Topic.PROFILES))
    assert at_home(Topic.PROFILES, rows, NEW)
    profiles = {key.decode(): json.loads(value) for (_, key), value in rows.items()}
    profiles = {key: value for key, value in profiles.items() if "merged_into" not in value}
    assert profiles == pipeline.recomputed()
    verified = pipeline.command("verify", "--json")
    assert verified.returncode == 0, verified.stdout.decode()
    anchors = {json.loads(r.value or b"")["anchor"]: r.partition for r in pipeline.read(Topic.PROTECTED)}
    assert set(anchors.values()) == set(range(NEW))
    for name, found in rows_of(pipeline, *ROWS).items():
        assert at_home(name, found, NEW), name
    alerts = Counter(
        (alert["dedup_key"], alert["first_at"])
        for alert in {r.value: json.loads(r.value or b"") for r in pipeline.read(Topic.ALERTS)}.values()
        if alert["status"] == "trigger"
    )
    assert all(n == 1 for n in alerts.values()), "an episode was begun twice"


@pytest.mark.long
def test_four_partitions_become_twelve(pipeline: Pipeline) -> None:
    old, new = old_and_new()
    work(pipeline, old, 4)
    before = rows_of(pipeline, *TABLES)
    profiles = pipeline.profiles()
    stand = {topic: ends(pipeline.bootstrap, topic) for topic in plan_topics(pipeline)}

    dry = pipeline.command("topics", "resize", "--partitions", str(NEW), "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr.decode()
    assert {topic: ends(pipeline.bootstrap, topic) for topic in plan_topics(pipeline)} == stand

    done = pipeline.command("topics", "resize", "--partitions", str(NEW), "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert f"SEALSTREAM_PARTITIONS={NEW}" in done.stderr.decode()
    report = json.loads(done.stdout)
    assert report["moved"] == json.loads(dry.stdout)["moved"]
    assert all(moved["rows"] > 0 and moved["stray"] == 0 for moved in report["moved"].values())
    check_moved(before, pipeline)
    assert pipeline.profiles() == profiles == pipeline.recomputed()
    verified = pipeline.command("verify", "--json")
    assert verified.returncode == 0, verified.stdout.decode()

    with ending(small := pipeline.worker(SEALSTREAM_PARTITIONS="4")):
        assert small.wait(30) == 2
        assert f"set SEALSTREAM_PARTITIONS={NEW}" in small.log
    check_goes_on(pipeline, new)
    again = pipeline.command("topics", "resize", "--partitions", str(NEW), "--json")
    assert again.returncode == 0
    assert all(moved["rows"] == 0 for moved in json.loads(again.stdout)["moved"].values())


def plan_topics(pipeline: Pipeline) -> tuple[str, ...]:
    return wiring.resize_plan(config_of(pipeline)).topics


def config_of(pipeline: Pipeline) -> settings.Settings:
    return settings.load({}, kafka=pipeline.bootstrap, topic_prefix=pipeline.prefix)


class Interrupted(Exception):
    pass


class Interrupter:
    """Ends a run at the first thing that it has not yet ended one at: a step's begin, its middle, its end."""

    def __init__(self) -> None:
        self.at: set[tuple[str, str]] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        point = what, "begin" if not done else "end" if done == total else "middle"
        if point not in self.at:
            self.at.add(point)
            raise Interrupted


@pytest.mark.long
def test_interrupted_at_each_step_it_goes_on_and_no_worker_starts_before_the_end(pipeline: Pipeline) -> None:
    """Whichever leg could start at a number of partitions finds all of its rows at home under that number."""
    old, new = old_and_new()
    work(pipeline, old, 4)
    before = rows_of(pipeline, *TABLES)
    interrupter = Interrupter()
    tried = done = False
    while not done:
        try:
            wiring.resize(config_of(pipeline), NEW, interrupter).run()
            done = True
        except Interrupted:
            for leg in SOURCES:
                if (count := may_start(pipeline, leg)) is not None:
                    check_home_of(pipeline, leg, count)
            if not tried and ("moving " + topic_of(pipeline, "identify/tokens"), "end") in interrupter.at:
                tried = True
                with ending(worker := pipeline.worker(SEALSTREAM_PARTITIONS=str(NEW))):
                    assert worker.wait(30) == 2, worker.log
                    assert "repeat it" in worker.log
    assert tried
    assert len(interrupter.at) > 20
    check_moved(before, pipeline)
    check_goes_on(pipeline, new)


def may_start(pipeline: Pipeline, leg: str) -> int | None:
    """The number of partitions with which the leg would start; None: with none."""
    config = EngineConfig(bootstrap=pipeline.bootstrap, topic_prefix=pipeline.prefix)
    names = [pipeline.prefix + t for t in SOURCES[leg]]
    names += [config.changelog_of(leg, table) for owner, table in CHANGELOGS if owner == leg]
    try:
        asyncio.run(await_topics(config, [names]))
    except Misuse:
        return None
    return counts(pipeline.bootstrap, None, names[:1])[names[0]]


OUTPUTS = {
    "protect": (Topic.PROTECTED, Topic.REJECTED),
    "identify": (Topic.PROFILES, Topic.RESOLVED),
    "watch": (Topic.ALERTS,),
}


def check_home_of(pipeline: Pipeline, leg: str, count: int) -> None:
    names = [name for name in ROWS if name.partition("/")[0] == leg]
    for name, rows in rows_of(pipeline, *names, *([Topic.PROFILES] if leg == "identify" else [])).items():
        assert at_home(name, rows, count), f"{leg} may start, but rows of {name} are elsewhere"
    found = counts(pipeline.bootstrap, None, [pipeline.prefix + t for t in OUTPUTS[leg]])
    assert set(found.values()) == {count}, f"{leg} may start, but would write to other partitions"


def test_it_refuses_while_anybody_works_or_anything_waits(pipeline: Pipeline) -> None:
    def resize(*args: str, partitions: int = NEW) -> tuple[int, str]:
        done = pipeline.command("topics", "resize", "--partitions", str(partitions), *args)
        return done.returncode, (done.stdout + done.stderr).decode()

    old, _ = old_and_new()
    pipeline.produce(islice(old, 300))
    code, said = resize()
    assert code == 2
    assert f"{group_name('protect', prefix=pipeline.prefix)} is 300 records behind" in said
    assert "members" not in said

    with ending(worker := pipeline.worker("protect")):
        wait_for(lambda: worker.up, 60, "it works")
        code, said = resize()
        assert code == 2
        assert f"{group_name('protect', prefix=pipeline.prefix)} has 1 members" in said
        wait_for(lambda: sum(ends(pipeline.bootstrap, pipeline.prefix + Topic.PROTECTED).values()) > 0, 60, "output")
        time.sleep(2)
        assert worker.terminate() == 0
    code, said = resize()
    assert code == 2
    for leg in ("identify", "watch"):
        assert f"{group_name(leg, prefix=pipeline.prefix)} is " in said
    assert group_name("protect", prefix=pipeline.prefix) not in said
    assert resize("--dry-run")[0] == 1
    code, said = resize(partitions=3)
    assert code == 2
    assert "--partitions 4 or more" in said
    assert set(counts(pipeline.bootstrap, None, plan_topics(pipeline)).values()) == {4}, "nothing was changed"


def test_raw_records_that_come_during_an_interruption_do_not_lock_it_out(pipeline: Pipeline) -> None:
    old, new = old_and_new()
    work(pipeline, islice(old, 500), 4)

    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("moving"):
            raise Interrupted

    with pytest.raises(Interrupted):
        wiring.resize(config_of(pipeline), NEW, interrupt).run()
    pipeline.produce(islice(new, 500))
    done = pipeline.command("topics", "resize", "--partitions", str(NEW))
    assert done.returncode == 0, done.stderr.decode()
    work(pipeline, islice(new, 500), NEW)
    account(pipeline)
    assert pipeline.profiles() == pipeline.recomputed()


@pytest.mark.parametrize(
    ("leg", "name"),
    [
        ("protect", "protect/subject-keys"),
        ("identify", "identity"),
        ("identify", "identify/evidence"),
        ("watch", "watch/watch-state"),
    ],
)
def test_a_worker_does_not_start_on_counts_that_differ(
    pipeline: Pipeline, kafka_admin: AdminClient, leg: str, name: str
) -> None:
    topic = topic_of(pipeline, name)
    kafka_admin.create_partitions([NewPartitions(topic, 5)])[topic].result(30)
    wait_for(lambda: counts(pipeline.bootstrap, None, [topic])[topic] == 5, 30, "it has grown")
    workers = [pipeline.worker(leg, SEALSTREAM_PARTITIONS=count) for count in ("4", "5")]
    with ending(*workers):
        for worker in workers:
            assert worker.wait(30) == 2, worker.log
            assert "must have the same number of partitions" in worker.log
            assert f"{topic}: 5" in worker.log


def test_every_table_has_a_rule_for_its_rows() -> None:
    assert wiring.ROW_HOMES.keys() == set(CHANGELOGS)
