"""What is deployed fits the program: commands and settings that exist, metrics that are exported, links that lead on.

docker-compose.yml cannot be started where there is no image registry; its commands are run here one by one instead, on
the tests' broker.
"""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiokafka.codec
import click
import pytest
import yaml

from pipeline import settings
from pipeline.adapters.brokers import docker, jars
from pipeline.events import RUNBOOKS
from pipeline.stages.score import Kind
from pipeline.stages.size_cap import KIND
from pipeline.telemetry.metrics import PrometheusMetrics

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "sealstream"}
RULES: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/alerts/worker.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
SCRAPE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
UNIT = (ROOT / "deploy/systemd/sealstream-worker.service").read_text()


# -- docker-compose.yml --------------------------------------------------------------------------------------------


def command_of(service: dict[str, Any]) -> list[str]:
    """The arguments that `sealstream` gets in a container."""
    command = list(service["command"])
    if service.get("entrypoint") == ["/bin/sh", "-c"]:
        return shlex.split(command[0].partition("sealstream ")[2])
    return command


def test_it_has_a_broker_topics_keys_workers_and_prometheus() -> None:
    assert set(SERVICES) == {"kafka", "topics", "keys", "worker", "prometheus"}
    assert SERVICES["worker"]["deploy"]["replicas"] >= 2


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_the_program_has(name: str) -> None:
    from pipeline.cli.main import cli

    found: click.Command = cli
    for word in command_of(OURS[name]):
        assert isinstance(found, click.Group)
        named = found.get_command(click.Context(found), word)
        assert named is not None
        found = named
    assert not isinstance(found, click.Group)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_value_that_is_allowed(name: str) -> None:
    loaded = settings.load(OURS[name]["environment"])
    assert loaded.bootstrap() == "kafka:9092"


def test_workers_and_topics_agree_on_partitions_and_groups() -> None:
    loaded = [settings.load(service["environment"]) for service in OURS.values()]
    assert len({(s.partitions, s.replication, s.group, s.kafka) for s in loaded}) == 1


def test_nothing_starts_before_what_it_needs() -> None:
    needs = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    assert needs["topics"]["kafka"]["condition"] == "service_healthy"
    assert needs["worker"]["topics"]["condition"] == "service_completed_successfully"
    assert needs["worker"]["keys"]["condition"] == "service_completed_successfully"
    for name in (n for need in needs.values() for n in need):
        assert name in SERVICES


@pytest.mark.parametrize("heading", ["A record kills the worker", "State that does not read back"])
def test_what_messages_refer_to_is_there(heading: str) -> None:
    assert f"### {heading}\n" in (ROOT / "docs/operations.md").read_text()
    assert re.search(rf'see \\?"{heading}\\?" in', (ROOT / "pipeline/worker/engine.py").read_text())


def test_a_worker_is_started_again_however_often_it_failed() -> None:
    assert SERVICES["worker"]["restart"] == "on-failure", "without a number of tries"


def test_whatever_runs_on_is_watched_and_restarted() -> None:
    for name in ("kafka", "worker", "prometheus"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD", name
        assert SERVICES[name]["restart"] in ("unless-stopped", "on-failure"), name


def test_the_workers_health_is_asked_where_they_serve_it() -> None:
    port = settings.load(OURS["worker"]["environment"]).http.rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/healthz" in SERVICES["worker"]["healthcheck"]["test"][-1]
    assert SERVICES["worker"]["expose"] == [port]
    targets = SCRAPE["scrape_configs"][0]["dns_sd_configs"][0]
    assert (targets["names"], str(targets["port"])) == (["worker"], port)


def test_ports_are_open_to_this_machine_only() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_volumes_and_mounted_files_are_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, _, inside = volume.partition(":")
            if not inside:
                continue  # anonymous
            assert source in COMPOSE["volumes"] or (ROOT / source).is_dir(), name


def test_our_containers_have_no_privileges_and_a_read_only_root() -> None:
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_a_stop_leaves_time_to_drain() -> None:
    assert int(SERVICES["worker"]["stop_grace_period"].rstrip("s")) > 10


def test_one_version_of_kafka_is_named_everywhere() -> None:
    pom = ElementTree.parse(jars.definition() / "pom.xml")
    version = pom.find("{*}properties/{*}kafka.version")
    assert version is not None
    assert SERVICES["kafka"]["image"] == docker.IMAGE == f"apache/kafka:{version.text}"


# -- Dockerfile ----------------------------------------------------------------------------------------------------


def test_the_image_runs_the_program_as_nobody_special() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.M)
    assert text.index("USER 10001") < text.index('ENTRYPOINT ["sealstream"]')
    for service in OURS.values():
        assert (ROOT / service["build"]["dockerfile"]).exists()


def test_the_image_gets_all_that_the_package_is_built_from() -> None:
    copied = {
        word.strip("./")
        for line in re.findall(r"^COPY (?!--)(.+)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
        for word in line.split()[:-1]
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"], "README.md"}
    allowed = {
        line[1:] for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert needed <= copied
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)


# -- Prometheus ----------------------------------------------------------------------------------------------------


def exported() -> set[str]:
    found = {"up"}
    for family in PrometheusMetrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def test_prometheus_reads_the_rules_that_are_there() -> None:
    for pattern in SCRAPE["rule_files"]:
        assert list((ROOT / "deploy/prometheus").glob(pattern))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_go_by_metrics_and_labels_that_are_exported(rule: dict[str, Any]) -> None:
    expr = rule["expr"]
    named = set(re.findall(r"\b(?:sealstream_\w+|up)\b(?!\")", re.sub(r'"[^"]*"', '""', expr)))
    assert named
    assert named <= exported()
    assert set(re.findall(r'(\w+)=~?"', expr)) <= {"job", "leg", "outcome", "state"}
    assert expr.count("(") == expr.count(")")
    assert rule["labels"]["severity"] in ("critical", "error", "warning", "info")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_what_to_do(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.M)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert rule["annotations"]["summary"]


def test_every_kind_of_alert_on_the_topic_has_a_runbook_whose_links_lead_somewhere() -> None:
    made = {path.stem: path.read_text() for path in (ROOT / RUNBOOKS).glob("*.md")}
    assert made.keys() == {*Kind, KIND}
    for text in made.values():
        for file, anchor in re.findall(r"`(docs/\w+\.md)#([\w-]+)`", text):
            headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- systemd -------------------------------------------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT)
    return parser


def test_the_unit_restarts_after_a_failure_but_not_after_wrong_use(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "it never gives up"
    assert (service["RestartSec"], service["RestartMaxDelaySec"]) == ("1", "30")
    assert int(service["RestartSteps"]) > 0
    assert int(service["TimeoutStopSec"]) > 10
    assert service["ExecStart"].split()[1:] == ["worker"]


def test_the_unit_sets_only_what_exists() -> None:
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.M))
    assert settings.load(variables)


def test_the_unit_leaves_no_dump_with_keys_and_no_way_to_more_rights(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["LimitCORE"] == "0"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["User"] != "root"


# -- installation --------------------------------------------------------------------------------------------------


def test_whatever_compression_a_producer_chooses_can_be_read() -> None:
    for codec in ("gzip", "lz4", "snappy", "zstd"):
        assert getattr(aiokafka.codec, f"has_{codec}")(), codec


def test_the_commands_of_the_readme_are_targets_and_ci_runs_the_tests() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make ([a-z-]+)`?", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets
    assert "make test" in (ROOT / ".ci/run").read_text()


# -- the commands of docker-compose.yml on the tests' broker -------------------------------------------------------


class Machine:
    """Runs the services' commands as the containers would, with their variables but for addresses and paths."""

    def __init__(self, kafka: str, directory: Path, group: str) -> None:
        self.variables = {
            "SEALSTREAM_KAFKA": kafka,
            "SEALSTREAM_KEY_FILE": str(directory / "keys" / "keys.json"),
            "SEALSTREAM_STATE_DIR": str(directory / "state"),
            "SEALSTREAM_GROUP": group,
        }

    def start(self, name: str, **variables: str) -> subprocess.Popen[str]:
        inside = {**SERVICES[name]["environment"], **self.variables, **variables}
        command = [sys.executable, "-m", "pipeline", *command_of(SERVICES[name])]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **inside},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, name: str) -> tuple[int, str]:
        process = self.start(name)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def machine(kafka: str, tmp_path: Path) -> Machine:
    return Machine(kafka, tmp_path, f"compose-{tmp_path.name.replace('_', '-')[-20:].strip('-')}")


def test_the_services_start_in_their_order_and_the_worker_becomes_ready_and_drains(machine: Machine) -> None:
    for name in ("topics", "keys"):
        code, output = machine.run(name)
        assert code == 0, f"{name}: {output}"
    (port,) = free_port()
    worker = machine.start("worker", SEALSTREAM_HTTP=f"127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/readyz"):
            assert worker.poll() is None, worker.communicate()[0]
            assert time.monotonic() < deadline, "the worker did not become ready"
            time.sleep(0.2)
        assert answers(f"http://127.0.0.1:{port}/healthz")
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=int(SERVICES["worker"]["stop_grace_period"].rstrip("s")))
        assert worker.returncode == 0, output
    finally:
        worker.kill()
        worker.communicate()


def free_port() -> list[int]:
    from pipeline.adapters.brokers.process import free_ports

    return free_ports(1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
