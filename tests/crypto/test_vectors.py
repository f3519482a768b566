"""Guarantee: docs/crypto.md is enough to make, from keys and values, the very bytes that the project makes.

Each vector of tests/vectors/project.json is computed twice: by the functions below, which were written from the page
and use hmac, hashlib and `cryptography` alone, and by the project. The published vectors check the primitives.

Mutations seen red: little-endian lengths; the partition in 8 bytes; another domain of commitment, KEK id or profile id;
the other end of the wrap's or reject's nonce, the path's tag or the token; the largest key id active; another zero in a
row's key; a sealed event's counter little-endian or at the nonce's other end, no source in its info, no session in
its AAD, another suite, another domain of its key id; the ring sorted by version; its AAD without the version; the key
file with 0640, made or read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipeline.adapters import keyfile
from pipeline.adapters.memory_table import MemoryTable
from pipeline.crypto import aead, sessions
from pipeline.crypto.audit_mac import AuditKey, AuditKeys
from pipeline.crypto.epochs import Epochs
from pipeline.crypto.kek import LocalKek, commitment, unwrap_key, wrap_key
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.rejects import Original, RejectBox, pack
from pipeline.crypto.seal import SealPath, SubjectKey
from pipeline.crypto.sessions import Opener, Sealer, public_key
from pipeline.crypto.signatures import SourceKeys, SourceSecret
from pipeline.crypto.subjects import SubjectKeys
from pipeline.crypto.tokens import Tokenizer, TokenKey
from pipeline.errors import Misuse
from pipeline.events import Origin, event_id
from pipeline.stages.identity_rows import Facts, profile_id, stream
from pipeline.stages.normalize import normal

TESTS = Path(__file__).parents[1]


def read(name: str) -> Any:
    return json.loads((TESTS / "vectors" / name).read_text(encoding="utf-8"))


PROJECT = read("project.json")
KEYS = PROJECT["keys"]
KEK = bytes.fromhex(KEYS["kek"])
SUBJECT = bytes.fromhex(KEYS["subject"])
INCARNATION = b"00112233445566778899aabbccddeeff"
SUBJECT_ID = bytes.fromhex(KEYS["subject_key_id"])
CASE = dict[str, Any]


# -- written from the page, without pipeline.crypto ------------------------------------------------------------------


def frame(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, frame(*parts), hashlib.sha256).digest()


def siv(key: bytes, nonce: bytes, plain: bytes, *aad: bytes) -> bytes:
    assert len(nonce) == 12
    return AESGCMSIV(key).encrypt(nonce, plain, frame(*aad))


def wrapped(plain: bytes, *aad: bytes) -> bytes:
    nonce = hashlib.sha256(frame(b"sealstream/wrap/1", frame(*aad))).digest()[:12]
    return b"\x01" + mac(KEK, b"sealstream/kek-id/1")[:8] + siv(KEK, nonce, plain, *aad)


def record(key: bytes, key_id: bytes, *aad: bytes) -> bytes:
    return b"\x01" + mac(key, b"sealstream/commit/1", key_id) + wrapped(key, *aad)


def optional(part: bytes | None) -> bytes:
    return b"\x00" if part is None else b"\x01" + frame(part)


def raw(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


# -- event ids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", PROJECT["event_ids"])
def test_event_and_profile_ids(v: CASE) -> None:
    origin = Origin(v["topic"], v["incarnation"], v["partition"], v["offset"])
    content = frame(b"sealstream/event-id/1", origin.topic.encode(), origin.incarnation.encode())
    content += origin.partition.to_bytes(4, "big") + origin.offset.to_bytes(8, "big")
    mine = hashlib.sha256(content).digest()[:16]
    assert mine.hex() == v["event_id"]
    assert hashlib.sha256(frame(b"sealstream/profile-id/1", mine)).hexdigest()[:32] == v["profile_id"]

    assert event_id(origin).hex() == v["event_id"]
    birth = (0, 0, origin.partition, origin.offset)
    facts = Facts(1, [stream(origin.topic, origin.incarnation)], [birth], 0, 0, {}, [], {})
    assert profile_id(facts, birth).hex() == v["profile_id"]


# -- HPKE, from RFC 9180: sections 4, 4.1, 5.1 and 5.2, for the one suite ---------------------------------------------

KEM_SUITE, SUITE = b"KEM" + b"\x00\x20", b"HPKE" + b"\x00\x20" + b"\x00\x01" + b"\x00\x02"


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """One block of HKDF-Expand: all that is asked for has 32 bytes at most."""
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, labelled + b"\x01", "sha256")[:size]


def hpke(shared: bytes, enc: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message in base mode; `shared`: X25519 of the ephemeral key and `public`."""
    prk = extract(KEM_SUITE, b"", b"eae_prk", shared)
    shared = expand(KEM_SUITE, prk, b"shared_secret", enc + public, 32)
    context = b"\x00" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, shared, b"secret", b"")
    return expand(SUITE, secret, b"key", context, 32), expand(SUITE, secret, b"base_nonce", context, 12)


def hpke_sent(ephemeral: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes, bytes]:
    """Key, nonce, encapsulated key."""
    ours = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = ours.public_key().public_bytes_raw()
    return *hpke(ours.exchange(X25519PublicKey.from_public_bytes(public)), enc, public, info), enc


def hpke_got(private: bytes, enc: bytes, info: bytes) -> tuple[bytes, bytes]:
    ours = X25519PrivateKey.from_private_bytes(private)
    shared = ours.exchange(X25519PublicKey.from_public_bytes(enc))
    return hpke(shared, enc, ours.public_key().public_bytes_raw(), info)


# -- sealed events ---------------------------------------------------------------------------------------------------


def session_info(key_id: bytes, source: str) -> bytes:
    return frame(b"sealstream/session/1", key_id, source.encode())


def sealed_event(session: bytes, source: str, seal_key: bytes, counter: int, event: bytes) -> bytes:
    session_id = hashlib.sha256(frame(b"sealstream/session-id/1", seal_key)).digest()[:16]
    count = counter.to_bytes(8, "big")
    aad = frame(b"sealstream/sealed-event/1", source.encode(), session_id, count)
    return b"\xf5\x01" + count + AESGCM(session).encrypt(bytes(4) + count, event, aad)


@pytest.mark.parametrize("v", PROJECT["sealed_events"])
def test_sealed_events(v: CASE) -> None:
    private, session = bytes.fromhex(KEYS["producers.1"]), bytes.fromhex(KEYS["session"])
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    key_id = hashlib.sha256(frame(b"sealstream/producer-key/1", public)).digest()[:8]
    key, nonce, enc = hpke_sent(bytes.fromhex(KEYS["ephemeral"]), public, session_info(key_id, v["source"]))
    seal_key = b"\x01" + key_id + enc + AESGCM(key).encrypt(nonce, session, b"")
    assert (public.hex(), key_id.hex(), seal_key.hex()) == (v["public"], v["key_id"], v["seal_key"])
    value = sealed_event(session, v["source"], seal_key, v["counter"], v["event"].encode())
    assert value.hex() == v["value"]

    made = public_key(1, 0, private)
    assert (made.public.hex(), made.key_id.hex()) == (v["public"], v["key_id"])
    assert Opener([private]).open(v["source"], seal_key, value) == v["event"].encode()
    assert (len(seal_key), len(value)) == (89, len(v["event"].encode()) + 26)


def test_what_the_project_seals_opens_by_the_page() -> None:
    """Its ephemeral key is random, so its bytes are read, not compared."""
    private = bytes.fromhex(KEYS["producers.1"])
    sealer = Sealer("shop", [public_key(1, 0, private)])
    for counter in range(3):
        value, seal_key = sealer.seal(b"{}", 0)
        key, nonce = hpke_got(private, seal_key[9:41], session_info(seal_key[1:9], "shop"))
        session = AESGCM(key).decrypt(nonce, seal_key[41:], b"")
        assert value == sealed_event(session, "shop", seal_key, counter, b"{}")


@pytest.mark.parametrize("v", PROJECT["signatures"])
def test_signatures(v: CASE) -> None:
    def optional(content: str | None) -> bytes:
        return b"\x00" if content is None else b"\x01" + frame(bytes.fromhex(content))

    info = frame(b"sealstream/source-secret/1", v["source"].encode(), v["kid"].encode())
    secret = HKDF(SHA256(), 32, None, info).derive(bytes.fromhex(KEYS["sources.1"]))
    text = f"sks_{v['kid']}_{secret.hex()}"
    assert f"{text}{zlib.crc32(text.encode()):08x}" == v["secret"]
    signed = frame(b"sealstream/source-signature/1", v["source"].encode(), v["topic"].encode(), v["timestamp"].encode())
    signed += optional(v["seal_key"]) + optional(v["key"]) + optional(v["value"])
    assert f"v1.{v['kid']}.{hmac.new(secret, signed, hashlib.sha256).hexdigest()}" == v["signature"]

    made = SourceKeys({1: bytes.fromhex(KEYS["sources.1"])}).secret(1, v["source"], v["kid"])
    assert made is not None
    assert made.export() == v["secret"]
    parts = (None if v[name] is None else bytes.fromhex(v[name]) for name in ("seal_key", "key", "value"))
    signer = SourceSecret.parse(v["secret"]).signer(v["source"], v["topic"])
    assert signer.sign(v["timestamp"].encode(), *parts).decode() == v["signature"]


@pytest.mark.parametrize("v", PROJECT["audit"])
def test_audit_macs(v: CASE) -> None:
    key = bytes.fromhex(KEYS["audit.1"])
    assert f"v1.1.{mac(key, b'sealstream/audit/1', v['value'].encode()).hex()}" == v["mac"]
    made = AuditKey(1, 0, key)
    assert made.mac(v["value"].encode()).decode() == v["mac"]
    assert AuditKeys([made]).ours(v["value"].encode(), v["mac"].encode())


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", PROJECT["tokens"])
def test_tokens(v: CASE) -> None:
    key = bytes.fromhex(KEYS["token.1"])
    digest = mac(key, b"sealstream/token/1", v["kind"].encode(), v["value"].encode())[:16]
    assert f"{v['kind']}.1.{digest.hex()}" == v["token"]

    assert normal(v["kind"], v["sent"]) == v["value"]
    assert Tokenizer([TokenKey(1, 0, key)]).at(0).maker(v["kind"])(v["value"]) == v["token"]


# -- sealed values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", PROJECT["seals"])
def test_sealed_values(v: CASE) -> None:
    event, plain, path = bytes.fromhex(v["event_id"]), v["plain"].encode(), v["path"].encode()
    nonce = event[:8] + hashlib.sha256(frame(b"sealstream/seal-path/1", path)).digest()[:4]
    aad = (b"sealstream/seal/1", v["schema"].encode(), path, event, SUBJECT_ID)
    assert nonce.hex() == v["nonce"]
    assert (b"\x01" + SUBJECT_ID + siv(SUBJECT, nonce, plain, *aad)).hex() == v["sealed"]

    key, at, sealed = SubjectKey(SUBJECT_ID, SUBJECT), SealPath(v["schema"], v["path"]), bytes.fromhex(v["sealed"])
    assert key.seal_all(event, [(at, plain)]) == {v["path"]: sealed}
    assert key.open(at, event, sealed) == plain
    assert len(sealed) == len(plain) + 25


# -- subject keys ----------------------------------------------------------------------------------------------------


def test_the_row_of_a_subject_key() -> None:
    v = PROJECT["subject_key"]
    subject, place = v["subject"].encode(), hashlib.sha256(frame(b"sealstream/incarnation/1", INCARNATION)).digest()[:8]
    made = v["made"].to_bytes(8, "big")
    aad = (b"sealstream/subject-key/2", subject, SUBJECT_ID, place, made)
    assert place.hex() == v["place"]
    assert mac(KEK, b"sealstream/kek-id/1")[:8].hex() == v["kek_id"]
    assert mac(SUBJECT, b"sealstream/commit/1", SUBJECT_ID).hex() == v["commitment"]
    assert (subject + b"\x00" + SUBJECT_ID).hex() == v["row"]
    assert record(SUBJECT, SUBJECT_ID, *aad).hex() == v["record"]
    assert (b"\x02" + place + made).hex() == v["head"]

    kek, row = LocalKek(KEK), bytes.fromhex(v["record"])
    assert kek.kek_id == v["kek_id"]
    assert commitment(SUBJECT, SUBJECT_ID).hex() == v["commitment"]
    assert wrap_key(kek, SUBJECT, SUBJECT_ID, frame(*aad)) == row
    assert unwrap_key(kek, row, SUBJECT_ID, frame(*aad)) == SUBJECT
    assert len(row) == 90

    table, given = MemoryTable(), iter([SUBJECT_ID, SUBJECT])
    keys = SubjectKeys(table, Epochs((), kek), lambda _: next(given))
    keys.enter(INCARNATION.decode())
    keys.get(v["subject"], v["made"])
    assert dict(table.items()) == {bytes.fromhex(v["row"]): bytes.fromhex(v["head"]) + row}

    erased = b"\x03" + place + v["erased_at"].to_bytes(8, "big")
    assert ((subject + b"\x00").hex(), erased.hex()) == (v["erased_row"], v["erased"])
    keys.erase(v["subject"], v["erased_at"])
    assert dict(table.items())[bytes.fromhex(v["erased_row"])] == erased


def test_the_row_of_a_subject_key_of_version_1() -> None:
    v = PROJECT["subject_key_1"]
    aad = (b"sealstream/subject-key/1", v["subject"].encode(), SUBJECT_ID)
    assert record(SUBJECT, SUBJECT_ID, *aad).hex() == v["record"]
    table = MemoryTable()
    table.put(bytes.fromhex(v["row"]), bytes.fromhex(v["record"]))
    keys = SubjectKeys(table, Epochs((), LocalKek(KEK)))
    for incarnation, offset in (("", 0), ("a", (1 << 26) - 2)):
        keys.enter(incarnation)
        assert keys.get(v["subject"], offset).key_id == SUBJECT_ID
    assert keys.get(v["subject"], (1 << 26) - 1).key_id != SUBJECT_ID


@pytest.mark.parametrize("ids", [(b"\x00" * 8, b"\xff" * 8), (b"\xff" * 8, b"\x00" * 8)])
def test_of_two_keys_of_a_subject_the_smaller_id_is_active_and_both_open(ids: tuple[bytes, bytes]) -> None:
    kek, subject, rows = LocalKek(KEK), PROJECT["subject_key"]["subject"], MemoryTable()
    for key_id in ids:
        one, given = MemoryTable(), iter([key_id, key_id * 4])
        maker = SubjectKeys(one, Epochs((), kek), lambda _, given=given: next(given))  # type: ignore[misc]
        maker.get(subject, 7)
        for row, content in one.items():
            rows.put(row, content)
    keys = SubjectKeys(rows, Epochs((), kek))
    assert keys.get(subject, 7).key_id == b"\x00" * 8
    assert all(keys.find(subject, key_id) is not None for key_id in ids)
    assert len(rows) == 2


# -- rejects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", PROJECT["rejects"])
def test_rejects(v: CASE) -> None:
    key, event = bytes.fromhex(KEYS["rejects.1"]), bytes.fromhex(v["event_id"])
    headers = [(bytes.fromhex(name), raw(value)) for name, value in v["headers"]]
    content = optional(raw(v["key"])) + optional(raw(v["value"])) + len(headers).to_bytes(4, "big")
    content += b"".join(frame(name) + optional(value) for name, value in headers)
    aad = (b"sealstream/reject/1", b"rejects.1", event, v["reason"].encode())
    assert content.hex() == v["content"]
    assert (b"\x01" + siv(key, event[:12], content, *aad)).hex() == v["sealed"]

    named = tuple((name.decode("utf-8", "surrogateescape"), value) for name, value in headers)
    original, box = Original(raw(v["key"]), raw(v["value"]), named), RejectBox(1, key)
    assert pack(*original).hex() == v["content"]
    assert box.seal(event, v["reason"], *original).hex() == v["sealed"]
    assert box.open(event, v["reason"], bytes.fromhex(v["sealed"])) == original


# -- the key file ----------------------------------------------------------------------------------------------------


def test_the_key_file_is_what_the_page_says() -> None:
    at = PROJECT["key_file"]["active_from"]

    def line(purpose: str, version: int, state: str, since: int) -> CASE:
        key_id, content = f"{purpose}.{version}", None
        if state != "destroyed":
            aad = (b"sealstream/ring-key/1", purpose.encode(), str(version).encode())
            content = b64(record(bytes.fromhex(KEYS[key_id]), key_id.encode(), *aad))
        return {"purpose": purpose, "version": version, "state": state, "active_from": since, "wrapped": content}

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    lines = [
        line("rejects", 1, "active", at),
        line("rejects", 2, "destroyed", at + 1),
        line("token", 1, "active", at),
    ]
    digest = hashlib.sha256(frame(b"sealstream/key-ring/1", compact(lines).encode())).digest()
    seal = b64(wrapped(digest, b"sealstream/key-ring/1", digest))
    ring = {"format": "sealstream/key-ring/1", "keys": lines, "seal": seal}
    document = {"format": "sealstream/key-file/1", "kek": b64(KEK), "ring": ring}
    assert compact(document) + "\n" == PROJECT["key_file"]["content"]


def test_the_project_writes_and_reads_that_key_file(tmp_path: Path) -> None:
    at, content = PROJECT["key_file"]["active_from"], PROJECT["key_file"]["content"].encode()
    keys = [
        RingKey(Purpose.TOKEN, 1, KeyState.ACTIVE, at, bytes.fromhex(KEYS["token.1"])),
        RingKey(Purpose.REJECTS, 2, KeyState.DESTROYED, at + 1, None),
        RingKey(Purpose.REJECTS, 1, KeyState.ACTIVE, at, bytes.fromhex(KEYS["rejects.1"])),
    ]
    path = tmp_path / "made" / "keys.json"
    keyfile.create(path, KeyRing(LocalKek(KEK), keys))
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(keyfile.load(path).keys, key=lambda k: k.key_id) == sorted(keys, key=lambda k: k.key_id)
    path.chmod(0o640)
    with pytest.raises(Misuse):
        keyfile.load(path)


# -- published vectors, and the page ---------------------------------------------------------------------------------


@pytest.mark.parametrize("v", read("rfc8452.json")["vectors"])
def test_aes_256_gcm_siv_of_rfc_8452(v: CASE) -> None:
    key, nonce, plain, aad = (bytes.fromhex(v[name]) for name in ("key", "nonce", "plain", "aad"))
    for cipher in (AESGCMSIV(key), aead.cipher(key)):
        assert cipher.encrypt(nonce, plain, aad).hex() == v["result"]
        assert cipher.decrypt(nonce, bytes.fromhex(v["result"]), aad) == plain


@pytest.mark.parametrize("v", read("gcm.json")["vectors"])
def test_aes_256_gcm_of_its_authors(v: CASE) -> None:
    key, nonce, plain, aad = (bytes.fromhex(v[name]) for name in ("key", "nonce", "plain", "aad"))
    assert AESGCM(key).encrypt(nonce, plain, aad).hex() == v["result"]
    assert AESGCM(key).decrypt(nonce, bytes.fromhex(v["result"]), aad) == plain


@pytest.mark.parametrize("v", read("rfc5869.json")["vectors"])
def test_hkdf_sha256_of_rfc_5869(v: CASE) -> None:
    ikm, salt, info, okm = (bytes.fromhex(v[name]) for name in ("ikm", "salt", "info", "okm"))
    assert HKDF(SHA256(), len(okm), salt or None, info).derive(ikm) == okm


def test_hpke_of_rfc_9180() -> None:
    """`cryptography` takes no AAD, which the published message has: it opens one of ours under the published key."""
    v = {name: bytes.fromhex(content) for name, content in read("rfc9180.json")["vector"].items()}
    for key, nonce in (hpke_sent(v["skEm"], v["pkRm"], v["info"])[:2], hpke_got(v["skRm"], v["enc"], v["info"])):
        assert (key, nonce) == (v["key"], v["base_nonce"])
        assert AESGCM(key).encrypt(nonce, v["plain"], v["aad"]) == v["ciphertext"]
    assert hpke_sent(v["skEm"], v["pkRm"], v["info"])[2] == v["enc"]
    private = X25519PrivateKey.from_private_bytes(v["skRm"])
    sent = v["enc"] + AESGCM(v["key"]).encrypt(v["base_nonce"], v["plain"], b"")
    assert sessions.SUITE.decrypt(sent, private, v["info"]) == v["plain"]


@pytest.mark.parametrize("v", read("rfc4231.json")["vectors"])
def test_hmac_sha256_of_rfc_4231(v: CASE) -> None:
    key, data, size = bytes.fromhex(v["key"]), bytes.fromhex(v["data"]), len(v["mac"])
    assert hmac.new(key, data, hashlib.sha256).hexdigest()[:size] == v["mac"]
    assert hmac.digest(key, data, "sha256").hex()[:size] == v["mac"]


def test_the_page_shows_these_vectors() -> None:
    page = re.sub(r"[\s|]+", "", (TESTS.parent / "docs" / "crypto.md").read_text(encoding="utf-8"))
    event, token, seal, reject = (PROJECT[k][0] for k in ("event_ids", "tokens", "seals", "rejects"))
    row = PROJECT["subject_key"]
    shown = [event["event_id"], event["profile_id"], token["token"], seal["nonce"], seal["sealed"]]
    shown += [row[name] for name in ("place", "kek_id", "commitment", "head", "record", "erased")]
    shown += [reject["content"], reject["sealed"]]
    shown += [PROJECT["sealed_events"][0][name] for name in ("public", "key_id", "seal_key", "value")]
    shown += [PROJECT["signatures"][0][name] for name in ("secret", "signature")]
    shown += [PROJECT["audit"][0]["mac"]]
    assert [s for s in shown if s not in page] == []
