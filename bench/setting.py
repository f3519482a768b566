"""One benchmark's topics, keys and worker on a broker: made, used, and taken away again."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.measure import PARTITIONS, Broker, Running
from pipeline.adapters.topic_specs import group_name
from pipeline.adapters.topics import apply, specs

HERE = Path(__file__).parent
SCHEMAS = HERE / "schemas"


class Setting(NamedTuple):
    broker: Broker
    prefix: str
    directory: Path
    env: Mapping[str, str]

    def topic(self, name: str) -> str:
        return self.prefix + name

    def group(self, leg: str) -> str:
        return group_name(leg, prefix=self.prefix)

    def worker(self, legs: str, **env: str) -> Running:
        command = [sys.executable, "-m", "pipeline", "worker", "--legs", legs]
        return Running(command, {**self.env, **env}, self.directory / f"{legs}.log")


@contextmanager
def setting(bootstrap: str, *, append_time: bool = True) -> Iterator[Setting]:
    """Topics with a prefix of their own, with the benchmark's schemas and a new key file."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}."
    broker = Broker(bootstrap)
    with tempfile.TemporaryDirectory(prefix="sealstream-bench-") as made:
        directory = Path(made)
        env = {
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "SEALSTREAM_KAFKA": bootstrap,
            "SEALSTREAM_TOPIC_PREFIX": prefix,
            "SEALSTREAM_STATE_DIR": str(directory / "state"),
            "SEALSTREAM_KEY_FILE": str(directory / "keys.json"),
            "SEALSTREAM_SCHEMA_DIR": str(SCHEMAS),
            "SEALSTREAM_HTTP": "off",
            "SEALSTREAM_LOG_FORMAT": "json",
        }
        apply(bootstrap, {}, specs(PARTITIONS, 1, prefix=prefix, append_time=append_time))
        with Running([sys.executable, "-m", "pipeline", "keys", "init"], env, directory / "keys.log") as keys:
            if keys.wait(60) != 0:
                raise RuntimeError((directory / "keys.log").read_text())
        try:
            yield Setting(broker, prefix, directory, env)
        finally:
            broker.delete(prefix)
