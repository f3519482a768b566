"""Whatever is sent to `events.raw`: protected, or rejected with a reason; nothing ends the worker, nothing is lost.

The cases come from three places: `tests/data/hostile.jsonl`, the events of a public SDK, and `own_cases`, which go to
the edges of Kafka's records and of JSON and Avro. All of them stand on one topic for one worker. Then `replay` sends
what was rejected again, and it must be what was sent: key, value, headers, Kafka time.

Mutations seen red: no `RecursionError` caught in decode; a message of msgspec as a reject's path; a header's absent
value sealed as empty; header names sealed without surrogate escapes; no lenient parser; replay with b"" for no key.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from fastavro import schemaless_writer

from pipeline.adapters import keyfile
from pipeline.adapters import topics as kafka_topics
from pipeline.events import EventIds, RawRecord, Topic
from pipeline.outcomes import Reason, Rejected, Stage
from pipeline.stages.decode import AVRO_MARKER
from pipeline.stages.reject import reject
from tests.integration import tools
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import Got, Worker, ending, ends, wait_for
from tests.stages.event_world import registry

DATA = Path(__file__).parents[1] / "data"
NOW = 1_790_000_000_000
YEAR_2100 = 4_102_444_800_000
CANARY = "canary.77aa@example.com"
SHOP = (("source-id", b"shop"),)
PARTITIONS = 4
LIMIT = 1 << 20
"""The default of SEALSTREAM_MAX_EVENT_BYTES."""
CODECS = ("gzip", "snappy", "lz4", "zstd")

Headers = tuple[tuple[str, bytes | None], ...]
Content = tuple[bytes | None, bytes | None, Headers]
Fates = frozenset[Reason | None]
"""What may become of a record; None: it is protected."""

PASSES: Fates = frozenset({None})
EITHER: Fates = frozenset({None, *Reason})


class Case(NamedTuple):
    """What to send; `Pipeline.produce` takes it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    fates: Fates
    codec: str = "none"

    @property
    def content(self) -> Content:
        return self.key, self.value, self.headers


def case(
    name: str,
    value: bytes | None,
    fates: Fates | Reason,
    *,
    key: bytes | None = b"",
    headers: Headers = SHOP,
    at: int = NOW,
    codec: str = "none",
) -> Case:
    """A case whose key is its name, unless another one is given (or none)."""
    only = frozenset({fates}) if isinstance(fates, Reason) else fates
    return Case(name.encode() if key == b"" else key, value, headers, at, only, codec)


def event(name: str, **fields: Any) -> dict[str, Any]:
    found = {"type": "track", "event": "Something Done", "messageId": name, "userId": CANARY, **fields}
    return {k: v for k, v in found.items() if v is not ...}


def sent(name: str, **fields: Any) -> bytes:
    """The event as JSON; `...` leaves a field out, or stands for what `spliced` puts there."""
    return json.dumps(event(name, **fields)).encode()


def spliced(name: str, part: bytes, field: str = "properties", **fields: Any) -> bytes:
    """The event with `part` as the JSON of a field, be it JSON or not."""
    return sent(name, **fields, **{field: "@"}).replace(b'"@"', part)


def avro(name: str, **fields: Any) -> bytes:
    """An `order_completed` in Avro's single-object encoding."""
    schema = next(c for c in registry().schemas if c.schema.name == "order_completed")
    out = io.BytesIO()
    schemaless_writer(out, schema.avro_writer, event(name, event="Order Completed", **fields))
    return AVRO_MARKER + schema.fingerprint + out.getvalue()


def own_cases() -> Iterator[Case]:
    yield from records()
    yield from encodings()
    yield from json_values()
    yield from times()


def records() -> Iterator[Case]:
    """What is odd about the Kafka record, twice each: around an event that passes, and around one that does not."""

    def both(name: str, fates: Fates | Reason = PASSES, **more: Any) -> Iterator[Case]:
        yield case(f"{name}, good", sent(f"{name}, good", properties={"email": CANARY}), fates, **more)
        bad = f'{{"{CANARY}": "{name}, bad'.encode()
        yield case(f"{name}, bad", bad, Reason.BAD_JSON if fates == PASSES else fates, **more)

    yield case("value absent", None, Reason.EMPTY)
    yield case("value empty", b"", Reason.EMPTY)
    yield case(
        "value of one MiB", sent("1", x="").replace(b'""', b'"%s"' % (b"x" * (LIMIT - len(sent("1", x=""))))), PASSES
    )
    yield case("value of one MiB and a byte", b" " * LIMIT + b"1", Reason.TOO_LARGE)
    yield case("value of 10 MB", spliced("10 MB", b'"%s"' % (CANARY.encode() * 440_000)), Reason.TOO_LARGE)

    yield from both("key absent", key=None)
    yield from both("key not UTF-8", key=b"\xff\xfe\x00 " + CANARY.encode())
    yield from both("key of 2 MB", key=b"k" * 2_000_000)
    yield from both("no headers", headers=())

    bad_sources: dict[str, bytes | None] = {
        "not UTF-8": b"\xff" + CANARY.encode(),
        "empty": b"",
        "of 10 kB": b"s" * 10_000,
        "absent": None,
        "with a line end": CANARY.encode() + b"\n",
    }
    for name, source in bad_sources.items():
        yield from both(f"source {name}", Reason.BAD_HEADER, headers=(("source-id", source),))
    yield from both("source twice, the first one good", headers=(*SHOP, ("source-id", b"\xff")))
    yield from both("source twice, the first one bad", Reason.BAD_HEADER, headers=(("source-id", b"\xff"), *SHOP))
    yield from both(
        "headers of other names", headers=(("", b""), ("ä", None), (CANARY, b"\xff\x00"), ("ä", b"2"), *SHOP)
    )
    yield from both("a thousand headers", headers=(("n", b"v"),) * 1000)

    for codec in CODECS:
        yield from both(f"sent as {codec}", codec=codec)


def encodings() -> Iterator[Case]:
    plain, text = sent("encoding"), sent("encoding").decode()
    yield case("invalid UTF-8", plain.replace(b"canary", b"can\xe9ry"), Reason.BAD_ENCODING)
    yield case("invalid UTF-8 in what is skipped", spliced("skipped", b'{"a": "\xff"}'), Reason.BAD_ENCODING)
    yield case("UTF-8 of a surrogate", spliced("surrogate", b'"\xed\xa0\x80"'), Reason.BAD_ENCODING)
    yield case("UTF-16", text.encode("utf-16"), Reason.BAD_ENCODING)
    yield case("UTF-16, little endian, unmarked", text.encode("utf-16-le"), Reason.BAD_JSON)
    yield case("UTF-16, big endian, unmarked", text.encode("utf-16-be"), Reason.UNKNOWN_SCHEMA)  # begins with a zero
    yield case("UTF-8 with a byte order mark", text.encode("utf-8-sig"), Reason.BAD_JSON)

    known, garbage = avro("avro")[:10], CANARY.encode() + b"\xff" * 20
    yield case("Avro", avro("avro"), PASSES)
    yield case("Avro, marker alone", AVRO_MARKER, Reason.BAD_ENCODING)
    yield case("Avro, unknown fingerprint", AVRO_MARKER + b"8 bytes." + avro("avro")[10:], Reason.UNKNOWN_SCHEMA)
    yield case("Avro, nothing", known, Reason.BAD_AVRO)
    yield case("Avro, garbage", known + garbage, Reason.BAD_AVRO)
    yield case("Avro, endless length", known + b"\xfe" + b"\xff" * 8 + b"\x01" + garbage, Reason.BAD_AVRO)
    yield case("Avro, negative length", known + b"\x05" + garbage, Reason.BAD_AVRO)
    yield case("Avro, cut", avro("avro")[:-1], Reason.BAD_AVRO)
    yield case("Avro, left over", avro("avro") + garbage, Reason.BAD_AVRO)
    yield case("Confluent", b"\x00\x00\x00\x00\x07" + plain, Reason.UNKNOWN_SCHEMA)


def json_values() -> Iterator[Case]:
    deep, canary = 100_000, CANARY.encode()
    yield case("deep in a known name", spliced("deep", b"[" * deep + b"]" * deep), Reason.TOO_DEEP)
    yield case("deep in an unknown name", spliced("deep", b'{"":' * deep + b"1" + b"}" * deep, "new"), Reason.TOO_DEEP)
    yield case("deep and not closed", b'{"a":' * deep, Reason.TOO_DEEP)
    for depth in range(900, 1_000, 2):  # where the decoder gives up, nothing behind it may give up earlier
        for field in ("properties", "new"):
            name = f"{depth} deep in {field}"
            yield case(name, spliced(name, b"[" * depth + b"]" * depth, field), frozenset({None, Reason.TOO_DEEP}))

    yield case("a name twice", b'{"userId": "first", ' + sent("twice")[1:-1] + b', "messageId": "last"}', PASSES)
    yield case("the type twice", b'{"type": "%s", ' % canary + sent("type")[1:], PASSES)
    yield case("an unknown name twice", spliced("twice", b'1, "new": "%s"' % canary, "new"), PASSES)
    for constant in (b"NaN", b"Infinity", b"-Infinity"):
        yield case(f"{constant.decode()} in a known name", spliced("nan", b'{"a": %s}' % constant), Reason.BAD_JSON)
        yield case(f"{constant.decode()} in an unknown name", spliced("nan", constant, "new"), Reason.BAD_JSON)
    yield case("1e999", spliced("inf", b"1e999", "new"), Reason.BAD_VALUE)
    for half in ("\ud800", "\udc00", "\udc00\ud800"):
        yield case(f"surrogate {half!r} in a value", sent("half", properties={"a": half + CANARY}), Reason.BAD_JSON)
        yield case(f"surrogate {half!r} in a name", sent("half", **{CANARY + half: 1}), Reason.BAD_JSON)
        yield case(f"surrogate {half!r} in an id", sent("half", userId=half), Reason.BAD_JSON)
    yield case("a pair of surrogates", sent("pair", properties={"a": "\U0001f600"}, new="\U0001f600"), PASSES)
    for n in (2**63, 2**64, -(2**63) - 1, 10**400):
        yield case(
            f"{n:e} in what is free" if n < 10**300 else "10^400 in what is free",
            sent("long", properties={"a": n}, new=n),
            PASSES,
        )
        yield case(
            f"{n:e} in a long" if n < 10**300 else "10^400 in a long",
            sent("long", type="identify", event=..., traits={"logins": n}),
            Reason.BAD_VALUE,
        )
    yield case("a number of 5000 digits", spliced("digits", b"7" * 5_000, "new"), Reason.BAD_VALUE)

    yield case("NUL everywhere", sent("n\0l", userId="\0", properties={"\0": "\0"}, new="\0"), PASSES)
    yield case("two events", sent("two") * 2, Reason.BAD_JSON)
    yield case("text", json.dumps(CANARY).encode(), Reason.NOT_AN_OBJECT)
    yield case("a list of events", b"[" + sent("list") + b"]", Reason.NOT_AN_OBJECT)
    yield case("an unknown type", sent("type", type=CANARY), Reason.UNKNOWN_SCHEMA)
    yield case("an id that is a list", sent("list", userId=[CANARY]), Reason.BAD_TYPE)
    yield case(
        "a bad type beside odd names",
        sent("odd", context={CANARY: {CANARY: 1}, "screen": {"width": CANARY}}),
        Reason.BAD_TYPE,
    )
    yield case("no message id", sent("none", messageId=...), Reason.MISSING_FIELD)
    yield case("nobody", sent("nobody", userId=...), Reason.NO_IDENTIFIER)
    yield case("an id of spaces", sent("spaces", userId=..., anonymousId="  "), Reason.BAD_IDENTIFIER)
    yield case("an id of 100 kB", sent("long", userId=..., anonymousId=CANARY * 4_400), Reason.BAD_IDENTIFIER)


def times() -> Iterator[Case]:
    for at in (-(10**12), -5, -1, 0, 1, YEAR_2100):
        yield case(f"record of {at} ms, good", sent(f"record of {at}"), PASSES, at=at)
        yield case(f"record of {at} ms, bad", sent("bad", userId=CANARY, type=7), Reason.BAD_TYPE, at=at)
    good: list[str | int] = [0, YEAR_2100, "1970-01-01T00:00:00Z", "2100-01-01T00:00:00.000Z"]
    good += [-62_135_596_800_000, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"]
    for time in good:
        yield case(f"event of {time}", sent(f"event of {time}", timestamp=time), PASSES)
        yield case(f"event sent at {time}", sent(f"sent at {time}", timestamp=good[-1], sentAt=time), PASSES)
    for time in (CANARY, "0000-01-01T00:00:00Z", "2016-12-31T23:59:60Z"):
        yield case(f"event of {time}", sent("time", timestamp=time), Reason.BAD_TIME)
    yield case("event of 10^17", sent("time", timestamp=10**17), Reason.BAD_VALUE)


def hostile_cases() -> Iterator[Case]:
    for line in (DATA / "hostile.jsonl").read_text().splitlines():
        found = json.loads(line)
        fates = EITHER - {None} if found["expect"] == "n" else EITHER
        yield case(found["name"], base64.b64decode(found["base64"]), fates)


def sdk_cases() -> Iterator[Case]:
    for i, line in enumerate((DATA / "sdk-events.jsonl").read_bytes().splitlines()):
        yield case(f"sdk/{i}", line, PASSES)


# -- Kafka --


@pytest.fixture
def timeless(kafka: str, kafka_admin: AdminClient) -> Iterator[str]:
    """`topics`, but records of the future are taken, which Kafka 4 refuses where times are the producers'."""
    prefix = f"t{uuid.uuid4().hex[:10]}."
    specs = [
        msgspec.structs.replace(spec, config={**spec.config, "message.timestamp.after.max.ms": str(2**63 - 1)})
        for spec in kafka_topics.specs(PARTITIONS, 1, prefix=prefix, append_time=False)
    ]
    kafka_topics.apply(kafka, None, specs)
    yield prefix
    kafka_admin.delete_topics([spec.name for spec in specs])


def produce(pipeline: Pipeline, cases: Iterable[Case]) -> None:
    cases = list(cases)
    pipeline.produce(c for c in cases if c.codec == "none")
    for codec in CODECS:
        produce_compressed(pipeline, codec, [c for c in cases if c.codec == codec])


def produce_compressed(pipeline: Pipeline, codec: str, cases: Iterable[Case]) -> None:
    """`message.max.bytes` of this producer goes by the size before compression, the broker's by that after it."""
    failed: list[object] = []
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap, "message.max.bytes": 100_000_000, "compression.type": codec}
    )
    for c in cases:
        producer.produce(
            pipeline.prefix + Topic.RAW,
            c.value,
            c.key,
            headers=list(c.headers),
            timestamp=c.timestamp_ms,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert not failed


def content(record: Got) -> Content:
    return record.key, record.value, tuple(record.headers)


def cases_by_origin(pipeline: Pipeline, cases: Iterable[Case]) -> dict[tuple[int, int], tuple[Case, Got]]:
    """Which case stands where on `events.raw`; all of them must."""
    by_content = {c.content: c for c in cases}
    return {(r.partition, r.offset): (by_content.pop(content(r)), r) for r in pipeline.read(Topic.RAW)}


def out_or_down(pipeline: Pipeline, worker: Worker, count: int) -> bool:
    """The protect leg has written so many records, or the worker has ended, which is for the caller to find out."""
    if not worker.running or not worker.up:  # topics that are a moment old have no leader yet
        return not worker.running
    topics = (pipeline.prefix + Topic.PROTECTED, pipeline.prefix + Topic.REJECTED)
    return sum(end for topic in topics for end in ends(pipeline.bootstrap, topic).values()) == count


# -- what must hold --


def test_whatever_is_sent_is_protected_or_rejected_and_replayed_as_it_was(
    kafka: str, timeless: str, tmp_path: Path
) -> None:
    cases = [*hostile_cases(), *sdk_cases(), *own_cases()]
    assert len({c.content for c in cases}) == len(cases)
    pipeline = Pipeline(kafka, timeless, tmp_path)
    worker = pipeline.worker()
    with ending(worker):
        produce(pipeline, cases)
        where = cases_by_origin(pipeline, cases)
        assert len(where) == len(cases)
        wait_for(
            lambda: not worker.running or worker.log.count("partitions assigned") == 3,
            60,
            "every leg has its partitions",
        )
        wait_for(lambda: not worker.running or pipeline.caught_up(), 60, "every leg has committed all of its input")
        assert worker.running, worker.log
        assert worker.terminate() == 0, worker.log
    protected, rejected = account(pipeline)

    records = {origin: json.loads(value) for origin, value in rejected.items()}
    fates = {origin: Reason(records[origin]["reason"]) if origin in records else None for origin in where}
    wrong = {where[o][0].key: (fate, records.get(o)) for o, fate in fates.items() if fate not in where[o][0].fates}
    assert not wrong
    assert set(where) - set(rejected) == set(protected)

    assert CANARY not in worker.log
    assert not [value for value in (*protected.values(), *rejected.values()) if CANARY.encode() in value]

    check_replay(pipeline, {origin: where[origin][1] for origin in rejected})


def check_replay(pipeline: Pipeline, rejected: dict[tuple[int, int], Got]) -> None:
    """`replay` appends each of them once, with one more header, which says from where."""
    before = ends(pipeline.bootstrap, pipeline.prefix + Topic.RAW)
    done = pipeline.command("replay", "--json")
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert (summary["replayed"], summary["seen"], summary["unopened"]) == (len(rejected), len(rejected), 0)
    again = [r for r in pipeline.read(Topic.RAW) if r.offset >= before[r.partition]]
    assert Counter(content(r._replace(headers=r.headers[:-1])) for r in again) == Counter(
        map(content, rejected.values())
    )
    for r in again:
        name, place = r.headers[-1]
        topic, _, partition, offset = (place or b"").decode().split("/")
        assert (name, topic) == ("replayed-from", Topic.RAW)
        original = rejected.pop((int(partition), int(offset)))
        assert content(r._replace(headers=r.headers[:-1])) == content(original)
        assert r.timestamp == original.timestamp or original.timestamp <= 0  # see the last test
    assert not rejected


async def test_a_header_name_that_is_not_utf8_stops_nobody(kafka: str, topics: str, tmp_path: Path) -> None:
    """confluent-kafka can neither write nor read one: here a record batch is altered, and no client reads it back."""
    pipeline = Pipeline(kafka, topics, tmp_path)
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    batch = producer.create_batch()
    bad = f'{{"{CANARY}'.encode()
    values = [sent("before"), bad, sent("hit"), sent("after")]
    for i, value in enumerate(values):
        headers = [("NAME", b"v"), *SHOP] if i in (1, 2) else []
        assert batch.append(timestamp=NOW, key=b"k", value=value, headers=headers)
    made = batch._build()
    made[:] = made.replace(b"NAME", b"\xff\xfe\x00a")
    made[17:21] = struct.pack(">I", calc_crc32c(bytes(made[21:])))
    await (await producer.send_batch(batch, topics + Topic.RAW, partition=0))
    await producer.stop()

    worker = pipeline.worker("protect")
    with ending(worker):
        wait_for(lambda: out_or_down(pipeline, worker, len(values)), 60, "all came out")
        assert worker.running, worker.log
        assert worker.terminate() == 0, worker.log
    protected = [json.loads(r.value or b"") for r in pipeline.read(Topic.PROTECTED)]
    assert sorted(p["origin"]["offset"] for p in protected) == [0, 2, 3]
    (record,) = (json.loads(r.value or b"") for r in pipeline.read(Topic.REJECTED))
    assert (record["origin"]["offset"], record["reason"]) == (1, Reason.BAD_JSON)
    box = keyfile.load(tmp_path / "keys.json").reject_box_of(record["key_id"])
    original = box.open(bytes.fromhex(record["event_id"]), record["reason"], base64.b64decode(record["sealed"]))
    assert original == (b"k", bad, (("\udcff\udcfe\0a", b"v"), *SHOP))
    assert CANARY not in worker.log


def test_a_value_that_was_small_only_while_compressed_is_rejected_and_replayed(
    kafka: str, topics: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    worker = pipeline.worker("protect")
    bomb = bytes(20_000_000)
    with ending(worker):
        produce_compressed(pipeline, "gzip", [case("20 MB of zeros", bomb, Reason.TOO_LARGE)])
        wait_for(lambda: out_or_down(pipeline, worker, 1), 60, "it came out")
        assert worker.running, worker.log[-300:]
        assert worker.terminate() == 0
    protected, rejected = account(pipeline)
    assert (len(protected), len(rejected)) == (0, 1)
    assert pipeline.command("replay").returncode == 0
    assert [len(r.value or b"") for r in pipeline.read(Topic.RAW)] == [len(bomb)] * 2


@pytest.mark.parametrize("header", ["\udcff\udcfe", "a\0b"], ids=["not UTF-8", "with a NUL"])
def test_replay_leaves_out_what_no_client_can_send_and_says_so(
    header: str, kafka: str, topics: str, tmp_path: Path
) -> None:
    pipeline = Pipeline(kafka, topics, tmp_path)
    boxes = keyfile.load(tmp_path / "keys.json").reject_boxes()
    rejects = [
        Rejected(RawRecord(7, NOW, b"k", b"{", ((header, b"v"),)), Stage.DECODE, Reason.BAD_JSON),
        Rejected(RawRecord(8, -5, b"k", b"{", ()), Stage.DECODE, Reason.BAD_JSON),
    ]
    outs = reject(rejects, EventIds(Topic.RAW, "", 0), Topic.RAW, "", 0, boxes)
    tools.produce(kafka, topics + Topic.REJECTED, [(out.key, out.value) for out in outs])
    done = pipeline.command("replay", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["unopened"] == 1
    (again,) = pipeline.read(Topic.RAW)
    assert (again.timestamp, again.key, again.value) == (1, b"k", b"{"), "a time before 1970 is not taken for now"
