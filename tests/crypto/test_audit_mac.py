"""Audit records are told from what others write. The format: `tests/crypto/test_vectors.py`.

Mutations seen red: any record is ours; the value left out; the first version for all; a later one before its time; the
version not looked at; without a key none is ours.
"""

from __future__ import annotations

from pipeline.crypto.audit_mac import AuditKey, AuditKeys

ONE, TWO = AuditKey(1, 0, bytes(32)), AuditKey(2, 1_000, bytes(range(32)))
KEYS = AuditKeys([TWO, ONE])


def test_the_version_of_its_time_authenticates_a_record_and_all_are_ours() -> None:
    for at, version in ((-5, 1), (0, 1), (999, 1), (1_000, 2), (5_000, 2)):
        mac = KEYS.mac(b"{}", at)
        assert mac is not None
        assert mac.startswith(b"v1.%d." % version)
        assert KEYS.ours(b"{}", mac)


def test_what_was_changed_or_has_no_mac_is_not_ours() -> None:
    mac = KEYS.mac(b"{}", 0)
    assert mac is not None
    wrong = [None, b"", mac[:-1], mac + b"0", mac.upper(), mac.replace(b"v1.1.", b"v1.2."), mac.replace(b"v1.", b"v2.")]
    wrong += [mac[:at] + b"x" + mac[at + 1 :] for at in range(len(mac))]
    assert [given for given in wrong if KEYS.ours(b"{}", given)] == []
    assert not KEYS.ours(b"{ }", mac)
    assert not AuditKeys([TWO]).ours(b"{}", mac)


def test_without_a_key_none_is_made_and_none_asked_for() -> None:
    assert AuditKeys([]).mac(b"{}", 0) is None
    assert AuditKeys([]).ours(b"{}", None)


def test_no_key_is_shown() -> None:
    assert (repr(ONE), repr(KEYS)) == ("AuditKey(1, …)", "AuditKeys([1, 2])")
