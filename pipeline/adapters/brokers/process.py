"""A Kafka broker as a process of ours: its properties, its start, and the ways in which it can end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ...errors import Fatal, Transient
from ..topics import admin_config

START_SECONDS = 90.0
"""A JVM on a busy machine of 2 cores needs 5 to 15 s."""
STOP_SECONDS = 30.0
_LEASH = Path(__file__).with_name("leash.py")


class Kind(StrEnum):
    GIVEN = "given"
    DOCKER = "docker"
    LOCAL = "local"
    EMBEDDED = "embedded"


class Broker(Protocol):
    """Whatever answers at `bootstrap` (host:port, several by commas)."""

    @property
    def bootstrap(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    def close(self) -> None: ...


def properties(port: int, controller_port: int, log_dir: str) -> dict[str, str]:
    """Return `server.properties` of one KRaft node, broker and controller, small and quick to rebalance."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
        ),
        "log.dirs": log_dir,
        "auto.create.topics.enable": "false",  # a missing topic is to be noticed
        "num.partitions": "4",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "broker.session.timeout.ms": "4000",  # a killed broker may register again after this
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "message.max.bytes": str(20 << 20),
        "replica.fetch.max.bytes": str(20 << 20),
        "log.cleaner.dedupe.buffer.size": str(16 << 20),  # of the heap; Kafka's 128 MiB is for servers
        "log.retention.ms": "-1",
    }


def free_ports(count: int) -> list[int]:
    """Return loopback ports that were free a moment ago; somebody may be quicker, so the caller retries."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


class ProcessBroker(ABC):
    """A broker in a directory of its own; data and ports stay from `start` to `start`.

    Its process group ends with this process, however that ends. `config` goes over `properties`; with other listeners
    in it, `{port}` and `{controller_port}` stand for the ports, `{directory}` for the directory.
    """

    kind: ClassVar[Kind]
    prepared: Path | None = None
    """What `prepare` returned."""

    def __init__(self, config: Mapping[str, str] | None = None, *, start_seconds: float = START_SECONDS) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sealstream-kafka-"))
        self.port, self.controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._overrides = dict(config or {})
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._alive = -1  # read end of a pipe that every process of the broker holds open

    @classmethod
    def started(cls, config: Mapping[str, str], say: Callable[[str], None]) -> Self:
        """Return a broker that answers. `Transient` if this kind cannot be had here, with the reason."""
        prepared = cls.prepare(say)
        for _ in range(3):  # a port may be taken between its choice and its use
            broker = cls(config)
            broker.prepared = prepared
            try:
                broker.start()
                return broker
            except Transient as error:
                failed = error
                taken = "Address already in use" in broker.tail()
                broker.close(keep_directory=not taken)
                if not taken:
                    break
        raise failed

    @classmethod
    @abstractmethod
    def prepare(cls, say: Callable[[str], None]) -> Path | None:
        """Get what is needed to start one. `Transient` with the reason if it cannot be had."""

    @abstractmethod
    def command(self, config: Mapping[str, str]) -> list[str]:
        """Return the command that runs the broker in the foreground with these properties."""

    def log_dir(self) -> str:
        return str(self.directory / "data")

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    def config(self) -> dict[str, str]:
        fill = {"port": self.port, "controller_port": self.controller_port, "directory": self.directory}
        changed = {k: v.format(**fill) for k, v in self._overrides.items()}
        return properties(self.port, self.controller_port, self.log_dir()) | changed

    def start(self) -> None:
        """Start, and return when it answers; with the data of before, if there are any.

        Raises:
            Transient: it ended, or does not answer in time; the message has the log's end and says where the log is.
        """
        assert self._process is None, "already started"
        command = self.command(self.config())
        self._alive, held = os.pipe()
        with self.log.open("ab") as log, os.fdopen(held, "wb"):
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                [sys.executable, "-I", "-S", str(_LEASH), str(self.directory), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(held,),
                start_new_session=True,  # Ctrl-C is for the starter, which then ends the broker last
            )
        try:
            self._await()
        except BaseException:
            self.kill()
            raise

    def _await(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Transient(f"the broker ended while starting; its log is {self.log} and ends: {self.tail()}")
            if self._answers():
                return
            time.sleep(0.1)
        late = f"the broker does not answer after {self._start_seconds:.0f} s"
        raise Transient(f"{late}; its log is {self.log} and ends: {self.tail()}")

    def _answers(self) -> bool:
        """A connection first: librdkafka would go on trying, with backoff."""
        with socket.socket() as s:
            s.settimeout(1)
            if s.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        if "listeners" in self._overrides:
            return True  # how to sign in is known to who set it
        try:
            return bool(AdminClient(admin_config(self.bootstrap, None)).list_topics(timeout=5).brokers)
        except KafkaException:
            return False

    def tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it as an operator would (SIGTERM), and return when it has ended; data and ports stay."""
        if (process := self._process) is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"keep")
            process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Fatal(f"the broker does not end; its log is {self.log}") from None
        self._ended(process)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL for its whole group), and return when it has; data and ports stay."""
        if (process := self._process) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._ended(process)

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._process = None
        with os.fdopen(self._alive, "rb", buffering=0) as alive:
            if not select.select([alive], [], [], STOP_SECONDS)[0]:
                raise Fatal("a process of the broker does not end")

    def close(self, *, keep_directory: bool = False) -> None:
        """End it for good, at once, and remove its directory."""
        self.kill()
        if not keep_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
