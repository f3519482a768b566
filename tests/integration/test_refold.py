"""Rules by version, and the identify leg's state anew, on a real broker.

Mutations seen red: events or messages are not passed to where they must be; no marker, or for ever, or nobody heeds it,
or a refused deletion leaves it; one changelog stays, or both; they are made by other settings, or by what an
interruption has left; members are not looked at; workers, or `verify`, go by the files; a resize passes over it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline import settings, wiring
from pipeline.adapters import control, refold, schema_files
from pipeline.adapters import topics as topics_module
from pipeline.adapters.rules_version import RulesVersion, digest_of
from pipeline.adapters.topic_specs import SOURCES, group_name
from pipeline.adapters.topics import as_made, topic_ids
from pipeline.cli.main import cli
from pipeline.errors import Misuse, SealstreamError
from pipeline.events import Topic
from tests.integration.pipeline_stage import Pipeline
from tests.integration.test_pipeline import demo
from tests.integration.tools import committed, ending, ends, last_values, produce

EVENTS = 1_500
LEGS = "protect,identify"
COMPUTED = {
    f"computed.{name}.{key}" for name in ("orders_90d", "spent_90d") for key in ("days", "event", "key", "op", "path")
}


@pytest.fixture
def pipeline(kafka: str, topics: str, tmp_path: Path) -> Pipeline:
    return Pipeline(kafka, topics, tmp_path)


def config_of(pipeline: Pipeline) -> settings.Settings:
    return settings.load({}, kafka=pipeline.bootstrap, topic_prefix=pipeline.prefix)


def worked(pipeline: Pipeline, legs: str = LEGS) -> str:
    """A worker does all there is and ends; its log."""
    with ending(worker := pipeline.worker(legs)):
        pipeline.wait(60, *LEGS.split(","))
        assert worker.terminate() == 0, worker.log
    return worker.log


def said(pipeline: Pipeline, *args: str) -> tuple[int, str]:
    """Exit code and output of a command, in this process."""
    done = CliRunner().invoke(cli, args, env=pipeline.env)
    if isinstance(done.exception, SealstreamError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def findings(pipeline: Pipeline) -> set[str]:
    """What `verify` finds, but for the leg that watches: nobody does here."""
    found = json.loads(said(pipeline, "verify", "--json", "--wait", "0")[1])["findings"]
    return {finding["check"] for finding in found} - {"behind"}


def standing(config: settings.Settings) -> dict[bytes, bytes]:
    return control.standing(config.bootstrap(), {}, config.topic_prefix + Topic.CONTROL)


def refuse(*_: object) -> None:
    raise Misuse("no right to delete")


class Interrupted(Exception):
    pass


def refolded_until(pipeline: Pipeline, step: str) -> None:
    """A refold that dies before a step."""

    def tell(what: str) -> None:
        if what.startswith(step):
            raise Interrupted

    with pytest.raises(Interrupted):
        wiring.refolding(config_of(pipeline), tell).run()


STEPS = ("moving", "deleting", "making", "looking")


def test_refolded_profiles_are_the_same_whatever_an_interruption_has_left(pipeline: Pipeline) -> None:
    pipeline.produce(demo(EVENTS))
    assert '"version": "files"' in worked(pipeline)
    before = last_values(pipeline.read(Topic.PROFILES))
    config = config_of(pipeline)
    changelogs = wiring.refold_plan(config).changelogs
    old = topic_ids(pipeline.bootstrap, None, changelogs)
    made = as_made(pipeline.bootstrap, None, changelogs)

    code, out = said(pipeline, "identity", "refold", "--dry-run", "--json")
    assert (code, json.loads(out)["events"]) == (0, len(pipeline.read(Topic.PROTECTED)))
    assert topic_ids(pipeline.bootstrap, None, changelogs) == old
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics_module, "remove", refuse)
        assert said(pipeline, "identity", "refold") == (2, "no right to delete")
    assert not refold.begun(standing(config)), "a broker that refuses leaves nothing behind"
    produce(
        pipeline.bootstrap, pipeline.prefix + Topic.IDENTITY, [(b"%d" % n, b"of the earlier state") for n in range(9)]
    )
    for step in STEPS:
        refolded_until(pipeline, step)
        with pytest.raises(Misuse, match="refold` has not come to its end"):
            wiring._makers(["identify"], config, lambda key_id, values: None)["identify"]()
        if step == "moving":
            with pytest.raises(Misuse, match="refold` has not come to its end"):
                wiring.resize(config, 12, lambda *_: None).run()
    code, out = said(pipeline, "identity", "refold")
    assert code == 0, out
    assert "an earlier run had not come to its end" in out
    new = topic_ids(pipeline.bootstrap, None, changelogs)
    assert all(new.values())
    assert not set(old.values()) & set(new.values())
    assert as_made(pipeline.bootstrap, None, changelogs) == made

    sources = [pipeline.prefix + topic for topic in SOURCES["identify"]]
    events, messages = (ends(pipeline.bootstrap, name) for name in sources)
    assert sum(messages.values()) > 0
    assert committed(pipeline.bootstrap, group_name("identify", prefix=pipeline.prefix), sources) == {
        **{(sources[0], partition): 0 for partition in events},
        **{(sources[1], partition): end for partition, end in messages.items()},
    }
    stand = ends(pipeline.bootstrap, pipeline.prefix + Topic.PROFILES)
    worked(pipeline, "identify")
    assert ends(pipeline.bootstrap, sources[1]) != messages
    assert ends(pipeline.bootstrap, pipeline.prefix + Topic.PROFILES) != stand, "they were folded"
    assert last_values(pipeline.read(Topic.PROFILES)) == before
    assert findings(pipeline) == set()


def test_rules_that_join_more_hold_for_earlier_events_after_a_refold(pipeline: Pipeline, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.toml"
    shipped = schema_files.directory(None) / "identity.toml"
    anonymous = "anonymous_id = { priority = 8"
    text = shipped.read_text()
    assert anonymous in text
    narrow.write_text(text.replace(anonymous, f"{anonymous}, links = false"))
    code, out = said(pipeline, "identity", "apply", str(narrow), "--reason", "to begin with", "--json")
    assert code == 0, out
    pipeline.produce(demo(EVENTS))
    with ending(worker := pipeline.worker(LEGS)):
        pipeline.wait(60, *LEGS.split(","))
        assert f'"digest": "{json.loads(out)["digest"]}"' in worker.log
        code, out = said(pipeline, "identity", "refold")
        assert (code, "has 1 members: stop the identify workers" in out) == (2, True)
        assert worker.terminate() == 0, worker.log
    assert findings(pipeline) == set()
    apart = pipeline.profiles()

    code, out = said(pipeline, "identity", "apply", str(shipped), "--json")
    report = json.loads(out)
    assert (code, report["applied"], report["version"], report["refold"]) == (0, True, 2, True)
    assert {change["path"] for change in report["changes"]} == {"kinds.anonymous_id.links", *COMPUTED}
    assert said(pipeline, "identity", "apply", str(shipped)) == (0, "version 2 has these rules already\n")
    shown = json.loads(said(pipeline, "identity", "rules", "--json")[1])
    assert (shown["version"], shown["rules"]) == (2, text)
    assert "profiles" in findings(pipeline), "these are not the rules that were folded by"
    code, out = said(pipeline, "identity", "refold")
    assert code == 0, out
    worked(pipeline, "identify")
    assert findings(pipeline) == set()
    assert len(pipeline.profiles()) < len(apart)


def test_what_does_not_read_back_on_control_starts_no_worker_until_it_is_written_anew(pipeline: Pipeline) -> None:
    config = config_of(pipeline)
    topic = pipeline.prefix + Topic.CONTROL
    shipped = wiring.rules_texts(config)
    control.put(pipeline.bootstrap, {}, topic, b"identity/rules", b'{"version": 7}')
    with ending(worker := pipeline.worker("protect")):
        assert worker.wait(30) == 2, worker.log
        assert "identity/rules does not read back" in worker.log
    later = "version = 1\n[kinds]\nuser_id = { priority = 1, of_a_later_release = 2 }\n"
    wiring.apply_rules(config, RulesVersion(7, later, "", digest_of(later, "")))
    with pytest.raises(Misuse, match=r"version 7 on control: identity rules: line 3: kinds.user_id.of_a_later_release"):
        wiring.rules_in_force(config)
    code, out = said(pipeline, "identity", "apply", str(schema_files.directory(None) / "identity.toml"), "--json")
    assert (code, json.loads(out)["version"]) == (0, 8)
    assert wiring.rules_in_force(config) == wiring.rules_of(shipped)
