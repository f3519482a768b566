"""Guarantee: a setting either holds or is refused by its name and rule; its value is in no message, log or repr.

Mutations seen red: an empty variable taken as a value; the value in the message of an unknown variable; pydantic's
whole error as the message; `.rstrip` for `.removesuffix` of the password's newline; `and` for `==` between the two
password sources; a password's file that others may read; files of Kafka's TLS that nobody looks at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline import settings
from pipeline.errors import Misuse
from pipeline.settings import PREFIX, Settings
from tests.certificates import self_signed

CANARY = "canary-hunter2"
SASL = {"SEALSTREAM_KAFKA_SECURITY": "SASL_SSL", "SEALSTREAM_KAFKA_USERNAME": "worker"}
PASSWORD = {"SEALSTREAM_KAFKA_PASSWORD": CANARY}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def refusal(environ: dict[str, str], **overrides: Any) -> str:
    """The message of the `Misuse`; nothing else of it would be printed with a traceback."""
    with pytest.raises(Misuse) as raised:
        settings.load(environ, **overrides)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


def private(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def outcome(environ: dict[str, str]) -> str:
    """What is told of the loading: "" if it went well."""
    try:
        settings.load(environ)
    except Misuse as error:
        return str(error)
    return ""


# -- reading the environment -----------------------------------------------------------------------------------------


def test_without_variables_every_setting_has_its_default_and_says_what_it_is_for() -> None:
    found = settings.load({})
    assert (found.kafka, found.kafka_security, found.http) == (None, "PLAINTEXT", "127.0.0.1:9464")
    assert all(field.description for field in Settings.model_fields.values())


def test_a_variable_sets_the_field_of_its_name_in_the_type_of_the_field() -> None:
    found = settings.load(
        {
            "SEALSTREAM_PARTITIONS": "16",
            "SEALSTREAM_SESSION_SECONDS": "7.5",
            "SEALSTREAM_STATE_DIR": "/var/lib/sealstream",
            "SEALSTREAM_COMPRESSION": "zstd",
            "SEALSTREAM_KAFKA": "a.example:9092, [::1]:9093",
            "SEALSTREAM_INSECURE": "true",
        }
    )
    assert (found.partitions, found.session_seconds, found.compression) == (16, 7.5, "zstd")
    assert found.state_dir == Path("/var/lib/sealstream")
    assert found.bootstrap() == "a.example:9092,[::1]:9093"


def test_load_alone_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALSTREAM_PARTITIONS", "9")
    assert settings.load().partitions == 9
    assert Settings().partitions == 4


def test_what_was_loaded_does_not_change() -> None:
    with pytest.raises(ValidationError):
        settings.load({}).partitions = 5


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("SEALSTREAM_PARTITONS", "SEALSTREAM_PARTITIONS"),
        ("SEALSTREAM_KAFKA_PASWORD", "SEALSTREAM_KAFKA_PASSWORD"),
        ("SEALSTREAM_LOGLEVEL", "SEALSTREAM_LOG_LEVEL"),
        ("SEALSTREAM_kafka", "SEALSTREAM_KAFKA"),
    ],
)
def test_an_unknown_variable_is_refused_by_name_with_the_setting_that_was_meant(misspelt: str, meant: str) -> None:
    message = refusal({misspelt: CANARY})
    assert message.startswith(f"{misspelt} is no setting (did you mean {meant}?)")
    assert CANARY not in message


def test_a_variable_like_no_setting_is_refused_without_a_guess() -> None:
    message = refusal({"SEALSTREAM_XYZZY": CANARY})
    assert message.startswith("SEALSTREAM_XYZZY is no setting;")
    assert "did you mean" not in message
    assert CANARY not in message


def test_an_empty_variable_counts_as_unset() -> None:
    names = [PREFIX + field.upper() for field in Settings.model_fields]
    assert settings.load(dict.fromkeys([*names, "SEALSTREAM_XYZZY"], "")) == settings.load({})


@pytest.mark.parametrize("name", ["PATH", "sealstream_partitions", "SEALSTREAMS", "MY_SEALSTREAM_PARTITIONS"])
def test_variables_without_the_prefix_are_not_ours(name: str) -> None:
    assert settings.load({name: "1"}) == settings.load({})


@pytest.mark.parametrize("name", ["SEALSTREAM_DEBUG", "SEALSTREAM_TEST_KAFKA_HOME"])
def test_what_is_read_elsewhere_is_let_alone(name: str) -> None:
    assert settings.load({name: "1"}) == settings.load({})


@pytest.mark.parametrize(
    "name",
    [
        "SEALSTREAM_SERVICE_HOST",
        "SEALSTREAM_SERVICE_PORT",
        "SEALSTREAM_SERVICE_PORT_METRICS",
        "SEALSTREAM_PORT",
        "SEALSTREAM_PORT_9464_TCP",
        "SEALSTREAM_PORT_9464_TCP_ADDR",
        "SEALSTREAM_PORT_53_UDP_PROTO",
        "SEALSTREAM_WORKER_SERVICE_HOST",
        "SEALSTREAM_WORKER_PORT_9464_TCP_PORT",
    ],
)
def test_what_kubernetes_puts_in_for_a_service_is_ignored(name: str) -> None:
    assert settings.load({name: "tcp://10.0.0.1:9464"}) == settings.load({})


@pytest.mark.parametrize("name", ["SEALSTREAM_SERVICE", "SEALSTREAM_PORTS", "SEALSTREAM_PORT_X", "SEALSTREAM_HOST"])
def test_what_only_looks_like_kubernetes_is_refused(name: str) -> None:
    assert refusal({name: "1"}).startswith(f"{name} is no setting")


def test_a_setting_is_never_taken_for_kubernetes() -> None:
    assert not [field for field in Settings.model_fields if settings._KUBERNETES.search(PREFIX + field.upper())]


# -- overrides -------------------------------------------------------------------------------------------------------


def test_an_override_wins_and_none_is_not_given() -> None:
    environ = {"SEALSTREAM_PARTITIONS": "8", "SEALSTREAM_GROUP": "theirs"}
    found = settings.load(environ, group="ours", partitions=None, kafka=None)
    assert (found.group, found.partitions, found.kafka) == ("ours", 8, None)


def test_an_override_is_checked_like_a_variable() -> None:
    message = refusal({"SEALSTREAM_KAFKA": "a:1"}, kafka=CANARY)
    assert message == "SEALSTREAM_KAFKA: must read host:port, several separated by commas"


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("kafka", CANARY, "host:port"),
        ("kafka", f"a:1,{CANARY}", "host:port"),
        ("kafka", f"SASL_SSL://{CANARY}:9092", "host:port"),
        ("kafka", f"{CANARY}:1,", "host:port"),
        ("kafka_security", CANARY, "'SASL_SSL'"),
        ("kafka_sasl", CANARY, "'SCRAM-SHA-512'"),
        ("partitions", CANARY, "valid integer"),
        ("partitions", "0", "greater than or equal to 1"),
        ("partitions", "1025", "less than or equal to 1024"),
        ("topic_prefix", CANARY + "/", "match pattern"),
        ("topic_prefix", CANARY + "\n", "match pattern"),
        ("group", CANARY + "_", "match pattern"),
        ("kek", CANARY, "match pattern"),
        ("kek", "pkcs11:", "match pattern"),
        ("kek", f"vault:transit/{CANARY} ", "match pattern"),
        ("kek_cache_seconds", "0", "greater than or equal to 10"),
        ("max_event_bytes", CANARY, "valid integer"),
        ("compression", CANARY, "'zstd'"),
        ("session_seconds", CANARY, "valid number"),
        ("session_seconds", "nan", "less than or equal to 300"),
        ("http", CANARY, "must read host:port, or off"),
        ("http", f"{CANARY}:65536", "must read host:port, or off"),
        ("http", f"http://{CANARY}:9464", "must read host:port, or off"),
        ("serve", "off", "must read host:port"),
        ("serve", f"{CANARY}:65536", "must read host:port"),
        ("insecure", CANARY, "valid boolean"),
        ("log_format", CANARY, "'console'"),
        ("log_level", CANARY, "'warning'"),
    ],
)
def test_a_bad_value_is_refused_by_variable_and_rule_and_not_repeated(field: str, value: str, rule: str) -> None:
    message = refusal({PREFIX + field.upper(): value})
    assert message.startswith(f"{PREFIX}{field.upper()}: ")
    assert rule in message
    assert CANARY not in message


def test_all_bad_values_are_named_at_once() -> None:
    message = refusal({"SEALSTREAM_PARTITIONS": CANARY, "SEALSTREAM_GROUP": CANARY + "_"})
    assert [part.partition(":")[0] for part in message.split("; ")] == ["SEALSTREAM_PARTITIONS", "SEALSTREAM_GROUP"]


@given(st.sampled_from(sorted(Settings.model_fields)), TEXT)
def test_no_value_whatever_it_is_comes_back_in_a_message(field: str, text: str) -> None:
    environ = {PREFIX + field.upper(): CANARY + text}
    if field == "kafka_security":
        environ |= SASL | PASSWORD | environ
    assert CANARY not in outcome(environ)


@given(TEXT)
def test_a_password_is_in_no_repr_and_in_no_message_of_another_fault(text: str) -> None:
    environ = SASL | {"SEALSTREAM_KAFKA_PASSWORD": CANARY + text}
    found = settings.load(environ)
    assert found.password() == CANARY + text
    assert CANARY not in f"{found} {found!r} {found.model_dump()}"
    for fault in ({"SEALSTREAM_KAFKA_PASSWORD_FILE": "/nowhere"}, {"SEALSTREAM_PARTITIONS": "x"}):
        assert CANARY not in refusal(environ | fault)


@pytest.mark.parametrize("listen", ["off", "0.0.0.0:0", "[::1]:9464", "localhost:65535"])
def test_the_endpoint_listens_at_a_host_and_port_or_not_at_all(listen: str) -> None:
    assert settings.load({"SEALSTREAM_HTTP": listen, "SEALSTREAM_INSECURE": "true"}).http == listen


def test_the_database_of_profiles_is_in_the_state_directory_unless_it_is_given() -> None:
    assert settings.load({"SEALSTREAM_STATE_DIR": "/var/x"}).database_url() == "sqlite:////var/x/profiles.db"
    found = settings.load({"SEALSTREAM_SERVE_DATABASE": f"postgresql://me:{CANARY}@db/profiles"})
    assert found.database_url() == f"postgresql://me:{CANARY}@db/profiles"
    assert CANARY not in f"{found} {found!r} {found.model_dump()}"


# -- settings that need each other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["SASL_SSL", "SASL_PLAINTEXT"])
def test_sasl_needs_exactly_one_source_of_the_password(security: str, tmp_path: Path) -> None:
    environ = SASL | {"SEALSTREAM_KAFKA_SECURITY": security}
    file = tmp_path / "password"
    private(file, b"from the file\n")
    from_file = {"SEALSTREAM_KAFKA_PASSWORD_FILE": str(file)}
    for wrong in (environ, environ | PASSWORD | from_file):
        message = refusal(wrong)
        assert "exactly one of SEALSTREAM_KAFKA_PASSWORD and" in message
        assert CANARY not in message
    assert settings.load(environ | PASSWORD).password() == CANARY
    assert settings.load(environ | from_file).password() == "from the file"


def test_sasl_needs_a_user() -> None:
    message = refusal({"SEALSTREAM_KAFKA_SECURITY": "SASL_SSL"} | PASSWORD)
    assert message == "SEALSTREAM_KAFKA_USERNAME is needed with SASL"


def test_without_sasl_no_password_is_needed() -> None:
    assert settings.load({"SEALSTREAM_KAFKA_SECURITY": "SSL"}).password() is None


@pytest.mark.parametrize(
    "name",
    [
        *("KAFKA_CERT_FILE", "KAFKA_CERT_KEY_FILE", "HTTP_CERT_FILE", "HTTP_KEY_FILE"),
        *("SERVE_CERT_FILE", "SERVE_CERT_KEY_FILE"),
    ],
    ids=str.lower,
)
def test_a_certificate_and_its_key_go_together(name: str) -> None:
    message = refusal({PREFIX + name: f"/{CANARY}"})
    assert "go together" in message
    assert name.split("_CERT")[0].split("_KEY")[0] in message
    assert CANARY not in message


def test_no_kafka_says_how_to_give_one() -> None:
    with pytest.raises(Misuse, match="SEALSTREAM_KAFKA=host:port"):
        settings.load({}).bootstrap()


def test_the_key_ring_is_in_the_state_directory_unless_it_is_given() -> None:
    state = {"SEALSTREAM_STATE_DIR": "/s"}
    assert settings.load(state).keys_path() == Path("/s/keys.json")
    assert settings.load(state | {"SEALSTREAM_KEY_FILE": "/k.json"}).keys_path() == Path("/k.json")


# -- the password's file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("pw", "pw"),
        ("pw\n", "pw"),
        ("pw\n\n", "pw\n"),
        (" pw \n", " pw "),
        ("\npw", "\npw"),
        ("pä𝄞\n", "pä𝄞"),
        ("", ""),
    ],
)
def test_of_the_passwords_file_one_trailing_newline_is_cut(content: str, password: str, tmp_path: Path) -> None:
    file = private(tmp_path / "password", content.encode())
    assert settings.load(SASL | {"SEALSTREAM_KAFKA_PASSWORD_FILE": str(file)}).password() == password


def test_a_passwords_file_that_cannot_be_used_is_misuse_by_its_variable(tmp_path: Path) -> None:
    latin = private(tmp_path / "latin", CANARY.encode() + b"\xff")
    long = private(tmp_path / "long", CANARY.encode() * 1_000)
    for mode in (0o640, 0o604):
        private(tmp_path / str(mode), CANARY.encode()).chmod(mode)
    for file in (tmp_path / "missing", tmp_path, latin, long, tmp_path / str(0o640), tmp_path / str(0o604)):
        found = settings.load(SASL | {"SEALSTREAM_KAFKA_PASSWORD_FILE": str(file)})
        with pytest.raises(Misuse, match=r"^SEALSTREAM_KAFKA_PASSWORD_FILE") as raised:
            found.security()
        assert CANARY not in str(raised.value)
        assert raised.value.__suppress_context__ or raised.value.__context__ is None


# -- security --------------------------------------------------------------------------------------------------------


def test_plaintext_has_no_security_properties() -> None:
    assert settings.load({"SEALSTREAM_KAFKA": "[::1]:1", "SEALSTREAM_KAFKA_USERNAME": "worker"}).security() == {}


HERE = ["127.0.0.1:1", "localhost:1,127.9.9.9:2", "[::1]:1"]
ELSEWHERE = ["kafka:1", "localhost:1,10.0.0.1:2", "[2001:db8::1]:1", "localhost.example:1", "127.0.0.1.example:1"]


@pytest.mark.parametrize("kafka", ELSEWHERE)
@pytest.mark.parametrize("security", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_another_machines_kafka_needs_tls_or_somebody_who_says_that_it_does_not(kafka: str, security: str) -> None:
    given = {**SASL, "SEALSTREAM_KAFKA_PASSWORD": "x", "SEALSTREAM_KAFKA": kafka, "SEALSTREAM_KAFKA_SECURITY": security}
    message = refusal(given)
    assert message.startswith("SEALSTREAM_KAFKA_SECURITY: not encrypted")
    assert "SEALSTREAM_INSECURE=true" in message
    assert settings.load({**given, "SEALSTREAM_INSECURE": "true"}).in_clear() == ["SEALSTREAM_KAFKA_SECURITY"]
    assert settings.load({**given, "SEALSTREAM_KAFKA_SECURITY": "SASL_SSL"}).in_clear() == []


@pytest.mark.parametrize("kafka", HERE)
def test_this_machines_kafka_needs_none(kafka: str) -> None:
    assert settings.load({"SEALSTREAM_KAFKA": kafka}).in_clear() == []


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "host:1"])
def test_an_endpoint_that_others_reach_needs_tls_or_somebody_who_says_that_it_does_not(listen: str) -> None:
    assert refusal({"SEALSTREAM_HTTP": listen}).startswith("SEALSTREAM_HTTP: not encrypted")
    tls = {"SEALSTREAM_HTTP_CERT_FILE": "/c", "SEALSTREAM_HTTP_KEY_FILE": "/k"}
    assert settings.load({"SEALSTREAM_HTTP": listen, **tls}).in_clear() == []
    assert settings.load({"SEALSTREAM_HTTP": listen, "SEALSTREAM_INSECURE": "1"}).in_clear() == ["SEALSTREAM_HTTP"]


def test_security_goes_by_librdkafkas_names(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    files = {
        "SEALSTREAM_KAFKA_CA_FILE": str(cert),
        "SEALSTREAM_KAFKA_CERT_FILE": str(cert),
        "SEALSTREAM_KAFKA_CERT_KEY_FILE": str(key),
    }
    tls = {
        "ssl.ca.location": str(cert),
        "ssl.certificate.location": str(cert),
        "ssl.key.location": str(key),
    }
    sasl = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "worker", "sasl.password": CANARY}
    for security, expected in [("SASL_SSL", sasl | tls), ("SASL_PLAINTEXT", sasl), ("SSL", tls)]:
        found = settings.load(SASL | PASSWORD | files | {"SEALSTREAM_KAFKA_SECURITY": security})
        assert found.security() == {"security.protocol": security} | expected


def test_files_of_tls_that_do_not_load_are_misuse_by_their_settings(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    ca = {"SEALSTREAM_KAFKA_CA_FILE": str(cert)}
    pair = {"SEALSTREAM_KAFKA_CERT_FILE": str(cert), "SEALSTREAM_KAFKA_CERT_KEY_FILE": str(key)}
    for good in (ca, pair, ca | pair):
        Producer(settings.load({"SEALSTREAM_KAFKA_SECURITY": "SSL", **good}).security())
    for name in ca | pair:
        for wrong in ("/nowhere", str(key if name != "SEALSTREAM_KAFKA_CERT_KEY_FILE" else cert)):
            given = settings.load({"SEALSTREAM_KAFKA_SECURITY": "SSL", **ca, **pair, name: wrong})
            with pytest.raises(Misuse, match=r"SEALSTREAM_KAFKA_CA_FILE, …_CERT_FILE and …_CERT_KEY_FILE do not load"):
                given.security()


def test_what_was_not_given_is_left_to_librdkafka() -> None:
    assert settings.load({"SEALSTREAM_KAFKA_SECURITY": "SSL"}).security() == {"security.protocol": "SSL"}


def test_librdkafka_knows_every_name() -> None:
    found = settings.load(SASL | PASSWORD | {"SEALSTREAM_KAFKA_SASL": "PLAIN"}).security()
    Producer(found | {"log_level": 0})
    with pytest.raises(KafkaException):
        Producer(found | {"sasl.passwort": CANARY})
    with pytest.raises(KafkaException, match=r"ssl\.ca\.location"):
        Producer(found | {"ssl.ca.location": "/nowhere/ca.pem", "log_level": 0})


# -- sources that must seal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"), [("", set()), ("shop", {"shop"}), (" shop , Web app", {"shop", "Web app"}), ("*", {"*"})]
)
def test_sources_that_must_seal_are_separated_by_commas(given: str, expected: set[str]) -> None:
    assert settings.load({"SEALSTREAM_REQUIRE_SEALED": given}).must_seal() == expected


@pytest.mark.parametrize("given", [",", "shop,", "a,,b", "a\nb", CANARY * 10])
def test_what_names_no_source_is_refused(given: str) -> None:
    said = refusal({"SEALSTREAM_REQUIRE_SEALED": given})
    assert said == "SEALSTREAM_REQUIRE_SEALED: must read source,source or *"
