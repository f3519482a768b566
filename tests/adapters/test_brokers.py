"""A broker is found or started in the order of DESIGN §10, and what was started never outlives its starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from pipeline.adapters.brokers import Broker, DockerBroker, Kind, LocalBroker, ProcessBroker, find_or_start, jars
from pipeline.adapters.brokers.docker import IMAGE, variable
from pipeline.adapters.brokers.process import properties
from pipeline.adapters.topics import State, apply, specs, topic_ids
from pipeline.errors import Transient

ROOT = Path(__file__).parents[2]


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def alive(pid: int) -> bool:
    """A zombie that nobody has waited for has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    path.chmod(0o755)


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for; empty."""
    made = tmp_path / "bin"
    made.mkdir()
    monkeypatch.setenv("PATH", f"{made}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return made


# -- which one -----------------------------------------------------------------------------------------------------


def test_a_broker_that_is_given_is_taken_and_left_alone() -> None:
    with find_or_start("127.0.0.1:1", need_real=True) as broker:
        assert (broker.kind, broker.bootstrap) == (Kind.GIVEN, "127.0.0.1:1")


def test_without_need_of_a_real_one_the_embedded_one_is_there_and_carries_records() -> None:
    with find_or_start(None, need_real=False) as broker:
        assert broker.kind is Kind.EMBEDDED
        assert round_trip(broker, "t", b"hello") == [b"hello"]


def test_where_no_real_one_can_be_had_every_way_and_its_reason_is_named(bin_dir: Path) -> None:
    said: list[str] = []
    with (
        pytest.raises(Transient, match=r"docker: not installed; local: no Java.*SEALSTREAM_KAFKA"),
        find_or_start(None, need_real=True, say=said.append),
    ):
        raise AssertionError("unreachable")
    assert [line.partition(":")[0] for line in said] == ["docker", "local"]


def test_docker_without_a_daemon_is_passed_by(bin_dir: Path) -> None:
    script(bin_dir / "docker", "exit 1")
    with pytest.raises(Transient, match="no daemon answers"):
        DockerBroker.prepare(lambda message: None)


def test_an_image_that_cannot_be_fetched_is_passed_by(bin_dir: Path) -> None:
    script(bin_dir / "docker", '[ "$1" = info ]')
    with pytest.raises(Transient, match="cannot be fetched"):
        DockerBroker.prepare(lambda message: None)


# -- the process ---------------------------------------------------------------------------------------------------


class Stand(ProcessBroker):
    """Something that listens on the broker's port, in place of a JVM."""

    kind = Kind.LOCAL

    @classmethod
    def prepare(cls, say: Callable[[str], None]) -> None: ...

    def command(self, config: Mapping[str, str]) -> list[str]:
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(data), str(self.port)]


class Failing(Stand):
    def command(self, config: Mapping[str, str]) -> list[str]:
        return ["sh", "-c", "echo the disk is gone; exit 7"]


OWN_LISTENERS = {"listeners": "SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"}


def group(broker: ProcessBroker) -> list[int]:
    """The processes of the broker's group."""
    assert broker._process is not None
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [pid for pid in pids if alive(pid) and os.getpgid(pid) == broker._process.pid]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_after_its_end_it_starts_again_on_its_ports_with_its_data(end: str) -> None:
    with Stand(OWN_LISTENERS) as broker:
        broker.start()
        (broker.directory / "data" / "kept").touch()
        pids, bootstrap = group(broker), broker.bootstrap
        assert len(pids) == 2
        getattr(broker, end)()
        assert not broker.running
        assert until(lambda: not any(alive(pid) for pid in pids))  # its pipe closes a moment before it has ended
        broker.start()
        assert broker.running
        assert broker.bootstrap == bootstrap
        assert (broker.directory / "data" / "kept").exists()


def test_closing_leaves_no_process_and_no_directory() -> None:
    broker = Stand(OWN_LISTENERS)
    broker.start()
    pids = group(broker)
    broker.close()
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert not broker.directory.exists()


def test_ending_twice_is_ending_once() -> None:
    with Stand(OWN_LISTENERS) as broker:
        broker.start()
        broker.stop()
        broker.stop()
        broker.kill()


def test_a_start_that_fails_says_why_and_keeps_the_log() -> None:
    with pytest.raises(Transient, match=r"ended while starting.*the disk is gone") as failed:
        Failing.started({}, lambda message: None)
    log = Path(str(failed.value).partition("its log is ")[2].partition(" and ends")[0])
    assert log.read_text() == "the disk is gone\n"
    log.unlink()
    log.parent.rmdir()


def test_one_that_never_answers_is_given_up_in_time() -> None:
    broker = Stand(OWN_LISTENERS, start_seconds=0.3)
    broker.command = lambda config: ["sleep", "60"]  # type: ignore[method-assign]
    with broker, pytest.raises(Transient, match="does not answer after 0 s"):
        broker.start()
    assert not broker.running


STARTER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.adapters.test_brokers import OWN_LISTENERS, Stand, group
broker = Stand(OWN_LISTENERS)
broker.start()
print(broker.directory, *group(broker), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_starter_and_leaves_nothing(number: signal.Signals) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    directory, *pids = starter.stdout.readline().split()
    assert len(pids) == 2
    assert Path(directory).exists()
    starter.send_signal(number)
    starter.communicate()
    assert until(lambda: not any(alive(int(pid)) for pid in pids) and not Path(directory).exists())


def test_overrides_go_over_the_defaults_with_the_ports_filled_in() -> None:
    with Stand({"num.partitions": "9", **OWN_LISTENERS}) as broker:
        config = broker.config()
        assert config["num.partitions"] == "9"
        assert config["listeners"].startswith(f"SASL_PLAINTEXT://127.0.0.1:{broker.port},")
        assert config["node.id"] == "1"


def test_it_listens_on_loopback_only() -> None:
    config = properties(1, 2, "/x")
    assert config["listeners"] == "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"


# -- Docker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("log.dirs", "KAFKA_LOG_DIRS"), ("a_b.c", "KAFKA_A__B_C"), ("a-b", "KAFKA_A___B"), ("node.id", "KAFKA_NODE_ID")],
)
def test_properties_become_variables_by_the_rule_of_the_image(name: str, expected: str) -> None:
    assert variable(name) == expected


def test_a_container_is_reachable_from_loopback_only_and_ends_with_its_starter(bin_dir: Path) -> None:
    script(bin_dir / "docker", "exit 0")
    broker = DockerBroker()
    try:
        command = broker.command(broker.config())
        assert command[1:3] == ["run", "--rm"]
        assert "--detach" not in command
        assert command[command.index("--publish") + 1] == f"127.0.0.1:{broker.port}:{broker.port}"
        inside = [c for c in command if c.startswith("KAFKA_LISTENERS=")]
        assert inside == [
            f"KAFKA_LISTENERS=PLAINTEXT://0.0.0.0:{broker.port},CONTROLLER://0.0.0.0:{broker.controller_port}"
        ]
        assert f"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{broker.port}" in command
        assert command[-1] == IMAGE
    finally:
        broker.close()


def test_container_and_volume_are_removed(bin_dir: Path, tmp_path: Path) -> None:
    script(bin_dir / "docker", f'echo "$@" >> {tmp_path}/calls')
    broker = DockerBroker()
    broker.close()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"rm --force {broker.container}", f"volume rm --force {broker.container}"]


# -- Maven ---------------------------------------------------------------------------------------------------------


FETCHING = """
echo once >> {calls}
for a in "$@"; do case "$a" in -DoutputDirectory=*) out="${{a#*=}}";; esac; done
/bin/sleep 0.2
echo jar > "$out/kafka.jar"
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sealstream" / "kafka"


def test_jars_are_fetched_once_even_when_several_ask_at_once(bin_dir: Path, cache: Path, tmp_path: Path) -> None:
    script(bin_dir / "mvn", FETCHING.format(calls=tmp_path / "calls"))
    found: list[Path] = []
    askers = [threading.Thread(target=lambda: found.append(jars.provide(lambda message: None))) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(set(found)) == 1
    assert [p.name for p in found[0].iterdir()] == ["kafka.jar"]
    assert (tmp_path / "calls").read_text() == "once\n"
    (bin_dir / "mvn").unlink()
    assert jars.provide(lambda message: None) == found[0]


def test_a_fetch_that_fails_leaves_nothing_half(bin_dir: Path, cache: Path) -> None:
    script(bin_dir / "mvn", "echo '[ERROR] no such artifact'; exit 1")
    with pytest.raises(Transient, match="no such artifact"):
        jars.provide(lambda message: None)
    assert [p.name for p in cache.iterdir()] == ["lock"]


def test_without_maven_and_without_jars_it_says_what_to_install(bin_dir: Path, cache: Path) -> None:
    with pytest.raises(Transient, match="install it"):
        jars.provide(lambda message: None)


def test_without_java_it_says_what_to_install(bin_dir: Path) -> None:
    with pytest.raises(Transient, match="version 17"):
        LocalBroker.prepare(lambda message: None)


# -- a real one ----------------------------------------------------------------------------------------------------


def test_a_real_broker_keeps_records_and_topic_ids_through_stop_and_kill(broker: Broker) -> None:
    if not isinstance(broker, ProcessBroker):
        pytest.skip("the broker is not ours to end")
    with type(broker).started({"num.partitions": "2"}, lambda message: None) as own:
        wanted = specs(1, 1, prefix="kept.")[:1]
        apply(own.bootstrap, None, wanted)
        name = wanted[0].name
        assert round_trip(own, name, b"1") == [b"1"]
        ids = topic_ids(own.bootstrap, None, [name])
        own.stop()
        assert not listens(own)
        own.start()
        assert round_trip(own, name, b"2") == [b"1", b"2"]
        own.kill()
        assert not listens(own)
        own.start()
        assert round_trip(own, name, b"3") == [b"1", b"2", b"3"]
        assert topic_ids(own.bootstrap, None, [name]) == ids
        assert [r.state for r in apply(own.bootstrap, None, wanted)] == [State.OK]


def listens(broker: ProcessBroker) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", broker.port)) == 0


def round_trip(broker: Broker, topic: str, value: bytes) -> list[bytes]:
    """Write `value` and return all values of partition 0."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all", "log_level": 0})
    producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while value not in values and time.monotonic() < deadline:
        if (message := consumer.poll(0.2)) is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values
