"""Guarantee: a token is HMAC-SHA256 over the framed domain, kind and value, under the key of the record's Kafka time.

Mutations seen red: the prefix without DOMAIN; the prefix without the kind; the value without its length; the outer pad
equal to the inner one; `bisect_left` instead of `bisect_right` in `Tokenizer.at`; `since`/`until` one version off; an
overlap that outlasts the version, that never ends or never is; `versions` with one of them twice.
"""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.tokens import BEGINNING, END, Tokenizer, TokenKey
from pipeline.errors import Misuse

KEY = bytes(range(32))
KINDS = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8"), max_size=200)


def framed(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(4, "big") + p for p in parts)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 10**6), KINDS, VALUES)
def test_a_token_is_the_truncated_hmac_of_the_standard_library(key: bytes, version: int, kind: str, value: str) -> None:
    mac = hmac.digest(key, framed(b"sealstream/token/1", kind.encode(), value.encode()), "sha256")
    token = Tokenizer([TokenKey(version, 0, key)]).at(0).maker(kind)(value)
    assert token == f"{kind}.{version}.{mac[:16].hex()}"


@given(st.lists(st.tuples(KINDS, VALUES), unique=True, max_size=20))
def test_different_kinds_and_values_have_different_tokens(inputs: list[tuple[str, str]]) -> None:
    version = Tokenizer([TokenKey(1, 0, KEY)]).at(0)
    digests = {version.maker(kind)(value).rsplit(".", 1)[1] for kind, value in inputs}
    assert len(digests) == len(inputs)


@given(
    st.lists(st.integers(-(10**13), 10**13), min_size=1, max_size=6, unique=True).map(sorted),
    st.one_of(st.integers(-(10**13), 10**13), st.sampled_from([BEGINNING, -1, 0, END - 1])),
    st.integers(-1, 1),
)
def test_the_version_is_the_last_one_activated_and_says_for_how_long(starts: list[int], time: int, shift: int) -> None:
    times = [time, *(s + shift for s in starts)]
    tokenizer = Tokenizer([TokenKey(n, start, KEY) for n, start in enumerate(starts, 1)])
    for t in times:
        version = tokenizer.at(t)
        assert version.version == max(1, sum(1 for s in starts if s <= t))
        assert version.since <= t < version.until
        assert tokenizer.at(version.since) is version
        assert tokenizer.at(version.until - 1) is version


def test_of_all_versions_that_of_the_time_comes_first_then_the_latest() -> None:
    tokenizer = Tokenizer([TokenKey(v, 100 * v, KEY) for v in (1, 2, 3)])
    assert [[v.version for v in tokenizer.versions(t)] for t in (0, 250, 999)] == [[1, 3, 2], [2, 3, 1], [3, 2, 1]]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 25)), min_size=1, max_size=4, unique_by=lambda k: k[0]))
def test_a_version_is_used_beside_the_next_one_until_its_time_and_never_longer(keys: list[tuple[int, int]]) -> None:
    keys.sort()
    made = [TokenKey(v, start, KEY, kept) for v, (start, kept) in enumerate(keys, 1)]
    for time in range(-3, 30):
        found = Tokenizer(made).at(time)
        assert found.since <= time < found.until
        assert {Tokenizer(made).at(t).since for t in range(time, min(found.until, 30))} == {found.since}
        assert found.version == max([k.version for k in made if k.active_from <= time], default=1)
        former = None if found.version == 1 else made[found.version - 2]
        overlaps = former is not None and time < former.kept_until
        assert (found.former.version if found.former else None) == (former.version if former and overlaps else None)
        assert (
            len({v.version for v in Tokenizer(made).versions(time)}) == len(Tokenizer(made).versions(time)) == len(made)
        )


def test_versions_make_different_tokens_and_each_the_same_again() -> None:
    tokenizer = Tokenizer([TokenKey(2, 100, b"b" * 32), TokenKey(1, 0, b"a" * 32)])
    old, new = tokenizer.at(99).maker("email"), tokenizer.at(100).maker("email")
    assert old("a@b.example").split(".")[2] != new("a@b.example").split(".")[2]
    assert old("a@b.example") == old("a@b.example")
    assert tokenizer.at(0).maker("email") is old


@pytest.mark.parametrize("kind", ["", "Email", "e.mail", "1st", "a b", "email\n"])
def test_a_kind_that_would_blur_the_token_text_is_refused(kind: str) -> None:
    with pytest.raises(Misuse):
        Tokenizer([TokenKey(1, 0, KEY)]).at(0).maker(kind)


@pytest.mark.parametrize("keys", [[], [(1, 0), (1, 5)], [(1, 0), (2, 0)], [(1, 5), (2, 0)]])
def test_versions_must_rise_with_their_times(keys: list[tuple[int, int]]) -> None:
    with pytest.raises(Misuse):
        Tokenizer([TokenKey(version, start, KEY) for version, start in keys])


def test_a_short_key_or_version_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TokenKey(1, 0, b"short")
    with pytest.raises(ValueError, match="start at 1"):
        TokenKey(0, 0, KEY)


def test_a_value_outside_of_unicode_is_misuse_and_not_repeated_in_the_message() -> None:
    with pytest.raises(Misuse) as raised:
        Tokenizer([TokenKey(1, 0, KEY)]).at(0).maker("email")("canary\ud800")
    assert "canary" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_nothing_of_a_key_is_in_a_repr() -> None:
    key = TokenKey(1, 0, b"K" * 32)
    tokenizer = Tokenizer([key])
    for thing in (key, tokenizer, tokenizer.at(0)):
        assert "K" * 4 not in repr(thing).replace("TokenKey", "")
