"""A Kafka broker from Maven artifacts, run by the JVM that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from ...errors import Transient
from . import jars
from .process import Kind, ProcessBroker

FORMAT_SECONDS = 60.0


class LocalBroker(ProcessBroker):
    kind = Kind.LOCAL
    java_options: ClassVar[tuple[str, ...]] = ("-Xms256m", "-Xmx512m")
    cluster_id: str | None = None
    """22 letters of base64; None: one of its own. Nodes of one cluster share it."""

    @classmethod
    def prepare(cls, say: Callable[[str], None]) -> Path:
        java()
        return jars.provide(say)

    def command(self, config: Mapping[str, str]) -> list[str]:
        file = self.directory / "server.properties"
        file.write_text("".join(f"{k}={v}\n" for k, v in config.items()), encoding="utf-8")
        run = self._java()
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(run, file)
        return [*run, "kafka.Kafka", str(file)]

    def _java(self) -> list[str]:
        libraries = self.prepared or self.prepare(lambda message: None)
        self.prepared = libraries
        return [
            java(),
            *self.java_options,
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            f"-Dlog4j2.configurationFile={jars.definition() / 'log4j2.properties'}",
            "-cp",
            f"{libraries}{os.sep}*",
        ]

    def _format(self, run: list[str], file: Path) -> None:
        cluster = self.cluster_id or new_cluster_id()
        try:
            subprocess.run(  # noqa: S603 - our own arguments
                [*run, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(file)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=FORMAT_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            self.log.write_bytes(error.stdout + error.stderr)
            raise Transient(f"Kafka's storage cannot be formatted; {self.log} ends: {self.tail()}") from None
        except subprocess.TimeoutExpired:
            raise Transient(f"Kafka's storage is not formatted after {FORMAT_SECONDS:.0f} s") from None


def new_cluster_id() -> str:
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def java() -> str:
    """Return the path of a JVM. `Transient` if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise Transient("no Java; install a runtime, version 17 or newer")
    return found
