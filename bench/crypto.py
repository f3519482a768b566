"""What the protect leg's cryptography costs, in memory: tokens, seals, people's keys, and what producers sealed.

CPU µs per use, each the median of the rounds. An *event* is 3 tokens (user id, e-mail address, device's cookie), the
look-up of the person's key and 4 sealed fields; without JSON, event id and Kafka, which `bench protect` measures. As in
the protect leg, the values were made just before, `AT_ONCE` events at a time, and are in the processor's cache. `event`
draws its people from all of them, so that nearly each comes back to memory that no cache holds; `event_of_session` from
those of them who are there for a few events. `event_primitives` is the part that the library does.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

from bench import workload
from pipeline import settings, wiring
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto import aead
from pipeline.crypto.keyring import KeyRing
from pipeline.crypto.seal import EVENT_ID_BYTES, SealPath
from pipeline.crypto.sessions import Sealer
from pipeline.crypto.subjects import SubjectKeys
from pipeline.events import (
    SEAL_KEY_HEADER,
    SIGNATURE_HEADER,
    SOURCE_HEADER,
    TIMESTAMP_HEADER,
    EventIds,
    RawRecord,
    Topic,
)
from pipeline.flow.protect import AT_ONCE
from pipeline.stages.authenticate import Authenticator
from pipeline.stages.extract import Makers
from pipeline.stages.extract import Secret as Plain
from pipeline.stages.sources import Secret, Source
from pipeline.stages.tokenize import Tokens
from pipeline.stages.unseal import unseal

USES = 5_000
SESSIONS = 200
REMEMBERED = 5_000
"""People who are few enough that every cache holds them."""
NONCE, AAD = bytes(aead.NONCE_BYTES), bytes(90)
"""As long as those of a sealed field."""
SESSION, TOGETHER = 5, 200
"""A visit's events, and how many people visit at a time."""
NOW = workload.BEGIN_MS
T = TypeVar("T")

_AT = [SealPath("track/1", p) for p in ("userId", "context.ip", "context.traits.email", "context.traits.phone")]
_VALUES: dict[str, Callable[[int], str]] = {
    "email": lambda n: f"User.{n}@Example{n % 7}.com",
    "phone": lambda n: f"+4930{n:08d}",
    "device_id": lambda n: str(UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128))),
    "user_id": lambda n: f"user-{n:07d}",
}


class Person:
    """What events of customer `number` say."""

    def __init__(self, number: int) -> None:
        self.user, self.email, phone = (_VALUES[kind](number) for kind in ("user_id", "email", "phone"))
        self.device = _VALUES["device_id"](number)
        plain = self.user, f"10.0.{number >> 8 & 255}.{number & 255}", self.email, phone
        self.secrets: list[Plain] = [(at, b'"%b"' % value.encode()) for at, value in zip(_AT, plain, strict=True)]


def costs(subjects: int, rounds: int, seed: int) -> dict[str, float]:
    """Return what is done → µs."""
    ring = KeyRing.generate(os.urandom, 0)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for n in range(rounds):
        for measured in (_tokens(ring), _keys(ring, subjects, seed + n), _producers(ring, seed + n)):
            for name, microseconds in measured.items():
                found[name].append(microseconds)
    return {name: round(statistics.median(each), 2) for name, each in found.items()}


def _tokens(ring: KeyRing) -> dict[str, float]:
    found, makers = {}, _makers(ring)
    for kind in ("email", "phone", "device_id"):
        values = [_VALUES[kind](n) for n in range(USES)]
        for name in ("new", "remembered"):
            found[f"token_{name}_{kind}"] = _microseconds(makers[kind], values)
    return found


def _keys(ring: KeyRing, subjects: int, seed: int) -> dict[str, float]:
    """Of `subjects` people: every key made, then events drawn at random, of all people and of a few."""
    rng, table, makers = random.Random(seed), MemoryTable(), _makers(ring)
    anchors = [makers["user_id"](_VALUES["user_id"](n)) or "" for n in range(subjects)]
    keys = SubjectKeys(table, ring.epochs())
    found = {"subject_key_new": _microseconds(lambda anchor: keys.get(anchor, 0), anchors)}
    everybody, few = range(subjects), range(min(subjects, REMEMBERED))

    for _ in range(subjects // USES + 1):  # until the caches hold what such events leave there
        _events(makers, keys, rng.choices(everybody, k=USES))
    found["event"] = _events(makers, keys, rng.choices(everybody, k=USES))
    found["event_of_session"] = _events(makers, keys, _sessions(rng, subjects))
    _events(makers, keys, few)
    found["event_remembered"] = _events(makers, keys, rng.choices(few, k=USES))

    makers, keys = _makers(ring), SubjectKeys(table, ring.epochs())
    keys.get(anchors[0], 0)
    found["event_cold"] = _events(makers, keys, rng.sample(everybody[1:], min(USES, subjects - 1)))

    plain = [plain for _, plain in Person(0).secrets]
    found["event_primitives"] = _microseconds(lambda key: _primitives(key, plain), [os.urandom(32)] * USES)
    key, secret = keys.get(anchors[0], 0), Person(0).secrets[2]
    ids = [os.urandom(EVENT_ID_BYTES) for _ in range(USES)]
    found["seal"] = _microseconds(lambda event_id: key.seal_all(event_id, (secret,)), ids)
    at, sealed = secret[0], [(event_id, key.seal_all(event_id, (secret,))[secret[0].path]) for event_id in ids]
    found["open"] = _microseconds(lambda one: key.open(at, *one), sealed)
    return found


def _primitives(key: bytes, plain: Sequence[bytes]) -> None:
    """What no code of ours can do without: a cipher, and an encryption for each sealed field."""
    encrypt = aead.cipher(key).encrypt
    for each in plain:
        encrypt(NONCE, each, AAD)


def _sessions(rng: random.Random, subjects: int) -> list[int]:
    """Whose events come where `TOGETHER` people are there at a time, each for a session of `SESSION` events."""
    there = [[rng.randrange(subjects), rng.randrange(1, SESSION + 1)] for _ in range(TOGETHER)]
    numbers = []
    for _ in range(USES):
        at = rng.randrange(TOGETHER)
        number, left = there[at]
        numbers.append(number)
        there[at] = [number, left - 1] if left > 1 else [rng.randrange(subjects), SESSION]
    return numbers


def _events(makers: Makers, keys: SubjectKeys, numbers: Sequence[int]) -> float:
    """µs of an event, of one for each of these customers."""
    ids = EventIds("events.raw", "", 0)
    user_id, email, device = makers["user_id"], makers["email"], makers["anonymous_id"]

    def protect(event: tuple[Person, bytes, int]) -> None:
        person, event_id, offset = event
        anchor = user_id(person.user)
        email(person.email)
        device(person.device)
        keys.get(anchor or "", offset).seal_all(event_id, person.secrets)

    spent = 0.0
    for start in range(0, len(numbers), AT_ONCE):
        group = enumerate(numbers[start : start + AT_ONCE], start)
        events = [(Person(number), ids.of(offset), offset) for offset, number in group]
        spent += _microseconds(protect, events) * len(events)
    return spent / len(numbers)


def _producers(ring: KeyRing, seed: int) -> dict[str, float]:
    """What a producer seals and the protect leg opens: in one session, and each event in one of its own."""
    public, opener = ring.public_keys(NOW), ring.opener()
    values = [value for _, value, _ in workload.events(USES, seed)]
    sealer = Sealer("shop", public)
    one: list[tuple[bytes, bytes]] = []
    found = {"producer_seal": _microseconds(lambda value: one.append(sealer.seal(value, NOW)), values)}
    own = [Sealer("shop", public).seal(value, NOW) for value in values[:SESSIONS]]
    for name, sent in (("unseal_new_session", own), ("unseal", one)):
        records = [
            RawRecord(offset, NOW, None, value, ((SOURCE_HEADER, b"shop"), (SEAL_KEY_HEADER, seal_key)))
            for offset, (value, seal_key) in enumerate(sent)
        ]
        found[name] = _microseconds(lambda batch: unseal(batch, opener, (), 1 << 20), [records]) / len(records)
    return found | _signatures(ring, values)


def _signatures(ring: KeyRing, values: Sequence[bytes]) -> dict[str, float]:
    """What a source signs, and the protect leg checks; and the check of one that need not sign."""
    secret = Secret("00000000", 1, 0)
    made = ring.source_keys().secret(secret.version, "shop", secret.kid)
    assert made is not None, "the ring has no sources key"
    signer, at = made.signer("shop", Topic.RAW), str(NOW).encode()
    signatures: list[bytes] = []
    found = {"sign": _microseconds(lambda value: signatures.append(signer.sign(at, None, None, value)), values)}
    known = Authenticator(Topic.RAW, ring.source_keys())
    known.know([Source("shop", (secret,))])
    for name, source in (("authenticate", b"shop"), ("authenticate_unregistered", b"other")):
        records = [
            RawRecord(
                offset,
                NOW,
                None,
                value,
                ((SOURCE_HEADER, source), (TIMESTAMP_HEADER, at), (SIGNATURE_HEADER, signature)),
            )
            for offset, (value, signature) in enumerate(zip(values, signatures, strict=True))
        ]
        found[name] = _microseconds(lambda batch: known.authenticate(batch, 1 << 20), [records]) / len(records)
    return found


def _makers(ring: KeyRing) -> Makers:
    """With nothing remembered yet."""
    return Tokens(ring.tokenizer(), wiring.identity_rules(settings.load()).blocked).at(NOW).makers


def _microseconds(use: Callable[[T], object], of: Sequence[T]) -> float:
    began = time.process_time()
    for each in of:
        use(each)
    return (time.process_time() - began) / len(of) * 1e6
