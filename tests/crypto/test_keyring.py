"""Guarantee: a ring reads back from its document as it was; any changed byte, cut or other KEK is Corrupt.

Mutations seen red: the seal not unwrapped, or not compared with the digest; `binascii.Error` for `ValueError` in
`_bytes`; a key's AAD without purpose and version; destroyed keys without a line; the lowest active rejects key;
decrypt-only keys unusable; producers given active keys alone, former ones too, or any without an active one. Of the
changes: a time in the past, or one that is not after a later version's; the former stay active; other purposes are
retired, too; the version after the number of keys; the last active one retired; an active one destroyed; a key in use
destroyed before the next is active; a destroyed line taken out; `in_use` by state; a token key retired before the next
one begins, or as it does. Of a version still to come: its number used again; its time, though it was destroyed, that
of no earlier one; the version before decrypt-only, or retired; the first version of a purpose taken for one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.kek import LocalKek, wrap_key
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.crypto.sessions import Sealer, UnknownKey
from pipeline.errors import Corrupt, Misuse
from pipeline.events import frame

ACTIVE, DECRYPT_ONLY, DESTROYED = KeyState.ACTIVE, KeyState.DECRYPT_ONLY, KeyState.DESTROYED
TOKEN, REJECTS = Purpose.TOKEN, Purpose.REJECTS
KEK = LocalKek(bytes(range(32)))
EVENT = bytes(range(16))


def ring_key(
    purpose: Purpose,
    version: int,
    state: KeyState = ACTIVE,
    since: int | None = None,
    retired_from: int | None = None,
) -> RingKey:
    """A key that is a function of purpose and version."""
    key = None if state is DESTROYED else hashlib.sha256(f"{purpose}.{version}".encode()).digest()
    return RingKey(purpose, version, state, version * 1_000 if since is None else since, key, retired_from)


def ring(*keys: RingKey) -> KeyRing:
    return KeyRing(KEK, keys)


RING = ring(
    ring_key(TOKEN, 1, DESTROYED),
    ring_key(TOKEN, 2, DECRYPT_ONLY),
    ring_key(TOKEN, 3),
    ring_key(REJECTS, 1, DECRYPT_ONLY),
    ring_key(REJECTS, 2),
)
DOCUMENT = RING.to_document()
RINGS = st.lists(
    st.builds(
        ring_key,
        st.sampled_from(Purpose),
        st.integers(1, 10**6),
        st.sampled_from(KeyState),
        st.integers(-(2**62), 2**62),
        st.none() | st.integers(-(2**62), 2**62),
    ),
    max_size=6,
    unique_by=lambda key: key.key_id,
).map(lambda keys: ring(*keys))


def read_back(document: bytes) -> KeyRing:
    return KeyRing.from_document(document, KEK)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def resealed(keys: list[dict[str, Any]], format: str = "sealstream/key-ring/1") -> bytes:
    """A document of `keys` as somebody writes it who has the KEK."""
    digest = hashlib.sha256(frame(b"sealstream/key-ring/1", compact(keys))).digest()
    seal = base64.b64encode(KEK.wrap(digest, frame(b"sealstream/key-ring/1", digest))).decode()
    return compact({"format": format, "keys": keys, "seal": seal})


# -- the document ----------------------------------------------------------------------------------------------------


@given(RINGS)
def test_a_ring_reads_back_from_its_document_as_it_was(original: KeyRing) -> None:
    document = original.to_document()
    again = read_back(document)
    assert again.keys == original.keys
    assert again.to_document() == document
    assert again.kek is KEK


@given(RINGS, st.randoms(use_true_random=False))
def test_the_order_in_which_keys_are_given_does_not_matter(original: KeyRing, random: Any) -> None:
    keys = list(original.keys)
    random.shuffle(keys)
    shuffled = ring(*keys)
    assert shuffled.to_document() == original.to_document()
    assert [(k.purpose, k.version) for k in shuffled.keys] == sorted((k.purpose, k.version) for k in keys)


def test_any_single_byte_changed_to_any_other_is_corrupt() -> None:
    document = bytearray(DOCUMENT)
    for at, byte in enumerate(DOCUMENT):
        for other in {byte ^ 1 << bit for bit in range(8)} | {*b'0 ",\\]}A=/+'} - {byte}:
            document[at] = other
            with pytest.raises(Corrupt):
                read_back(bytes(document))
        document[at] = byte


def test_any_cut_is_corrupt() -> None:
    for at in range(len(DOCUMENT)):
        with pytest.raises(Corrupt):
            read_back(DOCUMENT[:at])
        if at:
            with pytest.raises(Corrupt):
                read_back(DOCUMENT[at:])
        with pytest.raises(Corrupt):
            read_back(DOCUMENT[:at] + DOCUMENT[at + 1 :])


@given(st.binary(max_size=200))
def test_anything_else_is_corrupt(content: bytes) -> None:
    for document in (content, DOCUMENT + b"{" + content, b'{"format":' + content, DOCUMENT[:-3] + content):
        if document.strip() != DOCUMENT:
            with pytest.raises(Corrupt):
                read_back(document)


@pytest.mark.parametrize("text", ["é", "!", "A", "AAAA", "\\u00e9", "", "AAAA\\n"])
@pytest.mark.parametrize("field", ['"seal":"', '"wrapped":"'])
def test_what_is_no_base64_of_a_key_is_corrupt(field: str, text: str) -> None:
    start = DOCUMENT.index(field.encode()) + len(field)
    end = DOCUMENT.index(b'"', start)
    for document in (
        DOCUMENT[:start] + text.encode() + DOCUMENT[end:],
        DOCUMENT[:end] + text.encode() + DOCUMENT[end:],
    ):
        if document != DOCUMENT:
            with pytest.raises(Corrupt):
                read_back(document)


@given(st.binary(min_size=32, max_size=32))
def test_another_kek_is_corrupt(key: bytes) -> None:
    for original in (RING, ring()):
        if key != KEK.export():
            with pytest.raises(Corrupt, match="another KEK"):
                KeyRing.from_document(original.to_document(), LocalKek(key))


CHANGES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a line left out": lambda keys: keys.pop(),
    "no line at all": lambda keys: keys.clear(),
    "a line twice": lambda keys: keys.append(keys[0]),
    "lines in another order": lambda keys: keys.reverse(),
    "a key destroyed": lambda keys: keys[-1].update(state="destroyed", wrapped=None),
    "a key made active": lambda keys: keys[0].update(state="active"),
    "a version": lambda keys: keys[-1].update(version=4),
    "a time": lambda keys: keys[-1].update(active_from=3_001),
    "a purpose": lambda keys: keys[-1].update(purpose="rejects"),
    "a huge version": lambda keys: keys[-1].update(version=10**30),
    "a version that is no integer": lambda keys: keys[-1].update(version=True),
    "an unknown purpose": lambda keys: keys[-1].update(purpose="master"),
    "an unknown state": lambda keys: keys[-1].update(state="asleep"),
    "a field more": lambda keys: keys[-1].update(note="x"),
    "a field less": lambda keys: keys[-1].pop("wrapped"),
    "a line of another ring under the KEK": lambda keys: keys.append(
        json.loads(ring(ring_key(TOKEN, 9)).to_document())["keys"][0]
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_document_that_was_edited_is_corrupt(change: Callable[[list[dict[str, Any]]], Any]) -> None:
    document = json.loads(DOCUMENT)
    assert compact(document) == DOCUMENT
    change(document["keys"])
    with pytest.raises(Corrupt):
        read_back(compact(document))


def test_a_seal_of_another_ring_is_corrupt() -> None:
    document = json.loads(DOCUMENT)
    document["seal"] = json.loads(ring(ring_key(TOKEN, 1)).to_document())["seal"]
    with pytest.raises(Corrupt):
        read_back(compact(document))


def test_a_field_more_beside_the_keys_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        read_back(compact(json.loads(DOCUMENT) | {"note": "x"}))


def test_an_edited_document_is_corrupt_even_under_a_provider_that_binds_no_aad() -> None:
    class Careless:
        """As good as a KMS whose encryption context was left out."""

        def wrap(self, plain: bytes, aad: bytes) -> bytes:
            return KEK.wrap(plain, b"")

        def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
            return KEK.unwrap(wrapped, b"")

    document = json.loads(KeyRing(Careless(), RING.keys).to_document())
    assert KeyRing.from_document(compact(document), Careless()).keys == RING.keys
    document["keys"][0]["state"] = "active"
    with pytest.raises(Corrupt, match="changed after it was written"):
        KeyRing.from_document(compact(document), Careless())


def test_who_has_the_kek_cannot_move_a_key_to_another_line_either() -> None:
    keys = json.loads(DOCUMENT)["keys"]
    assert resealed(keys) == DOCUMENT
    for one, other in [(0, 1), (0, 4), (3, 4)]:
        moved = [dict(line) for line in keys]
        moved[one]["wrapped"], moved[other]["wrapped"] = moved[other]["wrapped"], moved[one]["wrapped"]
        with pytest.raises(Corrupt):
            read_back(resealed(moved))


def test_a_line_whose_key_has_another_commitment_is_corrupt() -> None:
    keys = json.loads(DOCUMENT)["keys"]
    aad = frame(b"sealstream/ring-key/1", b"token", b"3")
    committed, under_the_kek = wrap_key(KEK, b"a" * 32, b"token.3", aad), wrap_key(KEK, b"b" * 32, b"token.3", aad)
    keys[-1]["wrapped"] = base64.b64encode(committed[:33] + under_the_kek[33:]).decode()
    with pytest.raises(Corrupt, match="key commitment"):
        read_back(resealed(keys))


def test_a_format_that_is_not_ours_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="unknown format"):
        read_back(resealed(json.loads(DOCUMENT)["keys"], "sealstream/key-ring/2"))


def test_no_key_is_in_the_document_and_no_content_in_a_message() -> None:
    secrets = [KEK.export(), *(key.key for key in RING.keys if key.key is not None)]
    assert len(secrets) == 5
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:42]):
            assert form not in DOCUMENT
    with pytest.raises(Corrupt) as raised:
        read_back(DOCUMENT.replace(b'"decrypt-only"', b'"canary"'))
    assert "canary" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_destroyed_key_keeps_its_line_without_a_key() -> None:
    line = json.loads(DOCUMENT)["keys"][2]
    assert line == {"purpose": "token", "version": 1, "state": "destroyed", "active_from": 1_000, "wrapped": None}
    again = read_back(DOCUMENT)
    assert again.keys[2] == RingKey(TOKEN, 1, DESTROYED, 1_000, None)
    assert read_back(again.to_document()).keys == RING.keys


# -- making a ring ---------------------------------------------------------------------------------------------------


def test_a_new_ring_has_one_active_key_for_each_purpose_and_all_its_keys_differ() -> None:
    made = KeyRing.generate(os.urandom, 1_700_000_000_000)
    assert [(k.key_id, k.state, k.active_from) for k in made.keys] == [
        ("audit.1", ACTIVE, 1_700_000_000_000),
        ("producers.1", ACTIVE, 1_700_000_000_000),
        ("rejects.1", ACTIVE, 1_700_000_000_000),
        ("sources.1", ACTIVE, 1_700_000_000_000),
        ("subjects.1", ACTIVE, 1_700_000_000_000),
        ("token.1", ACTIVE, 1_700_000_000_000),
    ]
    kek = made.kek
    assert isinstance(kek, LocalKek)
    assert len({kek.export(), *(k.key for k in made.keys)}) == 7
    assert KeyRing.from_document(made.to_document(), kek).keys == made.keys
    assert made.tokenizer().at(0).version == 1
    assert made.reject_boxes().at(0).key_id == "rejects.1"


def test_two_keys_of_one_purpose_and_version_are_misuse() -> None:
    with pytest.raises(Misuse, match="same purpose and version"):
        ring(ring_key(TOKEN, 1), ring_key(TOKEN, 1, DESTROYED))
    assert len(ring(ring_key(TOKEN, 1), ring_key(REJECTS, 1)).keys) == 2


@pytest.mark.parametrize(
    ("version", "state", "key", "rule"),
    [
        (0, ACTIVE, bytes(32), "start at 1"),
        (1, ACTIVE, None, "unless it was destroyed"),
        (1, DECRYPT_ONLY, None, "unless it was destroyed"),
        (1, DESTROYED, bytes(32), "unless it was destroyed"),
        (1, ACTIVE, b"C" * 31, "32 bytes"),
        (1, ACTIVE, b"", "32 bytes"),
    ],
)
def test_a_key_that_cannot_be_is_refused(version: int, state: KeyState, key: bytes | None, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as raised:
        RingKey(TOKEN, version, state, 0, key)
    assert "CCC" not in str(raised.value)


def test_nothing_of_a_key_is_in_a_repr() -> None:
    key = RingKey(TOKEN, 1, ACTIVE, 0, b"K" * 32)
    assert "KKK" not in repr(key)
    assert repr(ring(key, ring_key(REJECTS, 1, DESTROYED))) == "KeyRing(rejects.1: destroyed, token.1: active)"


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [[], [ring_key(TOKEN, 1, DECRYPT_ONLY)], [ring_key(TOKEN, 1, DESTROYED)], [ring_key(REJECTS, 1)]],
    ids=["none", "decrypt-only", "destroyed", "only for rejects"],
)
def test_without_an_active_token_key_there_is_no_tokenizer(keys: list[RingKey]) -> None:
    with pytest.raises(Misuse, match="no active token key"):
        ring(*keys).tokenizer()


def test_a_decrypt_only_key_still_makes_the_tokens_of_its_own_period_and_a_destroyed_one_none() -> None:
    tokenizer = RING.tokenizer()
    alone = ring(ring_key(TOKEN, 2), ring_key(TOKEN, 3)).tokenizer()
    assert [tokenizer.at(t).version for t in (0, 1_500, 2_999, 3_000)] == [2, 2, 2, 3]
    for time in (0, 2_999, 3_000):
        assert tokenizer.at(time).maker("email")("a@b.example") == alone.at(time).maker("email")("a@b.example")


# -- rejects ---------------------------------------------------------------------------------------------------------


def test_the_rejects_key_goes_by_the_records_own_time_whatever_became_of_the_key_since() -> None:
    boxes = RING.reject_boxes()
    assert [boxes.at(t).key_id for t in (-1, 0, 1_999, 2_000, 2**62)] == ["rejects.1"] * 3 + ["rejects.2"] * 2
    before = ring(ring_key(REJECTS, 1)).reject_boxes().at(1_999).seal(EVENT, "bad_json", None, b"v", ())
    assert boxes.at(1_999).seal(EVENT, "bad_json", None, b"v", ()) == before
    without = ring(ring_key(REJECTS, 1, DESTROYED), ring_key(REJECTS, 2)).reject_boxes()
    assert without.at(0).key_id == "rejects.2"


def test_a_higher_rejects_version_that_is_not_later_is_misuse() -> None:
    with pytest.raises(Misuse, match="later than each lower one"):
        ring(ring_key(REJECTS, 1, since=5), ring_key(REJECTS, 2, since=5)).reject_boxes()


@pytest.mark.parametrize(
    "keys",
    [[], [ring_key(REJECTS, 1, DECRYPT_ONLY)], [ring_key(REJECTS, 1, DESTROYED)], [ring_key(TOKEN, 1)]],
    ids=["none", "decrypt-only", "destroyed", "only for tokens"],
)
def test_without_an_active_rejects_key_nothing_is_sealed(keys: list[RingKey]) -> None:
    with pytest.raises(Misuse, match="no active rejects key"):
        ring(*keys).reject_boxes()


def test_what_a_rejects_key_sealed_opens_by_its_id_also_when_it_is_decrypt_only() -> None:
    sealed = ring(ring_key(REJECTS, 1)).reject_boxes().at(0).seal(EVENT, "bad_json", b"k", b"v", ())
    box = RING.reject_box_of("rejects.1")
    assert box.key_id == "rejects.1"
    assert box.open(EVENT, "bad_json", sealed).value == b"v"
    assert RING.reject_box_of("rejects.2").key_id == RING.reject_boxes().at(2_000).key_id


@pytest.mark.parametrize("key_id", ["rejects.3", "token.3", "rejects.01", "rejects.", "", "REJECTS.1", "rejects.1 "])
def test_a_rejects_key_that_is_not_here_is_misuse(key_id: str) -> None:
    with pytest.raises(Misuse, match="is not in the key ring, or was destroyed"):
        RING.reject_box_of(key_id)


def test_a_destroyed_rejects_key_opens_nothing() -> None:
    with pytest.raises(Misuse, match="was destroyed"):
        ring(ring_key(REJECTS, 1, DESTROYED), ring_key(REJECTS, 2)).reject_box_of("rejects.1")


# -- changes ---------------------------------------------------------------------------------------------------------

NEW = b"n" * 32


def states(of: KeyRing) -> dict[str, KeyState]:
    return {k.key_id: k.state for k in of.keys}


def test_rotation_adds_a_version_and_makes_the_former_decrypt_only_unless_they_overlap() -> None:
    before = ring(ring_key(TOKEN, 1), ring_key(REJECTS, 1))
    after = before.rotated(REJECTS, NEW, since=9_000, now=8_000)
    assert states(after) == {"rejects.1": DECRYPT_ONLY, "rejects.2": ACTIVE, "token.1": ACTIVE}
    assert after.keys[1] == RingKey(REJECTS, 2, ACTIVE, 9_000, NEW)
    tokens = before.rotated(TOKEN, NEW, since=9_000, now=8_000)
    assert states(tokens) == {"rejects.1": ACTIVE, "token.1": ACTIVE, "token.2": ACTIVE}
    assert read_back(tokens.to_document()).keys == tokens.keys
    with pytest.raises(Misuse, match=r"token\.1 still overlaps with token\.2: .* after 1970-01-01T00:00:09\.000Z"):
        tokens.rotated(TOKEN, NEW, since=10_000, now=8_000)
    assert "token.3" in states(tokens.retired("token.1", 9_500, 8_000).rotated(TOKEN, NEW, 10_000, 8_000))
    assert states(before) == {"rejects.1": ACTIVE, "token.1": ACTIVE}
    assert read_back(after.to_document()).keys == after.keys
    assert states(RING.rotated(REJECTS, NEW, 9_000, 9_000))["rejects.3"] is ACTIVE
    assert "token.7" in states(ring(ring_key(TOKEN, 6, DESTROYED)).rotated(TOKEN, NEW, 9_000, 0))


def test_records_before_the_rotation_get_what_they_got_and_those_since_get_the_new_version() -> None:
    before = ring(ring_key(TOKEN, 1), ring_key(REJECTS, 1))
    after = before.rotated(TOKEN, NEW, 9_000, 8_000).rotated(REJECTS, NEW, 9_000, 8_000)
    for time in (0, 8_000, 8_999):
        for of in (before, after):
            assert of.tokenizer().at(time).version == 1
            assert of.reject_boxes().at(time).key_id == "rejects.1"
        made = [of.tokenizer().at(time).maker("email")("a@b.example") for of in (before, after)]
        assert made[0] == made[1]
    assert after.tokenizer().at(9_000).version == 2
    assert after.reject_boxes().at(9_000).key_id == "rejects.2"


@pytest.mark.parametrize(
    ("since", "now", "rule"), [(8_999, 9_000, "in the past"), (3_000, 0, "after that"), (2_000, 0, "after that")]
)
def test_no_version_becomes_active_when_records_have_been_protected_already(since: int, now: int, rule: str) -> None:
    with pytest.raises(Misuse, match=rule):
        RING.rotated(TOKEN, NEW, since, now)
    with pytest.raises(Misuse, match="after that"):
        RING.rotated(REJECTS, NEW, 5_000, 0).rotated(REJECTS, NEW, 5_000, 0)
    assert "rejects.4" in states(RING.rotated(REJECTS, NEW, 5_000, 0).rotated(REJECTS, NEW, 5_001, 0))


def test_a_key_is_retired_only_if_a_later_one_is_active() -> None:
    two = ring(ring_key(REJECTS, 1), ring_key(REJECTS, 2), ring_key(TOKEN, 3))
    after = two.retired("rejects.1", 5_000, 5_000)
    assert after.keys[0] == replace(two.keys[0], state=DECRYPT_ONLY)
    for key_id, rule in [
        ("rejects.2", "last active one"),
        ("token.3", "last active one"),
        ("rejects.3", "no such key"),
    ]:
        with pytest.raises(Misuse, match=rule):
            two.retired(key_id, 5_000, 5_000)
    with pytest.raises(Misuse, match="not active, but destroyed"):
        RING.retired("token.1", 5_000, 5_000)


def test_the_overlap_of_token_keys_goes_by_the_records_own_time_and_ends_when_the_former_is_retired() -> None:
    def at(of: KeyRing, time: int) -> tuple[int, int | None]:
        version = of.tokenizer().at(time)
        assert version.since <= time < version.until
        return version.version, None if version.former is None else version.former.version

    before = ring(ring_key(TOKEN, 1))
    during = before.rotated(TOKEN, NEW, since=9_000, now=8_000)
    after = during.retired("token.1", since=10_000, now=9_500)
    assert after.keys[0] == replace(before.keys[0], state=DECRYPT_ONLY, retired_from=10_000)
    assert read_back(after.to_document()).keys == after.keys
    for of in (before, during, after):
        assert at(of, 8_999) == (1, None)
    for of in (during, after):
        assert [at(of, t) for t in (9_000, 9_999)] == [(2, 1), (2, 1)]
    assert at(during, 10_000) == (2, 1)
    assert at(after, 10_000) == (2, None)
    assert at(after.rotated(TOKEN, NEW, 11_000, 9_500), 11_000) == (3, 2)
    assert at(during.retired("token.1", 20_000, 9_500).rotated(TOKEN, NEW, 11_000, 9_500), 11_000) == (3, 2)
    assert at(after.destroyed("token.1", 10_000), 10_000) == (2, None)
    for since in (8_000, 9_000):
        with pytest.raises(Misuse, match=r"token\.2, which becomes active at 1970-01-01T00:00:09\.000Z"):
            during.retired("token.1", since, now=8_000)
    assert [at(during.retired("token.1", 9_001, 8_000), t) for t in (9_000, 9_001)] == [(2, 1), (2, None)]
    with pytest.raises(Misuse, match="in the past"):
        during.retired("token.1", since=9_499, now=9_500)
    with pytest.raises(Misuse, match="until it is retired at the time given"):
        after.destroyed("token.1", 9_999)


def test_a_ring_that_knows_nothing_of_overlaps_reads_back_as_it_was() -> None:
    assert all("retired_from" not in line for line in json.loads(DOCUMENT)["keys"])
    assert RING.tokenizer().at(5_000).former is None


@given(st.sampled_from(Purpose), st.sampled_from([None, 9_501, 20_000]), st.integers(0, 10**5))
def test_a_version_still_to_come_is_destroyed_and_all_is_as_before_the_rotation(
    purpose: Purpose, retired: int | None, time: int
) -> None:
    before = ring(*(ring_key(p, v, s) for p in {purpose, TOKEN, REJECTS} for v, s in ((1, DECRYPT_ONLY), (2, ACTIVE))))
    during = before.rotated(purpose, NEW, since=9_500, now=9_000)
    if purpose is TOKEN and retired is not None:
        during = during.retired("token.2", retired, 9_000)
    after = read_back(during.destroyed(f"{purpose}.3", now=9_499).to_document())
    assert after.keys == ring(*before.keys, RingKey(purpose, 3, DESTROYED, 9_500, None)).keys
    for of in Purpose:
        assert after.in_use(of, time) == before.in_use(of, time)
    assert after.tokenizer().at(time).version == before.tokenizer().at(time).version
    assert after.tokenizer().at(time).former is None
    assert after.reject_boxes().at(time).key_id == before.reject_boxes().at(time).key_id
    assert after.public_keys(time) == before.public_keys(time)
    assert after.audit_keys().mac(b"", time) == before.audit_keys().mac(b"", time)
    again = after.rotated(purpose, NEW, since=9_400, now=9_300)
    assert again.in_use(purpose, 9_400) == RingKey(purpose, 4, ACTIVE, 9_400, NEW)
    if purpose is TOKEN:
        assert states(again.retired("token.2", 9_401, 9_300))["token.2"] is DECRYPT_ONLY
        with pytest.raises(Misuse, match=r"token\.4, which becomes active at 1970-01-01T00:00:09\.400Z"):
            again.retired("token.2", 9_400, 9_300)
    with pytest.raises(Misuse, match="is active: rotate"):
        before.rotated(purpose, NEW, 9_500, 9_000).destroyed(f"{purpose}.3", now=9_500)


@pytest.mark.parametrize("purpose", [p for p in Purpose if p is not TOKEN])
def test_of_two_versions_to_come_the_first_one_is_destroyed_and_the_other_one_stays(purpose: Purpose) -> None:
    first = ring(ring_key(purpose, 1))
    during = first.rotated(purpose, NEW, 9_500, 9_000).rotated(purpose, bytes(32), 9_600, 9_000)
    after = during.destroyed(f"{purpose}.2", now=9_000)
    assert list(states(after).values()) == [DECRYPT_ONLY, DESTROYED, ACTIVE]
    assert [getattr(after.in_use(purpose, t), "version", None) for t in (9_599, 9_600)] == [1, 3]
    assert list(states(after.destroyed(f"{purpose}.3", now=9_000)).values()) == [ACTIVE, DESTROYED, DESTROYED]


def test_of_two_token_keys_to_come_the_first_one_is_destroyed_and_the_one_before_overlaps_with_the_other() -> None:
    during = ring(ring_key(TOKEN, 1)).rotated(TOKEN, NEW, 9_500, 9_000).retired("token.1", 9_550, 9_000)
    after = during.rotated(TOKEN, bytes(32), 9_600, 9_000).destroyed("token.2", 9_000)
    assert list(states(after).values()) == [ACTIVE, DESTROYED, ACTIVE]
    for time, version, former in ((9_599, 1, None), (9_600, 3, 1), (10**9, 3, 1)):
        found = after.tokenizer().at(time)
        assert (found.version, None if found.former is None else found.former.version) == (version, former)


def test_the_first_version_of_a_purpose_is_in_use_before_its_time_but_an_epoch_is_not() -> None:
    for purpose in Purpose:
        made = ring(ring_key(purpose, 1, since=9_500))
        if purpose is Purpose.SUBJECTS:
            after = made.destroyed("subjects.1", now=9_000)
            assert list(states(after).values()) == [DESTROYED]
            assert after.in_use(purpose, 10_000) is None
            assert "subjects.2" in states(after.rotated(purpose, NEW, 9_000, 9_000))
        else:
            with pytest.raises(Misuse, match="is active: rotate"):
                made.destroyed(f"{purpose}.1", now=9_000)


def test_a_decrypt_only_key_is_destroyed_and_keeps_its_line() -> None:
    after = RING.destroyed("token.2", now=3_000)
    assert after.keys[3] == RingKey(TOKEN, 2, DESTROYED, 2_000, None)
    assert [k for k in after.keys if k.key_id != "token.2"] == [k for k in RING.keys if k.key_id != "token.2"]
    secret = ring_key(TOKEN, 2).key
    assert secret is not None
    assert wrap_key(KEK, secret, b"token.2", frame(b"sealstream/ring-key/1", b"token", b"2")) not in after.to_document()
    assert len(read_back(after.to_document()).keys) == len(RING.keys)


@pytest.mark.parametrize(
    ("key_id", "now", "rule"),
    [
        ("token.3", 9_000, "is active: rotate"),
        ("token.4", 9_000, "is active: rotate"),
        ("token.1", 9_000, "already"),
        ("token.2", 2_999, "in use until the next version is active"),
        ("token.9", 9_000, "no such key; it has rejects.1, rejects.2, token.1"),
        ("", 9_000, "no such key"),
    ],
)
def test_no_key_is_destroyed_that_is_needed_or_not_there(key_id: str, now: int, rule: str) -> None:
    with pytest.raises(Misuse, match=rule):
        ring(*RING.keys, ring_key(TOKEN, 4), ring_key(TOKEN, 5, since=8_000)).destroyed(key_id, now)


@given(RINGS, st.integers(-(2**62), 2**62))
def test_what_is_in_use_is_what_protects(of: KeyRing, time: int) -> None:
    for purpose in Purpose:
        usable = [k for k in of.keys if k.purpose is purpose and k.state is not DESTROYED]
        found = of.in_use(purpose, time)
        early = purpose is Purpose.SUBJECTS and all(k.active_from > time for k in usable)
        assert (found is None) == (early or ACTIVE not in {k.state for k in usable})
    epochs, epoch = of.epochs(), of.in_use(Purpose.SUBJECTS, time)
    if epoch is not None and time >= 0:
        assert epoch.key is not None
        epochs.advance(time)
        wrapped = epochs.wrap(b"x", b"")
        assert LocalKek(epoch.key).unwrap(wrapped, b"") == b"x"
        assert epochs.is_current(wrapped)
    try:
        version = of.tokenizer().at(time).version
    except Misuse:
        return
    in_use = of.in_use(TOKEN, time)
    assert in_use is not None
    assert in_use.version == version


# -- producers -------------------------------------------------------------------------------------------------------

PRODUCERS = Purpose.PRODUCERS


@pytest.mark.parametrize(
    ("states", "now", "versions"),
    [
        ([ACTIVE], 0, [1]),
        ([ACTIVE, ACTIVE, ACTIVE], 2_000, [2, 3]),
        ([ACTIVE, ACTIVE, ACTIVE], 1_999, [1, 2, 3]),
        ([DECRYPT_ONLY, ACTIVE], 1_999, [1, 2]),
        ([DECRYPT_ONLY, ACTIVE], 2_000, [2]),
        ([DESTROYED, ACTIVE], 0, [2]),
        ([DECRYPT_ONLY], 0, []),
        ([DESTROYED], 0, []),
        ([], 0, []),
    ],
)
def test_producers_get_the_version_in_use_and_those_to_come(
    states: list[KeyState], now: int, versions: list[int]
) -> None:
    made = ring(ring_key(TOKEN, 1), *(ring_key(PRODUCERS, v, state) for v, state in enumerate(states, 1)))
    assert [k.version for k in made.public_keys(now)] == versions


def test_a_document_of_before_there_were_producers_keys_reads_back_and_opens_nothing() -> None:
    assert not read_back(DOCUMENT).public_keys(0)
    value, seal_key = Sealer("shop", ring(ring_key(PRODUCERS, 1)).public_keys(0)).seal(b"{}", 0)
    with pytest.raises(UnknownKey):
        read_back(DOCUMENT).opener().open("shop", seal_key, value)
