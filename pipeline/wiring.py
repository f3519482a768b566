"""The composition root: the only place that knows concrete classes. Commands ask it for what settings stand for."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from .adapters import control, kek_providers, keyfile, refold, rules_version, schema_files, source_list, topics
from .adapters.changelog import last_values, standing
from .adapters.kek_lease import KekLease
from .adapters.key_uses import KeyUses
from .adapters.memory_table import MemoryTable
from .adapters.positions import Positions
from .adapters.reader import QUIET, Reader
from .adapters.refold import Refold
from .adapters.resize import Home, Plan, Progress, Resize, Rows, earlier_counts
from .adapters.rules_version import RulesVersion
from .adapters.source_list import SourceList
from .adapters.standstill import blockers
from .adapters.topic_specs import SUBJECT_KEYS
from .adapters.topics import CHANGELOGS, Spec, TopicReport, as_made, changelog_name, group_name, specs, topic_ids
from .adapters.writer import Writer
from .certificates import is_loopback
from .crypto.aead import KEY_BYTES
from .crypto.data_kek import DataKek
from .crypto.kek import Kek, LocalKek
from .crypto.keyring import KeyRing, Purpose
from .crypto.rejects import Original
from .crypto.sessions import Sealer
from .errors import Misuse, Transient
from .events import SEAL_KEY_HEADER, SOURCE_HEADER, Topic
from .flow.identify import IdentifyLeg
from .flow.protect import ProtectLeg, Uses
from .flow.watch import WatchConfig, WatchLeg
from .ports import Leg, PartitionLeg, Table
from .settings import KAFKA_IN_CLEAR, Settings
from .stages.authenticate import Authenticator
from .stages.decision import SOURCE as OPERATOR
from .stages.identity_rows import evidence_homes, token_home
from .stages.link import Rules, load_rules
from .stages.registry import Registry
from .stages.sources import Secret, Source
from .stages.tokenize import Tokens
from .verify.log import Snapshot

if TYPE_CHECKING:
    from .adapters.profile_store import ProfileStore
    from .rights.audit import Audited
    from .rights.held import Held
    from .rights.person import Person
    from .rights.run import Erasing
    from .rights.topics import Show, Topics


def throw_away_ring() -> KeyRing:
    return KeyRing.generate(os.urandom, int(time.time() * 1000))


def new_ring(config: Settings) -> KeyRing:
    """Return a new one, its KEK wrapped by the provider if the settings name one."""
    return KeyRing.generate(os.urandom, int(time.time() * 1000), new_kek(config.kek))


def new_kek(kek: str) -> LocalKek:
    """Return a new KEK for a key file; `kek` as SEALSTREAM_KEK says who is to wrap it."""
    provider = kek_providers.provider(kek)
    return LocalKek(os.urandom(KEY_BYTES)) if provider is None else DataKek.generate(provider, os.urandom)


def key_ring(config: Settings) -> KeyRing:
    return keyfile.load(config.keys_path(), kek_providers.provider(config.kek))


def change_ring(config: Settings, make: Callable[[KeyRing], KeyRing]) -> KeyRing:
    """Put `make` of the key file's ring in its place and return it."""
    return keyfile.change(config.keys_path(), make, kek_providers.provider(config.kek))


def leased_ring(config: Settings, provider: Kek | None) -> tuple[KeyRing, Callable[[], None]]:
    """Return the ring, and what raises while its KEK may not be used; a thread keeps it in use from here on."""
    ring = keyfile.load(config.keys_path(), provider)
    kek = ring.kek
    if provider is None or not isinstance(kek, DataKek):
        return ring, lambda: None
    lease = KekLease(lambda: DataKek.open(provider, kek.wrapped), config.kek_cache_seconds)
    lease.keep()
    return ring, lease.check


def tokens(config: Settings, rules: Rules) -> Tokens:
    """Return the makers of tokens, of the key ring."""
    return Tokens(key_ring(config).tokenizer(), rules.blocked)


def identity_rules(config: Settings, given: Path | None = None) -> Rules:
    """Return the rules of `given`, else of the schema directory, else those that are installed.

    Computed traits are those of `computed.toml` beside them; without that file there are none.
    """
    return rules_of(rules_texts(config, given))


def rules_texts(config: Settings, given: Path | None = None) -> RulesVersion:
    """What `identity_rules` reads, unchecked."""
    path = given or schema_files.directory(config.schema_dir) / "identity.toml"
    if given is None and not path.exists():
        path = schema_files.directory(None) / "identity.toml"
    beside = path.with_name("computed.toml")
    rules, computed = _rules_text(path), _rules_text(beside) if beside.exists() else ""
    return RulesVersion(0, rules, computed, rules_version.digest_of(rules, computed))


def rules_of(version: RulesVersion) -> Rules:
    try:
        return load_rules(version.rules, version.computed)
    except Misuse as error:
        if not version.version:
            raise
        raise Misuse(f"version {version.version} on control: {error}") from None


def version_in_force(config: Settings) -> RulesVersion:
    """Return the rules that were applied last, else those of the files. Needs the broker."""
    return rules_version.last(*_kafka(config), _topic_of(config, Topic.CONTROL)) or rules_texts(config)


def rules_in_force(config: Settings) -> Rules:
    """Return the rules that were applied last; without a broker, or if there are none, those of the files."""
    return identity_rules(config) if config.kafka is None else rules_of(version_in_force(config))


def apply_rules(config: Settings, version: RulesVersion) -> None:
    rules_version.put(*_kafka(config), _topic_of(config, Topic.CONTROL), version)


def _kafka(config: Settings) -> tuple[str, dict[str, str]]:
    """What every client of Kafka is made with."""
    kafka = config.bootstrap(), config.security()
    if KAFKA_IN_CLEAR in config.in_clear():
        _say_in_clear(KAFKA_IN_CLEAR)
    return kafka


def _rules_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misuse(f"identity rules {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Misuse(f"identity rules {path}: not UTF-8") from None


def subject_rows(config: Settings) -> dict[tuple[int, bytes], bytes]:
    """Return what stands in the table of the keys of people: (raw partition, key) → value. See `crypto.subject_rows`.

    Needs the broker, and 0.4 kB a row.
    """
    with Reader(*_kafka(config), _topic_of(config, SUBJECT_KEYS)) as reader:
        rows = last_values(standing(reader))
    return {place: found.value for place, found in rows.items() if found.value is not None}


def protect_leg(config: Settings, ring: KeyRing) -> ProtectLeg:
    """With the rules of the files, and without sources: nobody needs to sign."""
    registry, rules = schema_files.load(config.schema_dir), identity_rules(config)
    return _protect_leg(config, registry, ring, rules)


def _protect_leg(
    config: Settings,
    registry: Registry,
    ring: KeyRing,
    rules: Rules,
    uses: Uses = lambda key_id, values: None,
    available: Callable[[], None] = lambda: None,
    authenticator: Authenticator | None = None,
) -> ProtectLeg:
    return ProtectLeg(
        registry,
        ring,
        rules.blocked,
        max_event_bytes=config.max_event_bytes,
        must_seal=config.must_seal(),
        authenticator=authenticator,
        uses=uses,
        available=available,
        clock=lambda: int(time.time() * 1000),
    )


def watch_leg(config: Settings) -> WatchLeg:
    return WatchLeg(
        WatchConfig(
            partitions=config.partitions,
            window_ms=round(config.watch_window_seconds * 1000),
            history_windows=config.watch_history_windows,
            idle_ms=round(config.watch_idle_seconds * 1000),
        )
    )


def in_memory(leg: Leg) -> PartitionLeg:
    """Open partition 0 of a leg on tables without a broker."""
    tables: dict[str, Table] = {name: MemoryTable() for name in leg.tables}
    return leg.open(0, tables)


def wanted_topics(config: Settings, *, append_time: bool = True) -> tuple[Spec, ...]:
    return specs(
        config.partitions, config.replication, prefix=config.topic_prefix, group=config.group, append_time=append_time
    )


def apply_topics(config: Settings, wanted: Sequence[Spec], *, only_check: bool = False) -> list[TopicReport]:
    call = topics.check if only_check else topics.apply
    return call(*_kafka(config), wanted)


def reader(config: Settings, topic: Topic, since: Mapping[int, int] | None = None) -> Reader:
    return Reader(*_kafka(config), config.topic_prefix + topic, since)


def positions(config: Settings) -> Positions:
    return Positions(*_kafka(config), prefix=config.topic_prefix, group=config.group)


@contextmanager
def snapshot(config: Settings, wait: float, tell: Callable[[Mapping[str, int]], None]) -> Iterator[Snapshot]:
    """Yield what `sealstream verify` reads, after waiting for the legs: `moment.snapshot`."""
    from .verify import moment, run

    names = {name: _topic_of(config, name) for name in run.LOGS}
    with positions(config) as at:
        at.bounds(Topic.RAW)  # an absent topic is told as such
        ids = topic_ids(*_kafka(config), names.values())
        incarnations = {name: ids[topic] for name, topic in names.items()}

        def open_reader(name: str) -> Reader:
            return Reader(*_kafka(config), names[name])

        with moment.snapshot(at, incarnations, open_reader, wait, tell) as taken:
            earlier = earlier_counts(*_kafka(config), config.topic_prefix + Topic.CONTROL)
            yield structs.replace(taken, earlier=earlier)


def _topic_of(config: Settings, name: str) -> str:
    leg, slash, table = name.partition("/")
    if slash:
        return changelog_name(leg, table, prefix=config.topic_prefix, group=config.group)
    return config.topic_prefix + name


def operators_records(config: Settings, now: int) -> Callable[[bytes, int, bytes], Original]:
    """Return what makes of an event of the operator's, the time in ms and a key the record of `events.raw`.

    Sealed and signed by the keys in use at `now` (ms); where the ring has none for the one or the other, or there is no
    ring, it is not.
    """
    ring = key_ring(config) if config.keys_path().exists() else None
    keys = () if ring is None else ring.public_keys(now)
    sealer = Sealer(OPERATOR, keys) if keys else None
    signer = None
    if ring is not None and (signs := ring.in_use(Purpose.SOURCES, now)) is not None:
        secret = ring.source_keys().secret(signs.version, OPERATOR, _operator_kid(signs.version))
        assert secret is not None, "a key in use was destroyed"
        signer = secret.signer(OPERATOR, _topic_of(config, Topic.RAW))

    def record_of(event: bytes, at: int, key: bytes) -> Original:
        headers, seal_key = [(SOURCE_HEADER, OPERATOR.encode())], None
        if sealer is not None:
            event, seal_key = sealer.seal(event, at)
            headers.append((SEAL_KEY_HEADER, seal_key))
        if signer is not None:
            headers += signer.headers(at, seal_key, key, event)
        return Original(key, event, tuple(headers))

    return record_of


def _operator_kid(version: int) -> str:
    return f"{version:08x}"


def authenticator(config: Settings, ring: KeyRing) -> Authenticator:
    """Return what checks signatures; it knows the operator, who signs from when the first sources key became active."""
    keys = [k for k in ring.keys if k.purpose is Purpose.SOURCES and k.key is not None]
    operator = None
    if keys:
        secrets = (Secret(_operator_kid(k.version), k.version, keys[0].active_from) for k in keys)
        operator = Source(OPERATOR, tuple(secrets))
    return Authenticator(
        _topic_of(config, Topic.RAW),
        ring.source_keys(),
        must_sign=config.must_sign(),
        within_ms=round(config.signature_seconds * 1000),
        operator=operator,
    )


def sources(config: Settings) -> source_list.Sources:
    """Return the registered sources, by name. Needs the broker."""
    return source_list.read(*_kafka(config), _topic_of(config, Topic.CONTROL))


def check_times(config: Settings) -> None:
    """`Misuse` if whoever writes to events.raw may say when: he would choose the time by which he is judged."""
    topic = _topic_of(config, Topic.RAW)
    (made,) = as_made(*_kafka(config), [topic])
    if made.config.get("message.timestamp.type") != "LogAppendTime":
        raise Misuse(f"topic {topic} has its producers' times; set message.timestamp.type=LogAppendTime first")


def announce_source(config: Settings, change: Callable[[source_list.Sources, int], Source], tries: int = 1) -> Source:
    """Register `change` of what is registered, and of the time (ms) from which it holds: all workers know by then."""
    topic = _topic_of(config, Topic.CONTROL)
    return source_list.announce(*_kafka(config), topic, change, lambda: int(time.time() * 1000), tries)


@contextmanager
def sender(config: Settings, topic: Topic) -> Iterator[Callable[[Original, int], None]]:
    """Yield the function: a record and its Kafka time in ms → written. On leaving, all of it is on the broker.

    So it is when the body raises, as far as it can be.

    Raises:
        Transient: it is not, within 30 s; some of it may be.
    """
    # what was large may have come compressed
    writer = Writer(*_kafka(config), compression="zstd")

    def send(record: Original, timestamp: int) -> None:
        name = config.topic_prefix + topic
        writer.send(name, record.key, record.value, timestamp=max(1, timestamp), headers=record.headers)

    try:
        yield send
    except BaseException:
        with suppress(Transient):
            writer.flush()
        raise
    writer.flush()


def _as_keyed(_: Iterable[bytes]) -> Home:
    """Rows of which the key itself says where they live."""
    return lambda key: key


ROW_HOMES: Mapping[tuple[str, str], Callable[[Iterable[bytes]], Home] | None] = {
    ("protect", "subject-keys"): None,
    ("identify", "tokens"): lambda _: token_home,
    ("identify", "evidence"): evidence_homes,
    ("watch", "watch-open"): None,
    ("watch", "watch-state"): _as_keyed,
}
"""(leg, table) → where its rows live; None: with the partition of the source that they were made from, for good."""


def resize_plan(config: Settings) -> Plan:
    """Return the part that each topic plays when partitions are added."""
    prefix = config.topic_prefix
    changelogs = {table: changelog_name(*table, prefix=prefix, group=config.group) for table in CHANGELOGS}
    rows = [Rows(prefix + Topic.PROFILES, _as_keyed)]
    rows += [Rows(name, homes) for table, name in changelogs.items() if (homes := ROW_HOMES[table]) is not None]
    return Plan(
        control=prefix + Topic.CONTROL,
        changelogs=tuple(changelogs.values()),
        outputs=tuple(prefix + t for t in (Topic.PROFILES, Topic.RESOLVED, Topic.ALERTS, Topic.AUDIT)),
        rows=tuple(rows),
        sources=tuple(prefix + t for t in (Topic.WATCH, Topic.REJECTED, Topic.IDENTITY, Topic.PROTECTED, Topic.RAW)),
    )


def resize(config: Settings, to: int, progress: Progress) -> Resize:
    kafka = _kafka(config)

    def blocked(begun: bool) -> list[str]:
        # a raw record is protected wherever it is, and once begun nobody can consume
        may_wait = (Topic.RAW,) if begun else ()
        began = refold.begun(control.standing(*kafka, config.topic_prefix + Topic.CONTROL))
        with positions(config) as at:
            found = list(blockers(*kafka, at, may_wait, prefix=config.topic_prefix, group=config.group))
        return [refold.UNFINISHED, *found] if began else found

    return Resize(*kafka, resize_plan(config), to, blocked, progress)


def refold_plan(config: Settings) -> refold.Plan:
    leg = IdentifyLeg.name
    return refold.Plan(
        control=_topic_of(config, Topic.CONTROL),
        leg=leg,
        group=group_name(leg, prefix=config.topic_prefix, group=config.group),
        events=Topic.PROTECTED,
        messages=Topic.IDENTITY,
        sources=tuple(_topic_of(config, topic) for topic in IdentifyLeg.sources),
        changelogs=tuple(_topic_of(config, f"{leg}/{table}") for table in IdentifyLeg.tables),
    )


def refolding(config: Settings, tell: refold.Tell) -> Refold:
    return Refold(*_kafka(config), refold_plan(config), lambda: positions(config), tell)


def work(names: Sequence[str], config: Settings) -> int:
    """Run the legs in this process until SIGTERM; return the exit code."""
    from .telemetry import logs
    from .telemetry.endpoint import serving
    from .telemetry.metrics import PrometheusMetrics
    from .worker.engine import EngineConfig
    from .worker.run import run

    logs.configure(config.log_format, config.log_level)
    QUIET.setLevel(logging.CRITICAL)
    for setting in config.in_clear():
        _say_in_clear(setting)
    bootstrap, security = _kafka(config)
    engine = EngineConfig(
        bootstrap=bootstrap,
        security=security,
        topic_prefix=config.topic_prefix,
        group_prefix=config.group,
        state_dir=str(config.state_dir / "state"),
        partitions=config.partitions,
        session_timeout=config.session_seconds,
        compression=config.compression,
    )
    metrics = PrometheusMetrics()
    makers = _makers(names, config, metrics.key_values)
    with serving(metrics, config.http, config.http_cert_file, config.http_key_file):
        return run(makers, engine, metrics)


def _makers(
    names: Sequence[str], config: Settings, key_values: Callable[[str, int], None]
) -> dict[str, Callable[[], Leg]]:
    """Leg → the function that makes it, with the rules in force; what needs no broker or KEK provider is read now.

    `key_values` is told how many values were made under a key.
    """
    import structlog

    log = structlog.get_logger(__name__)

    @cache
    def standing() -> dict[bytes, bytes]:
        return control.standing(*_kafka(config), _topic_of(config, Topic.CONTROL))

    @cache
    def rules() -> Rules:
        version = rules_version.of(standing()) or rules_texts(config)
        made = rules_of(version)
        log.info("identity rules", version=version.version or "files", digest=version.digest)
        return made

    def identify() -> Leg:
        if refold.begun(standing()):
            raise Misuse(refold.UNFINISHED)
        return IdentifyLeg(rules())

    makers: dict[str, Callable[[], Leg]] = {"identify": identify, "watch": lambda: watch_leg(config)}
    if "protect" in names:
        registry, provider = schema_files.load(config.schema_dir), kek_providers.provider(config.kek)
        uses = KeyUses(config.key_uses_path(), config.key_values_max, key_values).take

        @cache
        def keys() -> tuple[KeyRing, Callable[[], None]]:
            return leased_ring(config, provider)

        @cache
        def of_sources() -> tuple[Authenticator, Callable[[], None]]:
            """What is known of sources, from here on followed in a thread."""
            known = authenticator(config, keys()[0])
            following = SourceList(_kafka(config), _topic_of(config, Topic.CONTROL), known.know)
            following.keep()
            return known, following.check

        def protect() -> Leg:
            (ring, leased), (known, fresh) = keys(), of_sources()
            if source_list.of(standing()):
                check_times(config)

            def available() -> None:
                leased()
                fresh()

            return _protect_leg(config, registry, ring, rules(), uses, available, known)

        if provider is None:
            keys()
        makers["protect"] = protect
    return {name: makers[name] for name in names}


@contextmanager
def rights(config: Settings, show: Show) -> Iterator[Topics]:
    """Yield what `sealstream erase` and `export` read and write."""
    from .rights.topics import Topics

    record_of = operators_records(config, int(time.time() * 1000))
    audit_keys = key_ring(config).audit_keys()
    with positions(config) as at:
        yield Topics(_kafka(config), lambda name: _topic_of(config, name), at, record_of, show, audit_keys)


@contextmanager
def erasing(config: Settings, record: Audited, topics: Topics) -> Iterator[Erasing]:
    from .rights.run import Erasing

    openable = key_ring(config).epoch_names()
    with ExitStack() as stack:
        database = None
        if config.serve_database is not None or (config.state_dir / "profiles.db").exists():
            database = stack.enter_context(closing(profile_store(config))).by_id
        yield Erasing(record, topics, openable, database)


def held(config: Settings, person: Person, topics: Topics) -> Held:
    """Return what opens all that is sealed of a person, with the keys as they stand."""
    from .rights.held import Held, keys_of

    with topics.read(SUBJECT_KEYS) as reader:
        return Held(person, keys_of(topics.show("keys", reader), person, key_ring(config).epochs()))


def profile_store(config: Settings) -> ProfileStore:
    from .adapters.profile_store import ProfileStore, in_clear

    if config.insecure and in_clear(config.database_url()):
        _say_in_clear("SEALSTREAM_SERVE_DATABASE")
    return ProfileStore(config.database_url(), config.topic_prefix + Topic.PROFILES, insecure=config.insecure)


def serve(config: Settings, host: str, port: int) -> int:
    """Serve profiles in this process until SIGTERM; return the exit code."""
    from .certificates import server_context
    from .serve.follow import Follower
    from .serve.guard import check_address, guard
    from .serve.lookup import Lookup
    from .serve.run import Listen, run
    from .telemetry import logs
    from .telemetry.metrics import PrometheusMetrics

    def now() -> int:
        return int(time.time() * 1000)

    logs.configure(config.log_format, config.log_level)
    QUIET.setLevel(logging.CRITICAL)
    ask = guard(config.serve_token_file)
    cert, key = config.serve_cert_file, config.serve_cert_key_file
    tls = None if cert is None else server_context(cert, key, "SEALSTREAM_SERVE_CERT_FILE and …_CERT_KEY_FILE")
    check_address(host, tls=tls is not None, insecure=config.insecure, token=not ask.open)
    if tls is None and not is_loopback(host):
        _say_in_clear("SEALSTREAM_SERVE")
    ring, available = leased_ring(config, kek_providers.provider(config.kek))
    tokenizer = ring.tokenizer()
    metrics = PrometheusMetrics()
    with closing(profile_store(config)) as store:
        follower = Follower(_kafka(config), config.topic_prefix + Topic.PROFILES, store, metrics, now)
        return run(Lookup(store, tokenizer, now, available), follower, ask, metrics, Listen(host, port, tls))


@cache
def _say_in_clear(setting: str) -> None:
    """Once in a process: in its log, or on stderr where it has none."""
    import structlog

    said = "not encrypted, or not verified: SEALSTREAM_INSECURE allows it"
    if structlog.is_configured():
        structlog.get_logger(__name__).warning(said, setting=setting)
    else:
        sys.stderr.write(f"sealstream: {setting}: {said}\n")


def supervised(arguments: Sequence[str], config: Settings) -> int:
    """Run a command of this program, again when it fails, until it is done or stopped; return its exit code."""
    from .telemetry import logs
    from .worker.supervise import supervise

    logs.configure(config.log_format, config.log_level)
    return supervise([sys.executable, "-m", __package__, *arguments])
