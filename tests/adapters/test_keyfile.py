"""Guarantee: the key file is its owner's alone, is replaced by a change alone, and reads back byte for byte or not.

Mutations seen red: O_TRUNC for O_EXCL; no `fchmod`; rights of the group let through; links followed; no O_NONBLOCK
(hangs); not compared with what would be written; parents of the default mode; a half-written file left; no fsync of
file or directory. Of a change: written in place; no fsync before, or of the directory after the rename; the lock not
taken, or not given back; loaded before the lock; a left-over kept, or followed; the new file not taken away.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters import keyfile
from pipeline.crypto.kek import LocalKek
from pipeline.crypto.keyring import KeyRing, KeyState, Purpose, RingKey
from pipeline.errors import Corrupt, Misuse

RING = KeyRing(
    LocalKek(bytes(range(32))),
    [
        RingKey(Purpose.TOKEN, 1, KeyState.DESTROYED, 0, None),
        RingKey(Purpose.TOKEN, 2, KeyState.ACTIVE, 1_700_000_000_000, b"\xa5" * 32),
        RingKey(Purpose.REJECTS, 1, KeyState.DECRYPT_ONLY, 0, b"\x5a" * 32),
    ],
)


class RemoteKek:
    """A provider elsewhere: its key cannot be written anywhere."""

    def wrap(self, plain: bytes, aad: bytes) -> bytes:
        return plain[::-1]

    unwrap = wrap


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def made(path: Path) -> Path:
    keyfile.create(path, RING)
    return path


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def rewrite(path: Path, content: bytes) -> None:
    """Change the content and leave owner and mode, as a faulty disk does."""
    path.write_bytes(content)
    assert mode(path) == 0o600


def refusal(path: Path) -> str:
    with pytest.raises(Misuse) as raised:
        keyfile.load(path)
    assert str(raised.value).startswith(f"key file {path}: ")
    return str(raised.value)


# -- made ------------------------------------------------------------------------------------------------------------


def test_a_ring_reads_back_from_its_file_as_it_was(made: Path) -> None:
    again = keyfile.load(made)
    assert again.keys == RING.keys
    assert isinstance(again.kek, LocalKek)
    assert again.kek.export() == bytes(range(32))
    assert again.to_document() == RING.to_document()


def test_the_file_is_one_line_of_json_with_the_kek_and_the_rings_document(made: Path) -> None:
    content = made.read_bytes()
    assert content.count(b"\n") == 1
    assert content.endswith(b"\n")
    read = json.loads(content)
    assert list(read) == ["format", "kek", "ring"]
    assert read["format"] == "sealstream/key-file/1"
    assert base64.b64decode(read["kek"]) == bytes(range(32))
    assert read["ring"] == json.loads(RING.to_document())


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777], ids=oct)
def test_its_mode_is_0600_whatever_the_umask(path: Path, mask: int, umask: Callable[[int], int]) -> None:
    umask(mask)
    keyfile.create(path, RING)
    umask(0o022)
    assert mode(path) == 0o600
    assert keyfile.load(path).keys == RING.keys


def test_missing_parents_are_made_for_the_owner_alone(tmp_path: Path, umask: Callable[[int], int]) -> None:
    umask(0)
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    keyfile.create(there / "a" / "b" / "keys.json", RING)
    assert (mode(there / "a"), mode(there / "a" / "b")) == (0o700, 0o700)
    assert mode(there) == 0o755


def test_it_and_its_directory_are_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if os.path.samestat(os.fstat(fd), path.stat()):
            assert path.read_bytes().endswith(b"}}\n")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    keyfile.create(path, RING)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]


# -- never replaced --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"somebody's"])
def test_a_file_that_exists_is_never_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o640)
    with pytest.raises(Misuse, match="exists already"):
        keyfile.create(path, RING)
    assert (path.read_bytes(), mode(path)) == (content, 0o640)


def test_a_second_ring_does_not_take_the_firsts_place(made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(Misuse, match="exists already"):
        keyfile.create(made, KeyRing.generate(os.urandom, 0))
    assert made.read_bytes() == before


@pytest.mark.parametrize("dangling", [True, False])
def test_nothing_is_written_through_a_symbolic_link(path: Path, tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"")
    path.symlink_to(target)
    with pytest.raises(Misuse, match="exists already"):
        keyfile.create(path, RING)
    assert target.exists() != dangling
    assert dangling or target.read_bytes() == b""


def test_a_directory_in_its_place_or_a_file_as_its_parent_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "keys.json", tmp_path / ("n" * 300)):
        with pytest.raises(Misuse, match="key file "):
            keyfile.create(path, RING)


def test_what_could_not_be_written_whole_is_taken_away_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misuse, match=r"cannot be written.*No space left"):
        keyfile.create(path, RING)
    assert not path.exists()


def test_a_ring_under_a_kek_from_elsewhere_is_misuse_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="local KEK"):
        keyfile.create(tmp_path / "new" / "keys.json", KeyRing(RemoteKek(), RING.keys))
    assert not list(tmp_path.iterdir())


# -- changed ---------------------------------------------------------------------------------------------------------


def rotated(ring: KeyRing) -> KeyRing:
    return ring.rotated(Purpose.REJECTS, b"n" * 32, 1_800_000_000_000, 0)


def test_a_change_replaces_the_file_by_another_one(made: Path, umask: Callable[[int], int]) -> None:
    before = made.stat().st_ino
    made.chmod(0o400)
    umask(0)
    with made.open("rb") as old:
        changed = keyfile.change(made, rotated)
        assert json.loads(old.read())["ring"] == json.loads(RING.to_document())  # who has it open reads the former one
    assert changed.keys == rotated(RING).keys == keyfile.load(made).keys
    assert made.stat().st_ino != before
    assert mode(made) == 0o600
    assert list(made.parent.iterdir()) == [made]


def test_the_new_file_is_synced_before_it_takes_the_place_and_the_directory_after(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fsync, seen = made.read_bytes(), os.fsync, []

    def watched(fd: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        seen.append(is_directory)
        assert (made.read_bytes() == before) != is_directory
        if not is_directory:
            assert made.with_name("keys.json.new").read_bytes().endswith(b"}}\n")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    keyfile.change(made, rotated)
    assert seen == [False, True]


def test_a_change_that_is_refused_or_cannot_be_written_leaves_the_file(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Misuse, match="is active"):
        keyfile.change(made, lambda ring: ring.destroyed("token.2", 0))
    with pytest.raises(Misuse, match="local KEK"):
        keyfile.change(made, lambda ring: KeyRing(RemoteKek(), ring.keys))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Misuse, match=r"cannot be written.*No space left"):
        keyfile.change(made, rotated)
    assert made.read_bytes() == before
    assert list(made.parent.iterdir()) == [made]


def test_what_a_crash_left_is_neither_used_nor_followed(made: Path, tmp_path: Path) -> None:
    new, other = made.with_name("keys.json.new"), tmp_path / "other"
    new.write_bytes(b"half")
    assert keyfile.change(made, rotated).keys == keyfile.load(made).keys
    other.write_bytes(b"somebody's")
    new.symlink_to(other)
    keyfile.change(made, lambda ring: ring)
    assert other.read_bytes() == b"somebody's"
    assert not new.is_symlink()
    assert not made.is_symlink()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660], ids=oct)
def test_a_file_that_others_may_use_is_not_changed_either(made: Path, bits: int) -> None:
    before = made.read_bytes()
    made.chmod(bits)
    with pytest.raises(Misuse, match="chmod 600"):
        keyfile.change(made, rotated)
    assert (made.read_bytes(), mode(made)) == (before, bits)


def test_a_missing_file_or_directory_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="keys init"):
        keyfile.change(tmp_path / "keys.json", rotated)
    with pytest.raises(Misuse, match="directory cannot be opened"):
        keyfile.change(tmp_path / "none" / "keys.json", rotated)
    assert not list(tmp_path.iterdir())


def test_two_changes_at_once_exclude_each_other_and_neither_is_lost(made: Path) -> None:
    def while_another_one_tries(ring: KeyRing) -> KeyRing:
        with pytest.raises(Misuse, match="another command is changing it"):
            keyfile.change(made, rotated)
        return rotated(ring)

    keyfile.change(made, while_another_one_tries)
    keyfile.change(made, lambda ring: ring.rotated(Purpose.REJECTS, b"m" * 32, 1_900_000_000_000, 0))
    assert [k.key_id for k in keyfile.load(made).keys] == ["rejects.1", "rejects.2", "rejects.3", "token.1", "token.2"]


def test_a_change_sees_what_was_written_until_it_has_the_lock(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        keyfile.change(made, rotated)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    keyfile.change(made, lambda ring: ring.rotated(Purpose.REJECTS, b"m" * 32, 1_900_000_000_000, 0))
    assert [k.version for k in keyfile.load(made).keys if k.purpose is Purpose.REJECTS] == [1, 2, 3]


# -- refused ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    assert "sealstream keys init" in refusal(path)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666, 0o660], ids=oct)
def test_a_file_that_others_may_use_is_refused(made: Path, bits: int) -> None:
    made.chmod(bits)
    assert "chmod 600" in refusal(made)
    assert mode(made) == bits


@pytest.mark.parametrize("bits", [0o600, 0o400, 0o700], ids=oct)
def test_its_owner_may_have_any_right(made: Path, bits: int) -> None:
    made.chmod(bits)
    assert keyfile.load(made).keys == RING.keys


def test_a_symbolic_link_to_it_is_refused(made: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(made)
    assert "symbolic link" in refusal(link)
    made.unlink()
    assert "symbolic link" in refusal(link)


def test_what_is_no_plain_file_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path, 0o600)
    assert "not a plain file" in refusal(path)


def test_a_file_of_another_user_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = made.stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    assert "belongs to another user" in refusal(made)


# -- damaged ---------------------------------------------------------------------------------------------------------


def corrupt(path: Path, content: bytes) -> str:
    rewrite(path, content)
    with pytest.raises(Corrupt) as raised:
        keyfile.load(path)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


def test_any_byte_changed_is_corrupt(made: Path) -> None:
    good = made.read_bytes()
    for at in range(len(good)):
        for mask in (0x01, 0x02, 0x20):
            corrupt(made, good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
    rewrite(made, good)
    assert keyfile.load(made).keys == RING.keys


def test_any_cut_is_corrupt(made: Path) -> None:
    good = made.read_bytes()
    for at in range(len(good)):
        corrupt(made, good[:at])
        corrupt(made, good[:at] + good[at + 1 :])


@settings(max_examples=50)
@given(st.binary(max_size=100))
def test_anything_else_is_corrupt(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    keyfile.create(path, RING)
    good = path.read_bytes()
    for other in (content, good + content, content + good, b'{"format":' + content):
        if other != good:
            corrupt(path, other)


def test_the_same_json_written_otherwise_is_corrupt(made: Path) -> None:
    good = made.read_bytes()
    read = json.loads(good)
    for other in (
        json.dumps(read).encode() + b"\n",
        json.dumps(read, separators=(",", ":"), sort_keys=True).encode() + b"\n",
        good.rstrip(),
        good + b"\n",
        b" " + good,
        good.replace(b'"kek"', b'"\\u006bek"'),
        good.replace(b'"kek":', b'"kek":"",\n"kek":'),
        good.replace(b'="', b'=\\n"', 1),
        b"\xef\xbb\xbf" + good,
    ):
        assert other != good
        corrupt(made, other)


@pytest.mark.parametrize("kek", ["", "AAAA", "é" * 44, "!" * 44, base64.b64encode(bytes(31)).decode(), "A" * 100_000])
def test_what_is_no_kek_is_corrupt(made: Path, kek: str) -> None:
    read = json.loads(made.read_bytes())
    read["kek"] = kek
    corrupt(made, json.dumps(read, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def test_another_kek_of_the_right_size_is_corrupt(made: Path) -> None:
    good = made.read_bytes()
    ours, others = (base64.b64encode(key) for key in (bytes(range(32)), bytes(32)))
    assert "another KEK" in corrupt(made, good.replace(ours, others))


def test_a_file_that_is_too_long_is_corrupt_and_not_read_whole(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = made.stat().st_size
    for limit, fits in [(size, True), (size - 1, False)]:
        monkeypatch.setattr(keyfile, "MAX_BYTES", limit)
        if fits:
            assert keyfile.load(made).keys == RING.keys
        else:
            corrupt(made, made.read_bytes())
    monkeypatch.undo()
    os.truncate(made, 1 << 40)  # sparse; more than there is memory for
    with pytest.raises(Corrupt):
        keyfile.load(made)


def test_no_message_holds_a_key(made: Path) -> None:
    good = made.read_bytes()
    secrets = [base64.b64encode(bytes(range(32))).decode()[:20], "a5a5a5", "5a5a5a", bytes(range(32)).hex()[:20]]
    messages = [corrupt(made, good[:-5]), corrupt(made, good.replace(b'"active"', b'"canary"'))]
    rewrite(made, good)
    made.chmod(0o644)
    messages.append(refusal(made))
    for message in messages:
        assert not any(secret in message for secret in [*secrets, "canary"])
        assert str(made) in message
