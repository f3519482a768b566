"""Every setting: an environment variable `SEALSTREAM_<FIELD>`, with its unit, its default and why that one.

`load()` reads the environment once, at the edge; everything behind it gets values. A variable with our prefix that is
no setting is refused, since a misspelt setting is one that silently does not hold. Messages name the variable and the
rule, never the value: it may be a password.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .adapters import private_file
from .certificates import ClientContext, all_here, kafka_files
from .errors import Misuse
from .events import is_source

PREFIX = "SEALSTREAM_"
KAFKA_IN_CLEAR = "SEALSTREAM_KAFKA_SECURITY"
OTHERS = {"SEALSTREAM_DEBUG"}
"""Read where no settings exist yet: SEALSTREAM_DEBUG=1 shows tracebacks."""
_PASSWORD_BYTES = 4_096
_TESTS = "SEALSTREAM_TEST_"
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT(_\d+_(TCP|UDP|SCTP)(_|$)|$)")
"""Kubernetes puts such variables into each pod for every service, "sealstream" included: no setting ends like that."""
_SERVERS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}\Z")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    insecure: bool = Field(
        default=False,
        description="Connect to Kafka and PostgreSQL, and listen, beyond this machine without TLS: where a proxy has "
        "it, or to try out. Each command says what it makes use of.",
    )

    # Kafka
    kafka: str | None = Field(
        default=None,
        description="Bootstrap servers, `host:port,host:port`. None: only the demo runs.",
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="Kafka's security.protocol. Without SSL for a Kafka on this machine only.",
    )
    kafka_sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="SASL mechanism; the strongest that Kafka stores itself."
    )
    kafka_username: str | None = Field(default=None, description="SASL user.")
    kafka_password: SecretStr | None = Field(default=None, description="SASL password; prefer KAFKA_PASSWORD_FILE.")
    kafka_password_file: Path | None = Field(
        default=None,
        description="File (mode 0600) with the SASL password (one trailing newline is cut): not seen in `ps` or dumps.",
    )
    kafka_ca_file: Path | None = Field(
        default=None, description="PEM bundle that signs the brokers. None: the system's."
    )
    kafka_cert_file: Path | None = Field(default=None, description="PEM client certificate (mTLS).")
    kafka_cert_key_file: Path | None = Field(default=None, description="PEM key of the client certificate.")

    # topics
    partitions: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=4, description="Partitions of each topic: the bound on workers. All co-partitioned, so one number."
    )
    replication: Annotated[int, Field(ge=1, le=7)] = Field(
        default=1, description="Copies of each partition. 1 suits one broker; 3 where there are three."
    )

    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = Field(
        default="", description="Put before every topic and group: several pipelines on one cluster."
    )

    # worker
    group: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")] = Field(
        default="sealstream",
        description="Prefix of the consumer groups and changelogs: one per installation on a cluster.",
    )
    state_dir: Path = Field(default=Path(".sealstream"), description="Directory for what a worker keeps on disk.")
    key_file: Path | None = Field(default=None, description="Key ring. None: `keys.json` in the state directory.")
    key_values_max: Annotated[int, Field(ge=1 << 16, le=1 << 32)] = Field(
        default=1 << 31,
        description="Values that workers of this state directory make under one key of the ring, over restarts. Half "
        "of the most: after a rotation it can be raised for the records that came before.",
    )
    kek: Annotated[str, Field(pattern=r"^(file$|(pkcs11|aws-kms|vault):\S+$)")] = Field(
        default="file",
        description="Who holds the key-encryption key: `file` (the key file), "
        "`pkcs11:token=…;object=…?module-path=…&pin-source=file:…`, `aws-kms:<key id, ARN or alias/…>`, "
        "`vault:<mount>/<key>`. Before `keys init`, and the same everywhere.",
    )
    kek_cache_seconds: Annotated[float, Field(ge=10, le=604_800)] = Field(
        default=3_600.0,
        description="How long a worker goes on while that provider is away or refuses; then the stream waits. It is "
        "asked twice in that time.",
    )
    schema_dir: Path | None = Field(
        default=None, description="Schemas. None: those that are installed with the program."
    )
    max_event_bytes: Annotated[int, Field(ge=1_024, le=64 << 20)] = Field(
        default=1 << 20,
        description="Bytes; a longer raw value is rejected as too_large. Kafka's own default limit is 1 MiB.",
    )
    require_sealed: str = Field(
        default="",
        description="Sources, separated by commas, whose plaintext is rejected as not_sealed; `*`: all. A record "
        "without the header source-id is of the source `unknown`.",
    )
    require_signed: str = Field(
        default="",
        description="Sources, separated by commas, whose records are rejected as unsigned while they are not "
        "registered (`sealstream sources add`); `*`: all. Registered ones must sign in any case.",
    )
    signature_seconds: Annotated[float, Field(ge=1, le=86_400)] = Field(
        default=900.0,
        description="How far a signature's time and Kafka's may be apart, else the record is expired. A quarter of an "
        "hour: producers send again for some minutes while brokers are away.",
    )
    max_batch_records: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=4_000, description="Records of one fetch of a partition: throughput is flat above, memory is not."
    )

    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        default="none",
        description="Of what the worker writes. zstd halves it for about 2 µs an event; sealed values do not shrink.",
    )
    session_seconds: Annotated[float, Field(ge=6, le=300)] = Field(
        default=30.0,
        description="A worker that is silent for so long has died: its partitions go to others. Kafka's own default "
        "is 45; a shorter one takes partitions away from workers that only pause.",
    )

    # watch
    watch_window_seconds: Annotated[float, Field(ge=0.05, le=86_400)] = Field(
        default=60.0, description="Seconds of event time per window: an alert comes at most about two windows late."
    )
    watch_history_windows: Annotated[int, Field(ge=8, le=10_000)] = Field(
        default=120, description="Past windows that a window is compared to: enough for a tail rank of 1 %."
    )

    watch_idle_seconds: Annotated[float, Field(ge=0.5, le=3_600)] = Field(
        default=15.0,
        description="A partition that brings nothing for so long, caught up, holds up no window. Longer than any pause "
        "of the protect leg.",
    )

    # telemetry
    http: str = Field(
        default="127.0.0.1:9464",
        description="`host:port` of /metrics, /healthz and /readyz; port 0 picks one, `off` serves none. "
        "Loopback by default: it has no sign-in.",
    )
    http_cert_file: Path | None = Field(default=None, description="PEM certificate to serve the endpoint by TLS.")
    http_key_file: Path | None = Field(default=None, description="PEM key of that certificate.")

    # serve
    serve: str = Field(
        default="127.0.0.1:9465",
        description="`host:port` at which `sealstream serve` answers; port 0 picks one. Loopback by default: other "
        "addresses need SERVE_TOKEN_FILE, and TLS.",
    )
    serve_cert_file: Path | None = Field(default=None, description="PEM certificate to serve profiles by TLS.")
    serve_cert_key_file: Path | None = Field(default=None, description="PEM key of that certificate.")
    serve_token_file: Path | None = Field(
        default=None,
        description="File (mode 0600) with the bearer token that who asks must have, 32 characters at least. None: "
        "everybody on this machine may ask.",
    )
    serve_database: SecretStr | None = Field(
        default=None,
        description="URL of the database of `sealstream serve`, `sqlite:///file` or `postgresql://…`. None: "
        "`profiles.db` in the state directory. Another machine's PostgreSQL is asked for `sslmode=verify-full`.",
    )

    # logs
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` is the only reader of the environment

    @field_validator("kafka")
    @classmethod
    def _servers(cls, value: str | None) -> str | None:
        if value is None:
            return None
        servers = [server.strip() for server in value.split(",")]
        if not all(_SERVERS.match(server) for server in servers):
            raise ValueError("must read host:port, several separated by commas")
        return ",".join(servers)

    @field_validator("require_sealed", "require_signed")
    @classmethod
    def _sources(cls, value: str) -> str:
        if value and not all(is_source(name.strip()) for name in value.split(",")):
            raise ValueError("must read source,source or *")
        return value

    @field_validator("http")
    @classmethod
    def _listen(cls, value: str) -> str:
        if value != "off" and not _is_address(value):
            raise ValueError("must read host:port, or off")
        return value

    @field_validator("serve")
    @classmethod
    def _address(cls, value: str) -> str:
        if not _is_address(value):
            raise ValueError("must read host:port")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kafka_security.startswith("SASL"):
            if self.kafka_username is None:
                raise ValueError("SEALSTREAM_KAFKA_USERNAME is needed with SASL")
            if (self.kafka_password is None) == (self.kafka_password_file is None):
                raise ValueError("exactly one of SEALSTREAM_KAFKA_PASSWORD and …_PASSWORD_FILE is needed with SASL")
        if self.in_clear() and not self.insecure:
            raise ValueError(
                f"{' and '.join(self.in_clear())}: not encrypted on the way to or from other machines; set up TLS, or "
                "SEALSTREAM_INSECURE=true"
            )
        if (self.kafka_cert_file is None) != (self.kafka_cert_key_file is None):
            raise ValueError("SEALSTREAM_KAFKA_CERT_FILE and …_CERT_KEY_FILE go together")
        if (self.http_cert_file is None) != (self.http_key_file is None):
            raise ValueError("SEALSTREAM_HTTP_CERT_FILE and …_KEY_FILE go together")
        if (self.serve_cert_file is None) != (self.serve_cert_key_file is None):
            raise ValueError("SEALSTREAM_SERVE_CERT_FILE and …_CERT_KEY_FILE go together")
        return self

    def in_clear(self) -> list[str]:
        """The settings by which something goes beyond this machine without TLS; `serve` looks to its own."""
        found = []
        if self.kafka is not None and not self.kafka_security.endswith("SSL") and not all_here(self.kafka):
            found.append(KAFKA_IN_CLEAR)
        if self.http != "off" and self.http_cert_file is None and not all_here(self.http):
            found.append("SEALSTREAM_HTTP")
        return found

    def bootstrap(self) -> str:
        """Return the bootstrap servers, or raise `Misuse` saying how to give them."""
        if self.kafka is None:
            raise Misuse("no Kafka: set SEALSTREAM_KAFKA=host:port (`sealstream demo` brings a broker of its own)")
        return self.kafka

    def must_seal(self) -> frozenset[str]:
        return _names(self.require_sealed)

    def must_sign(self) -> frozenset[str]:
        return _names(self.require_signed)

    def keys_path(self) -> Path:
        return self.key_file or self.state_dir / "keys.json"

    def key_uses_path(self) -> Path:
        return self.state_dir / "key-uses"

    def database_url(self) -> str:
        if self.serve_database is not None:
            return self.serve_database.get_secret_value()
        return f"sqlite:///{self.state_dir / 'profiles.db'}"

    def password(self) -> str | None:
        """Return the SASL password. `Misuse` if its file cannot be read, or others may use it."""
        if self.kafka_password_file is None:
            return None if self.kafka_password is None else self.kafka_password.get_secret_value()
        name = f"{PREFIX}KAFKA_PASSWORD_FILE"
        content = private_file.read(self.kafka_password_file, name, _PASSWORD_BYTES, "write the password there")
        try:
            if content is not None:
                return content.decode().removesuffix("\n")
        except UnicodeDecodeError:
            pass
        raise Misuse(f"{name}: is not {_PASSWORD_BYTES} bytes of UTF-8 text at most")

    def security(self) -> dict[str, str]:
        """Return Kafka's security properties by librdkafka's names; empty for PLAINTEXT.

        `Misuse` if a file of them cannot be used: clients would fail in ways of their own, or try for ever.
        """
        if self.kafka_security == "PLAINTEXT":
            return {}
        given: dict[str, str | Path | None] = {"security.protocol": self.kafka_security}
        if self.kafka_security.startswith("SASL"):
            given |= {"sasl.mechanism": self.kafka_sasl, "sasl.username": self.kafka_username}
            given["sasl.password"] = self.password()
        if self.kafka_security.endswith("SSL"):
            given |= {"ssl.ca.location": self.kafka_ca_file, "ssl.certificate.location": self.kafka_cert_file}
            given["ssl.key.location"] = self.kafka_cert_key_file
        found = {name: str(value) for name, value in given.items() if value is not None}
        if any(files := kafka_files(found)):
            ClientContext(*files)
        return found


def _names(value: str) -> frozenset[str]:
    return frozenset(name.strip() for name in value.split(",") if name)


def _is_address(value: str) -> bool:
    return bool(_SERVERS.match(value)) and int(value.rpartition(":")[2]) <= 65_535


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from the environment; `overrides` (options of a command) go first, None means not given.

    An empty variable counts as not set, as compose files write it. `Misuse` names the variable and the rule.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in OTHERS or name.startswith(_TESTS) or value == "":
            continue
        field = name.removeprefix(PREFIX).lower()
        if name == name.upper() and field in Settings.model_fields:
            values[field] = value
        elif not _KUBERNETES.search(name):
            raise Misuse(f"{name} is no setting{_like(name)}; `sealstream worker --help` says where they are listed")
    values |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise Misuse("; ".join(_rule(e) for e in error.errors(include_url=False, include_input=False))) from None


def _like(name: str) -> str:
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
    return f" (did you mean {close[0]}?)" if close else ""


def _rule(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:] if message.startswith("Input") else message
    if not error["loc"]:
        return message
    return f"{PREFIX}{str(error['loc'][0]).upper()}: {message}"
