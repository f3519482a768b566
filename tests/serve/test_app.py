"""Guarantee: over real HTTP, whoever may ask gets the profile of an identifier, and nothing repeats the identifier.

Mutations seen red: everybody admitted; any scheme; no look at Host; neither TLS nor token demanded; every address is
loopback; served while catching up; the latest version first; the version in use alone; the value as the router decodes
it; repeated in a 404; not normalised; any kind as a label; the database's failure let through; merges not followed;
metrics without a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from pipeline.adapters.profile_store import ProfileStore, Slice
from pipeline.adapters.reader import Found
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.errors import Misuse, Transient
from pipeline.serve.app import Api
from pipeline.serve.guard import Guard, check_address, guard
from pipeline.serve.lookup import _RULES, Lookup
from pipeline.stages.normalize import KINDS, MAX_CHARS
from pipeline.telemetry.metrics import PrometheusMetrics

NOW = 1_790_000_000_000
CANARY = "Canary.9c2e@Example.com"
FORM = "canary.9c2e@example.com"
TOKEN = b"t0ken-of-the-tests-with-32-chars-or-more"
A, B, C = (f"{n:032x}" for n in (10, 11, 12))


def key_ring() -> KeyRing:
    """Version 1 from long ago, decrypt-only; 2 in use; 3 announced."""
    made = KeyRing.generate(os.urandom, 0)
    times = {1: 0, 2: NOW - 1000, 3: NOW + 1000}
    states = {1: KeyState.DECRYPT_ONLY, 2: KeyState.ACTIVE, 3: KeyState.ACTIVE}
    return KeyRing(made.kek, [RingKey(Purpose.TOKEN, v, states[v], times[v], bytes([v]) * 32) for v in times])


class Fresh:
    ready = True
    lag_records = 3
    lag_ms = 1_250


class World:
    """A store of profiles, and how to ask for them."""

    api: Api

    def __init__(self, directory: Path) -> None:
        self.store = ProfileStore(f"sqlite:///{directory / 'profiles.db'}", "profiles")
        self.store.begin("", [0], NOW, 0)
        self.tokenizer = key_ring().tokenizer()
        self.metrics = PrometheusMetrics()
        self.fresh = Fresh()
        self.at = 0
        self.base = ""

    def token(self, kind: str, form: str, version: int = 2) -> str:
        return next(v for v in self.tokenizer.versions(NOW) if v.version == version).maker(kind)(form)

    def put(self, ident: str, *tokens: str, into: str | None = None) -> bytes:
        value: Any = {"merged_into": into} if into else {"profile_id": ident, "tokens": {"any": list(tokens)}}
        body = json.dumps(value).encode()
        record = Found(0, self.at, NOW, ident.encode(), body, ())
        self.store.take("", [Slice(0, self.at, self.at + 1, [record])])
        self.at += 1
        return body

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
        """Status, body (decoded if it is JSON of ours), headers. The path goes out as it is."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, URL(self.base + path, encoded=True), headers=headers) as response,
        ):
            body = await response.read()
            assert CANARY.encode() not in body
            assert FORM.encode() not in body
            return response.status, json.loads(body) if body[:1] == b"{" else body, response.headers


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        lookup = Lookup(made.store, made.tokenizer, lambda: NOW)
        made.api = Api(lookup, made.fresh, Guard(None), made.metrics, pool)
        runner = web.AppRunner(made.api.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
        await runner.cleanup()
    made.store.close()


def with_guard(world: World, guard: Guard) -> None:
    world.api._guard = guard


@pytest.mark.parametrize("value", [CANARY, f" {FORM.upper()} ", FORM])
async def test_a_profile_is_found_by_any_form_of_an_identifier(world: World, value: str) -> None:
    body = world.put(A, world.token("email", FORM), world.token("user_id", "u/1 %41?#é"))
    for kind, asked in (("email", value), ("user_id", "u/1 %41?#é")):
        status, found, headers = await world.ask(f"/v1/profiles/{kind}/{quote(asked, safe='')}")
        assert (status, found) == (200, json.loads(body))
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Profile-Lag-Records"] == "3"
        assert headers["X-Profile-Lag-Seconds"] == "1.250"


async def test_tokens_of_every_version_are_looked_up_the_one_in_use_first(world: World) -> None:
    for version in (1, 3):
        body = world.put(f"{version:032x}", world.token("user_id", f"only {version}", version))
        status, found, _ = await world.ask(f"/v1/profiles/user_id/only%20{version}")
        assert (status, found) == (200, json.loads(body))
    world.put(A, world.token("user_id", "both", 1))
    in_use = world.put(B, world.token("user_id", "both", 2))
    world.put(C, world.token("user_id", "both", 3))
    assert (await world.ask("/v1/profiles/user_id/both"))[:2] == (200, json.loads(in_use))


async def test_an_id_leads_to_what_it_was_merged_into(world: World) -> None:
    body = world.put(A, world.token("email", FORM))
    world.put(B, into=A)
    world.put(C, into=B)
    for ident in (A, B, C):
        assert (await world.ask(f"/v1/profiles/{ident}"))[:2] == (200, json.loads(body))
    assert (await world.ask(f"/v1/profiles/{'f' * 32}"))[0] == 404


async def test_nobodys_identifier_is_404_and_not_repeated(world: World) -> None:
    status, found, headers = await world.ask(f"/v1/profiles/email/{quote(CANARY)}")
    assert (status, found) == (404, {"error": "no profile has it"})
    assert headers["X-Profile-Lag-Records"] == "3"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (f"/v1/profiles/e-mail/{CANARY}", {"error": "unknown kind", "kinds": list(KINDS)}),
        ("/v1/profiles/email/canary", ("email", f"{_RULES['email']}, at most {MAX_CHARS} characters")),
        ("/v1/profiles/phone/555", ("phone", f"{_RULES['phone']}, at most {MAX_CHARS} characters")),
        ("/v1/profiles/user_id/", ("user_id", f"not empty, at most {MAX_CHARS} characters")),
        ("/v1/profiles/user_id/%FF", ("user_id", "UTF-8, percent-encoded")),
        (f"/v1/profiles/user_id/{'x' * 1025}", ("user_id", f"not empty, at most {MAX_CHARS} characters")),
        (f"/v1/profiles/{A.upper()}", ("profile_id", "32 hexadecimal digits")),
    ],
)
async def test_what_cannot_be_looked_up_is_400_by_kind_and_rule(world: World, path: str, answer: Any) -> None:
    if isinstance(answer, tuple):
        answer = {"error": "unusable value", "kind": answer[0], "rule": answer[1]}
    assert (await world.ask(path))[:2] == (400, answer)


def test_every_kind_that_has_a_rule_is_a_kind() -> None:
    assert _RULES.keys() <= KINDS.keys()


async def test_other_methods_and_paths(world: World) -> None:
    status, found, headers = await world.ask(f"/v1/profiles/email/{CANARY}", "POST")
    assert (status, found) == (405, {"error": "GET only"})
    assert "GET" in headers["Allow"]
    for path in ("/", "/v1/profiles", f"/v2/profiles/email/{CANARY}", f"/v1/profiles/email/x/{CANARY}"):
        assert (await world.ask(path))[:2] == (404, {"error": "not found"})
    assert (await world.ask("/v1/profiles/email/x%40example.com", "HEAD"))[:2] == (404, b"")


async def test_while_catching_up_it_serves_nothing_and_is_not_ready(world: World) -> None:
    world.put(A, world.token("email", FORM))
    assert (await world.ask("/readyz"))[:2] == (200, {"ready": True, "lag_records": 3})
    world.fresh.ready = False
    for path in (f"/v1/profiles/email/{CANARY}", f"/v1/profiles/{A}"):
        status, found, headers = await world.ask(path)
        assert (status, found) == (503, {"error": "catching up", "records_left": 3})
        assert headers["Retry-After"] == "1"
    assert (await world.ask("/readyz"))[0] == 503
    assert (await world.ask("/healthz"))[0] == 200


async def test_a_database_that_is_away_is_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> bytes:
        raise Transient("away")

    monkeypatch.setattr(world.store, "by_token", away)
    status, found, _ = await world.ask(f"/v1/profiles/email/{CANARY}")
    assert (status, found) == (503, {"error": "the profile database or the key provider does not answer"})


async def test_while_the_kek_may_not_be_used_nobody_is_found_by_identifier(world: World) -> None:
    body = world.put(A, world.token("email", FORM))
    away = [True]

    def available() -> None:
        if away[0]:
            raise Transient("away")

    world.api._lookup = Lookup(world.store, world.tokenizer, lambda: NOW, available)
    assert (await world.ask(f"/v1/profiles/email/{CANARY}"))[0] == 503
    assert (await world.ask(f"/v1/profiles/{A}"))[0] == 200
    away[0] = False
    assert (await world.ask(f"/v1/profiles/email/{CANARY}"))[:2] == (200, json.loads(body))


async def test_without_the_token_nothing_but_health_is_told(world: World) -> None:
    with_guard(world, Guard(TOKEN))
    world.put(A, world.token("email", FORM))
    right = TOKEN.decode()
    for path in (f"/v1/profiles/email/{CANARY}", f"/v1/profiles/{A}", "/metrics", "/nothing"):
        for wrong in (
            {},
            {"Authorization": f"Basic {right}"},
            {"Authorization": f"Bearer {right}x"},
            {"Authorization": f"Bearer {right[:-1]}"},
            {"Authorization": "Bearer"},
            {"Authorization": right},
            {"Authorization": "Bearer \u00e9"},
        ):
            status, found, headers = await world.ask(path, **wrong)
            assert (status, found) == (401, {"error": "no valid bearer token"})
            assert headers["WWW-Authenticate"] == "Bearer"
    for header in (f"Bearer {right}", f"bearer  {right}"):
        assert (await world.ask(f"/v1/profiles/{A}", Authorization=header))[0] == 200
    assert [(await world.ask(path))[0] for path in ("/healthz", "/readyz")] == [200, 200]


async def test_without_a_token_a_name_that_is_not_this_machines_is_refused(world: World) -> None:
    """A page in a browser may have its own name mean 127.0.0.1 (DNS rebinding)."""
    world.put(A, world.token("email", FORM))
    for name in ("evil.example", "evil.example:9465", "127.0.0.1.evil.example", "[2001:db8::1]:1", "10.0.0.1"):
        assert (await world.ask(f"/v1/profiles/{A}", Host=name))[0] == 421
    for name in ("localhost", "localhost:9465", "127.0.0.1", "[::1]:9465"):
        assert (await world.ask(f"/v1/profiles/{A}", Host=name))[0] == 200
    with_guard(world, Guard(TOKEN))
    bearer = f"Bearer {TOKEN.decode()}"
    assert (await world.ask(f"/v1/profiles/{A}", Host="profiles.example", Authorization=bearer))[0] == 200


async def test_metrics_count_answers_by_bounded_names(world: World) -> None:
    world.put(A, world.token("email", FORM))
    for path in (f"/v1/profiles/email/{CANARY}", "/v1/profiles/phone/1", "/v1/profiles/no_kind/1", f"/v1/profiles/{A}"):
        await world.ask(path)
    _, page, _ = await world.ask("/metrics")
    families = {f.name: f for f in text_string_to_metric_families(page.decode())}
    counted = {
        (s.labels["by"], s.labels["status"]): s.value
        for s in families["sealstream_lookups"].samples
        if s.name.endswith("_total")
    }
    assert counted == {("email", "200"): 1, ("phone", "400"): 1, ("other", "400"): 1, ("profile_id", "200"): 1}
    assert {s.labels["by"] for s in families["sealstream_lookup_seconds"].samples} == {b for b, _ in counted}


async def test_nothing_that_is_logged_holds_the_identifier(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever aiohttp logs goes through `telemetry.logs`, which withholds messages of foreign exceptions."""
    caplog.set_level(logging.DEBUG)
    await world.ask(f"/v1/profiles/email/{quote(CANARY)}")
    await world.ask(f"/v1/profiles/no/{quote(CANARY)}", "DELETE")
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(world.base).port)
    writer.write(f"GET /v1/profiles/email/{CANARY} NONSENSE\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await writer.wait_closed()
    told = [r.getMessage() for r in caplog.records]
    assert not [m for m in told if "canary" in m.lower()]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    return path


def test_the_token_is_read_from_a_private_file_and_only_its_digest_kept(token_file: Path) -> None:
    token_file.write_bytes(TOKEN + b"\n")
    made = guard(token_file)
    assert made.admits(f"Bearer {TOKEN.decode()}")
    assert not made.open
    assert TOKEN not in repr(made).encode()
    assert TOKEN not in (made._digest or b"")
    assert guard(None).open


@pytest.mark.parametrize("content", [b"", b"short", TOKEN + b"\n\n", b"x" * 513, b"x" * 40 + b" y", b"\xff" * 40])
def test_a_token_that_is_none_is_refused_by_the_rule_and_not_repeated(token_file: Path, content: bytes) -> None:
    token_file.write_bytes(content)
    with pytest.raises(Misuse, match="SEALSTREAM_SERVE_TOKEN_FILE: 32 to 512") as caught:
        guard(token_file)
    assert "xx" not in str(caught.value)


def test_a_token_file_that_others_may_read_is_refused(token_file: Path) -> None:
    token_file.write_bytes(TOKEN)
    token_file.chmod(0o640)
    with pytest.raises(Misuse, match=r"SEALSTREAM_SERVE_TOKEN_FILE .*: others may use it"):
        guard(token_file)
    with pytest.raises(Misuse, match="openssl rand"):
        guard(token_file.with_name("none"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "profiles.example", ""])
def test_beyond_this_machine_a_token_and_tls_are_needed(host: str) -> None:
    with pytest.raises(Misuse, match="TOKEN_FILE"):
        check_address(host, tls=True, insecure=True, token=False)
    with pytest.raises(Misuse, match="CERT_FILE"):
        check_address(host, tls=False, insecure=False, token=True)
    check_address(host, tls=True, insecure=False, token=True)
    check_address(host, tls=False, insecure=True, token=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_this_machine_neither_is(host: str) -> None:
    check_address(host, tls=False, insecure=False, token=False)
