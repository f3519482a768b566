"""Guarantee: over real HTTP, /healthz is 200 while no leg has failed, /readyz 200 while all run, /metrics the page.

Mutations seen red: /readyz by `alive`; /healthz always 200; `startswith("/metrics")`; the port's `OSError` let through;
the TLS handshake in the accepting thread; requests one after the other; `server_close` left out; no `handle_error`.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import Misuse
from pipeline.ports import LegState
from pipeline.telemetry import endpoint
from pipeline.telemetry.endpoint import serving
from pipeline.telemetry.metrics import PrometheusMetrics
from tests.certificates import Pair, self_signed

SECONDS = 4.0


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks the endpoint at a port of this machine; `metrics` is what it tells."""

    def __init__(self, metrics: PrometheusMetrics, port: int, context: ssl.SSLContext | None = None) -> None:
        self.metrics, self.port, self._context = metrics, port, context

    def ask(self, path: str, method: str = "GET", body: str | None = None) -> Answer:
        if self._context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=SECONDS, context=self._context)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def servers() -> int:
    return sum(thread.name == "telemetry" for thread in threading.enumerate())


@pytest.fixture(scope="module")
def served() -> Iterator[Client]:
    """One endpoint for all tests here that only ask: it takes half a second to close."""
    metrics = PrometheusMetrics()
    with serving(metrics, "127.0.0.1:0") as port:
        yield Client(metrics, port)


@pytest.fixture
def client(served: Client) -> Client:
    served.metrics.expect(("protect", "watch"))
    return served


def state(client: Client, protect: LegState, watch: LegState) -> None:
    client.metrics.state("protect", protect)
    client.metrics.state("watch", watch)


@pytest.mark.parametrize(
    ("protect", "watch", "health", "readiness"),
    [
        (LegState.RUNNING, LegState.RUNNING, 200, 200),
        (LegState.WAITING, LegState.WAITING, 200, 503),
        (LegState.RUNNING, LegState.RECOVERING, 200, 503),
        (LegState.RUNNING, LegState.STOPPING, 200, 503),
        (LegState.FAILED, LegState.RUNNING, 503, 503),
        (LegState.RUNNING, LegState.FAILED, 503, 503),
    ],
)
def test_health_and_readiness_follow_the_legs_and_name_them(
    client: Client, protect: LegState, watch: LegState, health: int, readiness: int
) -> None:
    state(client, protect, watch)
    alive, ready = client.ask("/healthz"), client.ask("/readyz")
    legs = {"protect": protect.value, "watch": watch.value}
    assert (alive.status, alive.json) == (health, {"alive": health == 200, "legs": legs})
    assert (ready.status, ready.json) == (readiness, {"ready": readiness == 200, "legs": legs})
    for answer in (alive, ready):
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


def test_without_a_leg_it_is_alive_and_not_ready() -> None:
    metrics = PrometheusMetrics()
    with serving(metrics, "127.0.0.1:0") as port:
        client = Client(metrics, port)
        assert (client.ask("/healthz").status, client.ask("/readyz").status) == (200, 503)


def test_metrics_are_prometheus_text_of_this_process_whatever_its_health(client: Client) -> None:
    client.metrics.committed("protect", 1)
    state(client, LegState.FAILED, LegState.FAILED)
    answer = client.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"sealstream_info", "sealstream_commits", "sealstream_leg_state"} <= names


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metric", "/healthz/x", "/admin", "/..%2fmetrics", "/canary@a.example"]
)
def test_any_other_path_is_404_and_not_repeated(client: Client, path: str) -> None:
    answer = client.ask(path)
    assert answer.status == 404
    assert answer.json == {"paths": ["/metrics", "/healthz", "/readyz"]}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/other"])
def test_nothing_but_get_and_head_is_allowed(client: Client, path: str, method: str) -> None:
    answer = client.ask(path, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_head_answers_as_get_does(client: Client) -> None:
    state(client, LegState.FAILED, LegState.RUNNING)
    answers = [client.ask(path, "HEAD") for path in ("/healthz", "/readyz", "/other")]
    assert [answer.status for answer in answers] == [503, 503, 404]
    assert not any(answer.body for answer in answers)


def test_a_query_does_not_matter_to_health(client: Client) -> None:
    state(client, LegState.RUNNING, LegState.RUNNING)
    assert client.ask("/readyz?verbose=1").status == 200


def test_clients_that_are_silent_or_go_away_hold_up_nobody_and_are_no_news(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(client.port) as silent, connect(client.port) as gone, connect(client.port) as noise:
        gone.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        gone.close()
        noise.sendall(b"\x16\x03\x01\x02\x00\x01\xff\xfe\r\n\r\n")
        assert noise.recv(100)
        assert client.ask("/healthz").status == 200
        silent.close()
    assert client.ask("/canary").status == 404
    assert capfd.readouterr() == ("", "")


def test_off_serves_nothing() -> None:
    before = servers()
    with serving(PrometheusMetrics(), "off") as port:
        assert port == 0
        assert servers() == before


def test_after_it_the_port_is_free_again_and_its_thread_has_ended() -> None:
    before, metrics = servers(), PrometheusMetrics()
    with serving(metrics, "127.0.0.1:0") as port:
        assert Client(metrics, port).ask("/healthz").status == 200
        assert servers() == before + 1
    assert servers() == before
    with pytest.raises(ConnectionRefusedError), connect(port):
        pass
    with serving(metrics, f"127.0.0.1:{port}") as again:
        assert again == port


def test_it_closes_when_the_work_fails_too() -> None:
    with pytest.raises(LookupError), serving(PrometheusMetrics(), "127.0.0.1:0") as port:
        raise LookupError
    with pytest.raises(ConnectionRefusedError), connect(port):
        pass


def test_a_port_in_use_is_misuse_and_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(Misuse, match=r"cannot listen at SEALSTREAM_HTTP: .*in use.*port 0 for any, or `off`"),
            serving(PrometheusMetrics(), listen),
        ):
            pytest.fail("it served at a port that is taken")


def test_an_address_that_is_not_of_this_machine_is_misuse() -> None:
    with (
        pytest.raises(Misuse, match="cannot listen at SEALSTREAM_HTTP"),
        serving(PrometheusMetrics(), "192.0.2.1:0"),  # RFC 5737: nobody's
    ):
        pytest.fail("it served at an address that is not here")


def test_ipv6_is_served_where_there_is_any() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serving(PrometheusMetrics(), "[::1]:0") as port:
        connection = http.client.HTTPConnection("::1", port, timeout=SECONDS)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_with_a_certificate_it_serves_by_tls_alone_and_a_silent_client_holds_up_nobody(pair: Pair) -> None:
    context = ssl.create_default_context(cafile=pair.cert)
    context.check_hostname = False  # asked by address
    metrics = PrometheusMetrics()
    with serving(metrics, "127.0.0.1:0", *pair) as port, connect(port) as silent:
        answer = Client(metrics, port, context).ask("/healthz")
        assert (answer.status, answer.json) == (200, {"alive": True, "legs": {}})
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            Client(metrics, port).ask("/healthz")
        silent.close()


def test_a_certificate_that_does_not_load_is_misuse_by_its_variable(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound: list[Any] = []
    bind = endpoint._bind

    def noted(*arguments: Any) -> Any:
        bound.append(bind(*arguments))
        return bound[-1]

    monkeypatch.setattr(endpoint, "_bind", noted)
    junk = tmp_path / "junk.pem"
    junk.write_text("canary", encoding="utf-8")
    for cert, key in [(junk, pair.key), (pair.cert, junk), (pair.key, pair.cert), (tmp_path / "none", pair.key)]:
        with (
            pytest.raises(Misuse, match="SEALSTREAM_HTTP_CERT_FILE") as raised,
            serving(PrometheusMetrics(), "127.0.0.1:0", cert, key),
        ):
            pytest.fail("it served without a certificate")
        assert "canary" not in str(raised.value)
        assert raised.value.__suppress_context__
    for server in bound:
        server.server_close()
