"""The KEK's providers: a real SoftHSM token, moto's KMS, and a stub with Vault's documented HTTP.

What is wrapped opens at the same provider, under the same key and AAD, and nowhere else; one that is away or refuses is
`Transient`; what cannot mend itself is `Misuse` and is not tried again; secrets are in no log, message or `repr`.

Mutations seen red: no AAD at each provider; a nonce of zeros; the provider's byte not looked at; AccessDenied as
Misuse; a wrong PIN as Transient; every failed C_Decrypt as Corrupt, or as Transient; no `reinitialize`; the token of
Vault kept from the start; each 400 of Vault as Corrupt, and each 500 as Transient; its words looked for anywhere in
what it says, or not at all; no retry of a 503; botocore's logger left at DEBUG; http let through; a `pin-value` let
through; libraries imported with the package.
"""

from __future__ import annotations

import base64
import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline import settings, wiring
from pipeline.adapters import kek_providers, keyfile
from pipeline.adapters.kek_providers import provider
from pipeline.cli.main import cli
from pipeline.crypto.data_kek import DataKek
from pipeline.crypto.kek import PROVIDERS, Kek, LocalKek
from pipeline.errors import Corrupt, Misuse, SealstreamError, Transient
from pipeline.telemetry import logs
from tests.adapters import kek_hosts
from tests.adapters.kek_hosts import PIN, TOKEN, SoftHsm, Vault

KEY, AAD = b"\xa5canary-9c2e-canary-9c2e-canary\x5a", b"sealstream/data-kek/1 of this key"
BYTES = {"pkcs11": 2, "aws-kms": 3, "vault": 4}


@dataclass
class Host:
    """One provider with the keys `kek` and `other`, by settings."""

    kind: str
    kek: str
    other: str
    missing: str
    leave: Callable[[], None]
    come_back: Callable[[], None]

    def __call__(self) -> Kek:
        found = provider(self.kek)
        assert found is not None
        return found


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    return kek_hosts.soft_hsm(tmp_path / "hsm", monkeypatch)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    with kek_hosts.vault(monkeypatch) as found:
        yield found


@pytest.fixture(scope="module")
def moto() -> Iterator[kek_hosts.Kms]:
    with pytest.MonkeyPatch.context() as patch, closing(kek_hosts.Kms()) as server:
        kek_hosts.ask_kms(server, patch)
        server.make_keys(2)
        yield server


@pytest.fixture
def kms(moto: kek_hosts.Kms, monkeypatch: pytest.MonkeyPatch) -> kek_hosts.Kms:
    kek_hosts.ask_kms(moto, monkeypatch)
    return moto


@pytest.fixture(params=["pkcs11", "aws-kms", "vault"])
def host(request: pytest.FixtureRequest) -> Host:
    if request.param == "pkcs11":
        token: SoftHsm = request.getfixturevalue("hsm")
        away = token.tokens.with_name("away")
        return Host(
            "pkcs11",
            token.uri(),
            token.uri("other"),
            token.uri("missing"),
            lambda: (token.tokens.rename(away), None)[1],
            lambda: (away.rename(token.tokens), None)[1],
        )
    if request.param == "aws-kms":
        server: kek_hosts.Kms = request.getfixturevalue("kms")
        one, other, missing = (f"aws-kms:{key}" for key in (*server.keys, server.keys[0][:-4] + "0000"))
        return Host("aws-kms", one, other, missing, server.close, server.start)
    vault: Vault = request.getfixturevalue("stub")

    def answer(status: int | None) -> Callable[[], None]:
        return lambda: setattr(vault, "status", status)

    return Host("vault", "vault:transit/kek", "vault:transit/other", "vault:transit/missing", answer(503), answer(None))


def test_what_is_wrapped_opens_again_and_says_who_wrapped_it(host: Host) -> None:
    kek, again = host(), host()
    made = [kek.wrap(KEY, AAD) for _ in range(3)]
    assert [w[0] for w in made] == [BYTES[host.kind]] * 3
    assert [again.unwrap(w, AAD) for w in made] == [KEY] * 3
    assert all(KEY not in w and base64.b64encode(KEY) not in w for w in made)


def test_another_aad_does_not_open_it(host: Host) -> None:
    kek = host()
    made = kek.wrap(KEY, AAD)
    for aad in (b"", AAD[:-1], AAD + b"\0"):
        with pytest.raises(Corrupt):
            kek.unwrap(made, aad)


def test_what_was_changed_or_cut_does_not_open(host: Host) -> None:
    kek = host()
    made = kek.wrap(KEY, AAD)
    expected = Corrupt if host.kind != "aws-kms" else (Corrupt, Transient)  # a key's id that is no more: denied
    for i in range(0, len(made), 3):
        with pytest.raises(expected):
            kek.unwrap(made[:i] + bytes([made[i] ^ 1]) + made[i + 1 :], AAD)
    for end in (0, 1, 2, 13, 28, len(made) - 1):
        with pytest.raises(Corrupt):
            kek.unwrap(made[:end], AAD)


def test_another_key_of_the_same_provider_does_not_open_it(host: Host) -> None:
    other = provider(host.other)
    assert other is not None
    with pytest.raises(Transient if host.kind == "aws-kms" else Corrupt):  # moto denies what AWS calls incorrect
        other.unwrap(host().wrap(KEY, AAD), AAD)


def test_another_provider_is_told_by_name_and_not_asked(host: Host) -> None:
    kek = host()
    host.leave()
    for number in {1, 2, 3, 4} - {BYTES[host.kind]}:
        with pytest.raises(Corrupt) as raised:
            kek.unwrap(bytes([number]) + b"body" * 20, AAD)
        assert PROVIDERS[bytes([number])] in str(raised.value)
        assert PROVIDERS[bytes([BYTES[host.kind]])] in str(raised.value)
    host.come_back()


def test_a_provider_that_is_away_is_transient_and_the_same_object_goes_on_when_it_is_back(host: Host) -> None:
    kek = host()
    made = kek.wrap(KEY, AAD)
    host.leave()
    for call in (partial(kek.unwrap, made, AAD), partial(kek.wrap, KEY, AAD)):
        with pytest.raises(Transient):
            call()
    host.come_back()
    assert kek.unwrap(made, AAD) == KEY
    assert kek.unwrap(kek.wrap(KEY, AAD), AAD) == KEY


def test_a_key_that_is_not_there_is_misuse(host: Host) -> None:
    missing, made = provider(host.missing), host().wrap(KEY, AAD)
    assert missing is not None
    with pytest.raises(Misuse):
        missing.unwrap(made, AAD)


def test_keys_init_makes_a_file_that_opens_with_the_provider_alone(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("SEALSTREAM_KEK", host.kek)
    done = CliRunner().invoke(cli, ["keys", "init", str(path)])
    assert done.exit_code == 0, done.output
    ring = keyfile.load(path, host())
    assert isinstance(ring.kek, DataKek)
    assert base64.b64encode(ring.kek.export()) not in path.read_bytes()
    assert wiring.key_ring(settings.load(key_file=path)).keys == ring.keys
    with pytest.raises(Misuse):
        keyfile.load(path)


@pytest.fixture
def debug() -> Iterator[io.StringIO]:
    """Everything that any library logs, as `SEALSTREAM_LOG_LEVEL=debug` shows it."""
    root, names = logging.getLogger(), ("aiokafka", "faust", "mode", "botocore", "urllib3")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    sink = io.StringIO()
    logs.configure("json", "debug", sink)
    yield sink
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_no_secret_is_in_a_log_a_message_or_a_repr(host: Host, debug: io.StringIO) -> None:
    kek = host()
    made = kek.wrap(KEY, AAD)
    told = [repr(kek), str(kek)]
    with pytest.raises(SealstreamError) as raised:
        kek.unwrap(made, b"another")
    kek.unwrap(made, AAD)
    host.leave()
    with pytest.raises(Transient) as away:
        kek.unwrap(made, AAD)
    host.come_back()
    for error in (raised.value, away.value):
        assert error.__context__ is None or error.__suppress_context__
        told += [str(error), repr(error)]
    shown = debug.getvalue() + "".join(told)
    for secret in (KEY.decode("latin-1"), KEY.hex(), base64.b64encode(KEY).decode(), "canary-9c2e", PIN, TOKEN):
        assert secret not in shown


# -- the settings -----------------------------------------------------------------------------------------------------


def test_file_is_no_provider_and_an_unknown_one_is_misuse() -> None:
    assert provider("file") is None
    with pytest.raises(Misuse):
        provider("gcp-kms:key")


@pytest.mark.parametrize(
    ("library", "module", "kek", "extra"),
    [
        ("boto3", "aws_kms", "aws-kms:key", "aws"),
        ("hvac", "vault_transit", "vault:transit/kek", "vault"),
        ("pkcs11", "pkcs11_token", "pkcs11:x", "pkcs11"),
    ],
)
def test_a_library_that_is_not_installed_is_named_by_its_extra(
    library: str, module: str, kek: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{kek_providers.__name__}.{module}", raising=False)
    with pytest.raises(Misuse, match=rf"pip install 'sealstream\[{extra}\]'"):
        provider(kek)


def test_no_library_is_loaded_unless_its_provider_is_chosen() -> None:
    code = (
        "import sys, pipeline.wiring as w; print({'boto3', 'hvac', 'pkcs11', 'botocore', 'requests'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda uri: uri.replace("pin-source=file:/", "pin-value="),
        lambda uri: uri + f"&pin-value={PIN}",
        lambda uri: uri.replace("&pin-source=file:", "&pin-source=|cat "),
        lambda uri: uri.replace("object=kek", "object="),
        lambda uri: uri.replace("token=test%20token;", ""),
        lambda uri: uri.replace("token=", "token=a;token="),
        lambda uri: uri.partition("?")[0],
        lambda uri: uri.replace("libsofthsm2.so", "none.so"),
        lambda uri: "pkcs11:",
    ],
)
def test_a_uri_that_says_less_or_more_than_needed_is_misuse_and_not_repeated(
    hsm: SoftHsm, change: Callable[[str], str]
) -> None:
    with pytest.raises(Misuse, match="SEALSTREAM_KEK") as raised:
        provider(change(hsm.uri()))
    assert PIN not in str(raised.value)


def test_a_pin_file_that_others_may_read_is_refused(hsm: SoftHsm) -> None:
    kek = provider(hsm.uri())
    assert kek is not None
    hsm.pin.chmod(0o640)
    with pytest.raises(Misuse, match=r"PIN file .*others may use it"):
        kek.wrap(KEY, AAD)


@pytest.mark.parametrize("pin", ["wrong-pin-9", "", "x" * 300])
def test_a_wrong_pin_is_misuse_for_a_token_locks_itself_after_a_few(hsm: SoftHsm, pin: str) -> None:
    kek = provider(hsm.uri())
    assert kek is not None
    hsm.pin.write_text(pin)
    with pytest.raises(Misuse, match="PIN") as raised:
        kek.wrap(KEY, AAD)
    assert not pin or pin not in str(raised.value)


def test_a_token_that_is_defect_is_not_taken_for_a_damaged_key(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are CKR_GENERAL_ERROR."""
    from pkcs11.exceptions import GeneralError

    from pipeline.adapters.kek_providers import pkcs11_token

    kek = provider(hsm.uri())
    assert kek is not None
    made = kek.wrap(KEY, AAD)

    def defect(*_: object) -> bytes:
        raise GeneralError

    monkeypatch.setattr(pkcs11_token, "_decrypt", defect)
    with pytest.raises(Transient):
        kek.unwrap(made, AAD)


def test_no_nonce_comes_twice_at_a_token(hsm: SoftHsm) -> None:
    """KMS and Vault choose their own."""
    kek = provider(hsm.uri())
    assert kek is not None
    assert len({kek.wrap(KEY, AAD)[1:13] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("InvalidCiphertextException", Corrupt),
        ("IncorrectKeyException", Corrupt),
        ("NotFoundException", Misuse),
        ("InvalidKeyUsageException", Misuse),
        ("AccessDeniedException", Transient),
        ("DisabledException", Transient),
        ("KMSInvalidStateException", Transient),
        ("KeyUnavailableException", Transient),
        ("ExpiredTokenException", Transient),
    ],
)
def test_what_kms_answers_is_told_by_what_helps(kms: kek_hosts.Kms, code: str, error: type[SealstreamError]) -> None:
    from botocore.stub import Stubber

    from pipeline.adapters.kek_providers.aws_kms import AwsKmsKek

    kek = AwsKmsKek("alias/kek")
    with Stubber(kek._client) as stubber:
        stubber.add_client_error("decrypt", code, "a message that may say anything: canary-9c2e", 400)
        with pytest.raises(error, match=code) as raised:
            kek.unwrap(b"\x03blob", AAD)
    assert "canary" not in str(raised.value)


def test_kms_without_a_region_is_misuse(kms: kek_hosts.Kms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(Misuse, match="AWS_REGION"):
        provider("aws-kms:alias/kek")


@pytest.mark.parametrize("url", ["http://vault.example.com:8200", "http://127.0.0.1:80@vault.example.com"])
def test_a_provider_across_a_network_needs_tls(
    kms: kek_hosts.Kms, stub: Vault, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kek in (("VAULT_ADDR", "vault:transit/kek"), ("AWS_ENDPOINT_URL_KMS", "aws-kms:alias/kek")):
        monkeypatch.setenv(name, url)
        with pytest.raises(Misuse, match="https"):
            provider(kek)


# -- Vault's HTTP -----------------------------------------------------------------------------------------------------


def test_vault_is_asked_as_its_documentation_says(stub: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_NAMESPACE", "team/a")
    stub.mount = "eu/transit"
    kek = provider("vault:eu/transit/kek")
    assert kek is not None
    made = kek.wrap(KEY, AAD)
    assert made.startswith(b"\x04vault:v1:")
    kek.unwrap(made, AAD)
    text, context = base64.b64encode(KEY).decode(), base64.b64encode(AAD).decode()
    assert [(path, body) for path, _, body in stub.asked] == [
        ("/v1/eu/transit/encrypt/kek", {"plaintext": text, "associated_data": context}),
        ("/v1/eu/transit/decrypt/kek", {"ciphertext": made[1:].decode(), "associated_data": context}),
    ]
    assert {headers["X-Vault-Namespace"] for _, headers, _ in stub.asked} == {"team/a"}


def test_vaults_token_is_read_each_time_for_it_is_renewed(stub: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    kek = provider("vault:transit/kek")
    assert kek is not None
    monkeypatch.setenv("VAULT_TOKEN", "hvs.expired")
    with pytest.raises(Transient, match="Forbidden"):
        kek.wrap(KEY, AAD)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    assert kek.unwrap(kek.wrap(KEY, AAD), AAD) == KEY


@pytest.mark.parametrize(("status", "asked"), [(503, 2), (502, 2), (403, 1), (500, 1)])
def test_vault_is_asked_twice_where_that_may_help(stub: Vault, status: int, asked: int) -> None:
    kek, stub.status = provider("vault:transit/kek"), status
    assert kek is not None
    with pytest.raises(Transient):
        kek.wrap(KEY, AAD)
    assert len(stub.asked) == asked


TOO_OLD = "ciphertext or signature version is disallowed by policy (too old)"
UNTRUE = "cipher: message authentication failed"


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (400, UNTRUE, Corrupt),
        (500, UNTRUE, Corrupt),
        (500, f"1 error occurred:\n\t* {UNTRUE}\n\n", Corrupt),
        (400, "invalid ciphertext: no prefix", Corrupt),
        (400, "invalid ciphertext: version is too new", Corrupt),
        (400, "invalid ciphertext: unable to decrypt", Corrupt),
        (400, "unable to decrypt", Corrupt),
        (400, "missing ciphertext to decrypt", Corrupt),
        (400, TOO_OLD, Corrupt),
        (400, "encryption key not found", Misuse),
        (400, "message decryption not supported for key type ed25519", Misuse),
        (400, "'[0].associated_data' provided for non-AEAD cipher suite rsa-4096", Misuse),
        (400, "missing 'context' for key derivation; the key was created using a derived key", Misuse),
        (400, "missing client token", Transient),
        (400, "unsupported path", Transient),
        (400, "canary-9c2e: something new", Transient),
        (500, "1 error occurred:\n\t* internal error\n\n", Transient),
        (500, f"read failed: decryption failed: {UNTRUE}", Transient),
        (403, UNTRUE, Transient),
    ],
)
def test_what_vault_answers_is_told_by_its_words(
    stub: Vault, status: int, said: str, error: type[SealstreamError], monkeypatch: pytest.MonkeyPatch
) -> None:
    kek = provider("vault:transit/kek")
    assert kek is not None
    monkeypatch.setattr(stub, "answer", lambda *_: (status, {"errors": [said]}))
    for call in (partial(kek.unwrap, b"\x04vault:v1:AAAA", AAD), partial(kek.wrap, KEY, AAD)):
        with pytest.raises(error, match="Vault") as raised:
            call()
        assert "canary" not in str(raised.value)
    if error is Transient and status == 400:
        assert "token" in str(raised.value)


@pytest.mark.parametrize("said", [None, [], [5], "missing client token"])
def test_what_vault_says_in_another_form_is_transient(
    stub: Vault, said: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    kek = provider("vault:transit/kek")
    assert kek is not None
    monkeypatch.setattr(stub, "answer", lambda *_: (400, {"errors": said}))
    with pytest.raises(Transient):
        kek.unwrap(b"\x04vault:v1:AAAA", AAD)


@pytest.mark.parametrize("answer", [{}, {"data": None}, {"data": {}}, {"data": {"plaintext": "no base64 é"}}])
def test_what_is_no_answer_of_transit_is_transient(
    stub: Vault, answer: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kek = provider("vault:transit/kek")
    assert kek is not None
    monkeypatch.setattr(stub, "answer", lambda *_: (200, answer))
    with pytest.raises(Transient):
        kek.unwrap(b"\x04vault:v1:x", AAD)


def test_no_mount_is_misuse(stub: Vault) -> None:
    kek = provider("vault:elsewhere/kek")
    assert kek is not None
    with pytest.raises(Misuse, match="no transit engine"):
        kek.wrap(KEY, AAD)
    for kek_setting in ("vault:kek", "vault:transit/", "vault:/kek"):
        with pytest.raises(Misuse, match="SEALSTREAM_KEK"):
            provider(kek_setting)


def test_a_local_kek_keeps_its_own_byte() -> None:
    assert LocalKek(bytes(32)).wrap(KEY, AAD)[:1] == b"\x01"
    assert len(PROVIDERS) == 4
