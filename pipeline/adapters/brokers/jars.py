"""The broker's jars (43 MB): fetched once by Maven as deploy/kafka/pom.xml names them, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...errors import Misuse, Transient

FETCH_SECONDS = 600.0


def definition() -> Path:
    """Return the directory with pom.xml and log4j2.properties: of the checkout, or as installed."""
    package = Path(__file__).resolve().parents[2]
    for directory in (package / "_kafka", package.parent / "deploy" / "kafka"):
        if (directory / "pom.xml").exists():
            return directory
    raise Misuse("deploy/kafka is missing from this installation")


def provide(say: Callable[[str], None]) -> Path:
    """Return the directory with the jars; several processes may ask at once.

    Raises:
        Transient: Maven is absent or cannot fetch them.
    """
    pom = definition() / "pom.xml"
    target = cache() / hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _fetch(pom, target, say)
    return target


def cache() -> Path:
    """Return the directory that holds a directory of jars per pom.xml, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sealstream" / "kafka"


def _fetch(pom: Path, target: Path, say: Callable[[str], None]) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Transient("no Maven to fetch Kafka with; install it (package maven)")
    say("fetching Kafka by Maven, once (43 MB)")
    fetched = Path(tempfile.mkdtemp(dir=target.parent, prefix="fetching-"))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
    try:
        subprocess.run(  # noqa: S603 - our own arguments
            [maven, "-q", "-B", "-Dstyle.color=never", "-f", str(pom), *goal],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=FETCH_SECONDS,
        )
        fetched.rename(target)  # whole or not at all
    except subprocess.CalledProcessError as error:
        shutil.rmtree(fetched, ignore_errors=True)
        errors = [line for line in error.stdout.decode(errors="replace").splitlines() if "ERROR" in line]
        raise Transient(f"Maven cannot fetch Kafka: {' '.join(errors[:1])}") from None
    except subprocess.TimeoutExpired:
        shutil.rmtree(fetched, ignore_errors=True)
        raise Transient(f"Maven has not fetched Kafka after {FETCH_SECONDS:.0f} s") from None
