"""Databases for the tests of what is kept in SQL: SQLite, and a PostgreSQL server of one's own on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.certificates import Pair

START_SECONDS = 60.0


def postgresql_binaries() -> Path | None:
    """Where `initdb` and `postgres` are: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), default=None)


@contextmanager
def postgresql(binaries: Path, tls: Pair | None = None) -> Iterator[str]:
    """Yield the URL of a new server's database; it ends with the context. As root it runs as the user `postgres`.

    `tls`: its certificate and key; without, it speaks no TLS.
    """
    user = "postgres" if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="sealstream-pg-"))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
        data = directory / "data"
        initdb: list[str | Path] = [binaries / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8"]
        initdb += ["--locale=C", "--no-sync"]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=directory, timeout=START_SECONDS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command: list[str | Path] = [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port)]
        command += ["-k", directory, "-F"]
        if tls is not None:
            command += ["-c", "ssl=on", "-c", f"ssl_cert_file={directory}/cert", "-c", f"ssl_key_file={directory}/key"]
            for name, file in (("cert", tls.cert), ("key", tls.key)):
                shutil.copy(file, directory / name)
                (directory / name).chmod(0o600)
                if user is not None:
                    os.chown(directory / name, entry.pw_uid, entry.pw_gid)
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(command, user=user, stdout=log, stderr=log, cwd=directory)
        url = f"postgresql://test@127.0.0.1:{port}/postgres"
        try:
            _await(url, server, directory / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # fast: does not wait for clients
            server.wait(20)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text(errors="replace")[-2_000:]) from None
            time.sleep(0.1)
