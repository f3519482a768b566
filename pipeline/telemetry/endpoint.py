"""/metrics, /healthz and /readyz over HTTP, as `prometheus_client` serves its page: WSGI in a daemon thread.

/healthz: 200 while no leg has failed, else 503. /readyz: 200 while every leg runs, else 503. Both name the legs.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from ..certificates import server_context
from ..errors import Misuse
from .metrics import PrometheusMetrics

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_TIMEOUT_SECONDS = 10


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        super().server_bind()
        self.port = int(self.socket.getsockname()[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news; the default prints a traceback."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    timeout = _TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        pass


def app(metrics: PrometheusMetrics) -> Wsgi:
    """Return the WSGI application: three paths, GET and HEAD only."""
    page: Wsgi = make_wsgi_app(metrics.registry)

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", {"error": "GET only"}, ("Allow", "GET, HEAD"))
        if environ["REQUEST_METHOD"] == "HEAD":  # the answer of GET without its body
            serve({**environ, "REQUEST_METHOD": "GET"}, start)
            return []
        if path == "/metrics":
            return page(environ, start)
        if path == "/healthz":
            return _answer(start, _status(metrics.alive), {"alive": metrics.alive, "legs": metrics.states})
        if path == "/readyz":
            return _answer(start, _status(metrics.ready), {"ready": metrics.ready, "legs": metrics.states})
        return _answer(start, "404 Not Found", {"paths": ["/metrics", "/healthz", "/readyz"]})

    return serve


@contextmanager
def serving(
    metrics: PrometheusMetrics, listen: str, cert: Path | None = None, key: Path | None = None
) -> Iterator[int]:
    """Serve at `listen` ("host:port") while the context lasts, and yield the port; "off": yield 0.

    `Misuse` where it cannot be bound or the certificate cannot be used.
    """
    if listen == "off":
        yield 0
        return
    host, _, port = listen.rpartition(":")
    tls = None if cert is None else server_context(cert, key, "SEALSTREAM_HTTP_CERT_FILE and …_KEY_FILE")
    server = _bind(host.strip("[]"), int(port), app(metrics))
    if tls is not None:
        # The handshake is left to the request's thread, so that a client that says nothing does not hold up the others.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, name="telemetry", daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _bind(host: str, port: int, application: Wsgi) -> _Server:
    kind = _ServerV6 if ":" in host else _Server
    try:
        return make_server(host, port, application, kind, _Silent)
    except OSError as error:
        raise Misuse(
            f"cannot listen at SEALSTREAM_HTTP: {error.strerror or type(error).__name__} "
            "(another worker on this machine? give each its own port, port 0 for any, or `off`)"
        ) from None


def _status(good: bool) -> str:
    return "200 OK" if good else "503 Service Unavailable"


def _answer(start: Callable[..., Any], status: str, body: dict[str, Any], *headers: tuple[str, str]) -> list[bytes]:
    start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store"), *headers])
    return [json.dumps(body).encode() + b"\n"]
