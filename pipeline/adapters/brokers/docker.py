"""A Kafka broker as a container, in the foreground of a `docker` command, so that it ends with that."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping

from ...errors import Transient
from .process import Kind, ProcessBroker

IMAGE = "apache/kafka:4.1.1"
PULL_SECONDS = 300.0
_DATA = "/var/lib/kafka/data"


class DockerBroker(ProcessBroker):
    kind = Kind.DOCKER

    @classmethod
    def prepare(cls, say: Callable[[str], None]) -> None:
        if shutil.which("docker") is None:
            raise Transient("not installed")
        if not _docker("info", seconds=10):
            raise Transient("no daemon answers")
        if _docker("image", "inspect", IMAGE, seconds=10):
            return
        say(f"fetching the image {IMAGE}, once")
        if not _docker("pull", "-q", IMAGE, seconds=PULL_SECONDS):
            raise Transient(f"the image {IMAGE} cannot be fetched")

    @property
    def container(self) -> str:
        """The container's name, and its volume's: the directory's, which is unique."""
        return self.directory.name

    def log_dir(self) -> str:
        return _DATA

    def command(self, config: Mapping[str, str]) -> list[str]:
        """The broker listens on all addresses of the container, of which only loopback ports lead outside."""
        inside = {k: v.replace("//127.0.0.1:", "//0.0.0.0:") if k == "listeners" else v for k, v in config.items()}
        run = [docker(), "run", "--rm", "--name", self.container, "--volume", f"{self.container}:{_DATA}"]
        run += ["--publish", f"127.0.0.1:{self.port}:{self.port}"]
        run += ["--env", "KAFKA_HEAP_OPTS=-Xms256m -Xmx512m", "--env", "CLUSTER_ID=c2VhbHN0cmVhbS10ZXN0cw"]
        for name, value in inside.items():
            run += ["--env", f"{variable(name)}={value}"]
        return [*run, IMAGE]

    def kill(self) -> None:
        if self.running:
            _docker("kill", self.container, seconds=30)
        super().kill()
        _docker("rm", "--force", self.container, seconds=30)

    def close(self, *, keep_directory: bool = False) -> None:
        super().close(keep_directory=keep_directory)
        _docker("volume", "rm", "--force", self.container, seconds=30)


def variable(name: str) -> str:
    """Return the image's environment variable for a property (its documented rule)."""
    return "KAFKA_" + name.replace("_", "__").replace("-", "___").replace(".", "_").upper()


def docker() -> str:
    found = shutil.which("docker")
    if found is None:
        raise Transient("no docker command")
    return found


def _docker(*arguments: str, seconds: float) -> bool:
    """Return whether the command did what it was asked, in time."""
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [docker(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
