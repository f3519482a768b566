"""Where the tests' KEKs live: a SoftHSM token, moto's KMS, and a stub that speaks Vault's documented HTTP."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CI = os.environ.get("CI") == "true"
LIBRARIES = (*Path("/usr/lib").glob("*/softhsm/libsofthsm2.so"),)
PIN = "pin-4f1b-9c"


@dataclass(frozen=True)
class SoftHsm:
    library: Path
    directory: Path

    @property
    def pin(self) -> Path:
        return self.directory / "pin"

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens"

    def uri(self, label: str = "kek", token: str = "test%20token") -> str:
        return f"pkcs11:token={token};object={label}?module-path={self.library}&pin-source=file:{self.pin}"


def soft_hsm(directory: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """Return a new token with the AES keys `kek` and `other`, as an operator makes them."""
    if not LIBRARIES or shutil.which("softhsm2-util") is None:
        if CI:
            pytest.fail("these tests need SoftHSM (Debian: softhsm2)")
        pytest.skip("NO SOFTHSM, NOTHING PROVED: install softhsm2")
    import pkcs11

    made = SoftHsm(LIBRARIES[0], directory)
    made.tokens.mkdir(parents=True)
    config = directory / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {made.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "test token", "--pin", PIN, "--so-pin", "so-pin-77"],
        check=True,
        capture_output=True,
    )
    made.pin.write_text(PIN + "\n")
    made.pin.chmod(0o600)
    library = pkcs11.lib(str(made.library))
    library.reinitialize()
    secret = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
    with library.get_token(token_label="test token").open(rw=True, user_pin=PIN) as session:
        for label in ("kek", "other"):
            session.generate_key(pkcs11.KeyType.AES, 256, label=label, store=True, template=secret)
    return made


class Kms:
    """moto's server; its keys outlive it."""

    keys: tuple[str, ...]

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port, self.keys = 0, ()
        self._server: Any = None
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def make_keys(self, count: int) -> None:
        """`keys`: their ids."""
        import boto3

        client = boto3.client("kms")
        self.keys = tuple(client.create_key()["KeyMetadata"]["KeyId"] for _ in range(count))

    def close(self) -> None:
        """Connections are refused from here on."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            server._server.server_close()


def ask_kms(server: Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set boto3 up to ask it."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL_KMS": f"http://127.0.0.1:{server.port}",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)


TOKEN = "hvs.token-4f1b"


@dataclass
class Vault:
    """Transit of Vault 1.9 and later, as its HTTP documentation has it, for keys of type aes256-gcm96."""

    keys: dict[str, AESGCM] = field(default_factory=dict)
    mount: str = "transit"
    status: int | None = None
    """Answer this in place of working."""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append((path, headers, body))
        if self.status is not None:
            return self.status, {"errors": ["Vault is sealed"]}
        if headers.get("X-Vault-Request") != "true" or headers.get("X-Vault-Token") != TOKEN:
            return 403, {"errors": ["permission denied"]}
        found = re.fullmatch(rf"/v1/{re.escape(self.mount)}/(encrypt|decrypt)/([\w.-]+)", path)
        if found is None:
            return 404, {"errors": [f"no handler for route {path!r}"]}
        verb, name = found.groups()
        if name not in self.keys:
            return 400, {"errors": ["encryption key not found"]}
        key, aad = self.keys[name], base64.b64decode(body.get("associated_data", ""), validate=True)
        if verb == "encrypt":
            nonce = os.urandom(12)
            sealed = nonce + key.encrypt(nonce, base64.b64decode(body["plaintext"], validate=True), aad)
            return 200, {"data": {"ciphertext": "vault:v1:" + base64.b64encode(sealed).decode(), "key_version": 1}}
        head, version, text = [*body["ciphertext"].split(":", 2), "", ""][:3]
        if (head, version) != ("vault", "v1"):
            return 400, {"errors": ["invalid ciphertext: no prefix"]}
        try:
            sealed = base64.b64decode(text, validate=True)
            plain = key.decrypt(sealed[:12], sealed[12:], aad)
        except (ValueError, InvalidTag):
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}


@contextmanager
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """Yield the stub with the keys `kek` and `other`; hvac is set up to ask it."""
    stub = Vault({name: AESGCM(AESGCM.generate_key(256)) for name in ("kek", "other")})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = stub.answer(self.path, dict(self.headers), body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    monkeypatch.delenv("VAULT_NAMESPACE", raising=False)
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
