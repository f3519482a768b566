"""Guarantees: an erasure reaches all identifiers of the profile and nobody else's; what is reported as readable is what
is readable; an export holds all events of the person, opened, and nobody else's.

Mutations seen red: the identifiers given alone; the older of two holders; a merged id not followed; a group as
somebody; markers of any erasure, or in one partition; keys made after the marker, or under a destroyed epoch, as
readable; copies not counted; the first record of a key as the last; facts of before never old; any profile that names a
token; a root's evidence for its member's; an event twice, or anybody's; sealed values in an export; deleted keys used;
fields as they come; a line break in a ticket; an audit record of others that gives orders, or hides ours; of a person's
two profiles the newer one alone; a profile of before the topic grew; a person who grows by other people, or never; an
erasure that comes before one of the past; one that was not done, passed over.
"""

from __future__ import annotations

import json
import os
from typing import Any

import msgspec
import pytest
from msgspec import structs

from pipeline.adapters.reader import Found
from pipeline.crypto.audit_mac import AuditKey, AuditKeys
from pipeline.crypto.keyring import KeyRing
from pipeline.errors import Corrupt, Misuse
from pipeline.rights import audit, places
from pipeline.rights import topics as rights_topics
from pipeline.rights.audit import Action, Audited, Place, check_ticket, time_after
from pipeline.rights.held import Held, keys_of
from pipeline.rights.markers import protected, spots
from pipeline.rights.person import by_id, by_tokens
from pipeline.rights.topics import Topics
from tests.rights.story import ERASURE, Story
from tests.stages.event_world import ring
from tests.stages.identity_events import email, user

CANARY = "canary.5150"


def signed_up(who: str, n: int = 0) -> dict[str, Any]:
    traits = {"email": f"{who}@example.com", "name": f"{who} {CANARY}", "plan": f"plan-of-{who}"}
    return {"type": "identify", "messageId": f"{who}-{n}", "userId": who, "traits": traits}


def looked(who: str, n: int = 0, device: str = "") -> dict[str, Any]:
    made = {"type": "page", "messageId": f"p-{who}-{n}", "name": "Home", "properties": {"title": f"{who} {CANARY}"}}
    return {**made, "anonymousId": device or f"device of {who}"} | ({} if device else {"userId": who})


def told() -> Story:
    story = Story()
    story.send(signed_up("ann"), looked("ann"), looked("ann", 1, "device of ann"), signed_up("bob"), looked("bob"))
    return story


def token_of(story: Story, n: int) -> str:
    """Of the identifier that the n-th event is anchored on."""
    return (story.protected[n].key or b"").decode()


def test_a_person_is_the_whole_profile() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    assert sorted(token.partition(".")[0] for token in ann.tokens) == ["anonymous_id", "email", "user_id"]
    assert ann == story.person(token_of(story, 2)) == by_id(story.profiles, ann.profile_id or "")
    assert not set(ann.tokens) & set(story.person(token_of(story, 3)).tokens)
    assert "plan-of" not in repr(ann)


def test_a_former_id_leads_to_the_profile_of_today() -> None:
    a, b = "a" * 32, "b" * 32
    profile = msgspec.json.encode({"tokens": {"email": [email(1)]}})
    merged = msgspec.json.encode({"merged_into": a})
    records = [Found(0, 0, 1, b.encode(), profile, ()), Found(0, 1, 2, b.encode(), merged, ())]
    records.append(Found(1, 0, 2, a.encode(), profile, ()))
    assert by_id(records, b).profile_id == a == by_tokens(records, [email(1)]).profile_id
    with pytest.raises(Misuse, match="no profile"):
        by_id(records, "c" * 32)


def test_of_two_profiles_that_name_a_token_the_newer_one_has_it() -> None:
    one = msgspec.json.encode({"tokens": {"email": [email(1)], "user_id": [user(1)]}})
    other = msgspec.json.encode({"tokens": {"email": [email(1)], "user_id": [user(2)]}})
    records = [Found(0, 0, 7, b"a" * 32, one, ()), Found(1, 0, 5, b"b" * 32, other, ())]
    assert by_tokens(records, [email(1)]).tokens == (email(1), user(1))
    assert by_tokens(records[1:], [email(1)]).tokens == (email(1), user(2))
    gone = [*records, Found(0, 1, 8, b"a" * 32, None, ())]
    assert by_tokens(gone, [email(1)]).tokens == (email(1), user(2))


def test_who_has_a_profile_for_each_of_two_key_versions_is_one_person() -> None:
    """Did not come while they overlapped: nothing has joined the two."""
    old, new = user(1), user(1).replace(".1.", ".2.")
    one = msgspec.json.encode({"tokens": {"email": [email(1)], "user_id": [old]}})
    other = msgspec.json.encode({"tokens": {"user_id": [new]}})
    records = [Found(0, 0, 5, b"a" * 32, one, ()), Found(1, 0, 7, b"b" * 32, other, ())]
    found = by_tokens(records, [new, old])
    assert found.tokens == tuple(sorted((email(1), old, new)))
    assert found.profiles == {"b" * 32: other, "a" * 32: one}
    assert found.profile_id == "b" * 32
    first, *_ = Held(found, lambda *_: None).lines([])
    assert json.loads(first)["person"]["profile"] == json.loads(other)
    assert json.loads(first)["person"]["also"] == [json.loads(one)]
    assert by_tokens([*records, Found(0, 1, 8, b"a" * 32, other, ())], [new, old]).profiles == {"a" * 32: other}


def test_an_old_record_of_another_partition_names_nobody() -> None:
    """The topic has grown: the profile stands in partition 1 now, without the token."""
    before = msgspec.json.encode({"tokens": {"email": [email(1)], "user_id": [user(1)]}})
    after = msgspec.json.encode({"tokens": {"user_id": [user(1)]}})
    records = [Found(1, 0, 9, b"a" * 32, after, ()), Found(0, 0, 5, b"a" * 32, before, ())]
    assert by_tokens(records, [email(1)]) == by_tokens([], [email(1)])
    assert by_tokens(records, [user(1)]).tokens == (user(1),)


def test_a_person_grows_by_what_names_somebody_new_beside_her() -> None:
    ann = by_tokens([], [email(1), user(1)])

    def record(*tokens: str) -> Found:
        return Found(0, 0, 1, b"a" * 32, msgspec.json.encode({"tokens": {"any": tokens}}), ())

    gone, merged = Found(0, 0, 1, b"a" * 32, None, ()), msgspec.json.encode({"merged_into": "b" * 32})
    others = record(email(2), user(2)), gone, msgspec.structs.replace(gone, value=merged)
    assert not ann.grown_by([*others, record(email(1), user(1)), record(user(1))])
    assert ann.grown_by([*others, record(user(1), email(2))])


def test_somebody_without_a_profile_is_known_by_the_identifier_alone_and_a_group_is_nobody() -> None:
    nobody = by_tokens([], [email(1), email(2)])
    assert (nobody.profile_id, nobody.profiles, nobody.tokens) == (None, {}, (email(1), email(2)))
    with pytest.raises(Misuse, match="group"):
        by_tokens([], ["group_id.1." + "0" * 32])


@pytest.mark.parametrize("first", [0, 3])
def test_before_the_erasure_everything_is_readable_and_after_it_nothing_but_copies(first: int) -> None:
    story = told()
    ann = story.person(token_of(story, first))
    before = story.places(ann.tokens)
    assert {name: place.live > 0 for name, place in before.items() if name != "profiles"} == {
        "subject-keys": True,
        "tokens": True,
        "evidence": not first,  # of bob nothing but his root has events
    }
    story.erase(ann)
    after = story.places(ann.tokens)
    assert {name: place.live for name, place in after.items()} == {
        "subject-keys": 0,
        "tokens": 0,
        "evidence": 0,
        "profiles": 0,
    }
    copied = {name for name, place in after.items() if place.copies}
    assert copied == {name for name, place in before.items() if place.live} | {"profiles"}, (
        "the changelogs are whole yet"
    )
    assert not by_tokens(story.profiles, ann.tokens[:1]).profiles
    assert story.person(token_of(story, 3 - first)).profiles


def test_rows_of_one_identifier_are_its_own_and_not_those_of_its_root() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    assert sorted(story.places([token])["evidence"].live for token in ann.tokens) == [0, 0, 1]


def test_what_stands_again_is_found() -> None:
    """The report does not take the legs' word for it: rows of before, put back, are seen."""
    story = told()
    ann = story.person(token_of(story, 0))
    logs = {name: list(log) for name, log in story.logs.items()}
    profile = next(r for r in reversed(story.profiles) if r.key == (ann.profile_id or "").encode())
    story.erase(ann)
    for name, log in logs.items():
        story.logs[name] += log
    assert {name for name, place in story.places(ann.tokens).items() if place.live} == set(logs)
    story = told()
    story.erase(ann)
    records = story.world.topics["profiles"][profile.partition]
    records.append(msgspec.structs.replace(records[0], key=profile.key, value=profile.value, offset=len(records)))
    assert story.places(ann.tokens)["profiles"].live == 1


def test_whoever_comes_back_is_somebody_new_and_does_not_count_as_left() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    story.erase(ann)
    left = story.places(ann.tokens)
    story.send(signed_up("ann", 2), looked("ann", 3))
    again = story.person(token_of(story, 0))
    assert again.profile_id not in (None, ann.profile_id)
    assert {name: p.live for name, p in story.places(ann.tokens).items()} == {name: p.live for name, p in left.items()}


def test_copies_under_a_destroyed_epoch_are_not_readable() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    story.erase(ann)
    marks = dict.fromkeys(spots(ann.tokens, 1)) | dict(protected(story.protected, ERASURE))
    left = places.subject_keys(story.logs["subject-keys"], marks, [])
    assert (left.live, left.copies) == (0, 0)


def test_only_markers_of_the_erasure_are_seen() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    story.erase(ann)
    assert {spot for spot, _ in protected(story.protected, ERASURE)} == {(token, 0) for token in ann.tokens}
    assert not list(protected(story.protected, "f" * 32))
    assert spots(["a", "b"], 2) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    event = (story.protected[0].value or b"").replace(b'"clear":{', b'"clear":{"erasure":"%s",' % ERASURE.encode())
    assert ERASURE.encode() in event
    loud = [Found(0, 0, 0, b"k", value, ()) for value in (b"", b"{", b'{"clear":"%s"}' % ERASURE.encode(), None, event)]
    assert not list(protected(loud, ERASURE))


# -- export -----------------------------------------------------------------------------------------------------------


def exported(story: Story, *tokens: str) -> tuple[list[dict[str, Any]], Held]:
    person = story.person(*tokens)
    held = Held(person, keys_of(story.logs["subject-keys"], person, ring().epochs()))
    return [json.loads(line) for line in held.lines([*story.protected, *story.protected])], held


def test_an_export_has_each_event_of_the_person_once_and_opened() -> None:
    story = told()
    lines, held = exported(story, token_of(story, 0))
    first, *events, last = lines
    assert first["person"]["profile"]["traits"]["plan"] == "plan-of-ann"
    assert len(events) == held.events == 3
    opened = [line["event"]["opened"] for line in events]
    assert opened[0]["traits.name"] == f"ann {CANARY}"
    assert opened[0]["traits.email"] == "ann@example.com"
    assert last["held"] == {"events": 3, "opened": held.opened, "unreadable": 0}
    assert "bob" not in json.dumps(lines)
    assert not any({"sealed", "key"} & line["event"].keys() for line in events)


def test_what_is_wrapped_under_a_destroyed_epoch_is_unreadable_and_ends_no_export() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    held = Held(ann, keys_of(story.logs["subject-keys"], ann, KeyRing.generate(os.urandom, 0).epochs()))
    assert len(list(held.lines(story.protected))) == 5
    assert (held.opened, held.unreadable > 0) == (0, True)


def test_after_the_erasure_an_export_opens_nothing() -> None:
    story = told()
    ann = story.person(token_of(story, 0))
    before = exported(story, token_of(story, 0))[1].opened
    story.erase(ann)
    held = Held(ann, keys_of(story.logs["subject-keys"], ann, ring().epochs()))
    text = b"".join(held.lines(story.protected)).decode()
    assert (held.opened, held.unreadable) == (0, before)
    assert CANARY not in text.replace("plan-of", "")
    assert exported(story, token_of(story, 3))[1].unreadable == 0


# -- audit ------------------------------------------------------------------------------------------------------------


def test_a_record_reads_back_and_its_fields_are_sorted() -> None:
    place = Place("tokens", 0, 3)
    record = Audited("a" * 32, 5, Action.ERASED, "olga", "T-1", None, (email(1),), (7, 0), (place,))
    value = audit.encode(record)
    assert audit.decode(value) == record
    assert list(json.loads(value)) == sorted(json.loads(value))
    assert [audit.decode(v) for v in (None, b"", b"{}", b"[1]", b"\xff")] == [None] * 5


def test_only_an_audit_record_of_this_ring_gives_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forged one before it does not hide it, and is told from none at all."""
    record = Audited("a" * 32, 5, Action.ERASE, "olga", "T-1", None, (email(1),), (7, 0))
    written: list[Any] = []

    class Log(list[Any]):
        def __enter__(self) -> Log:
            return self

        def __exit__(self, *_: object) -> None: ...

    class Put:
        def __init__(self, *_: object) -> None: ...

        def send(self, _: str, key: bytes, value: bytes, *, timestamp: int, headers: Any) -> None:
            written.append(Found(0, len(written), timestamp, key, value, tuple(headers)))

        def flush(self) -> None: ...

    def topics(keys: AuditKeys) -> Topics:
        nobody: Any = None
        made = Topics(("", {}), str, nobody, nobody, nobody, keys)
        monkeypatch.setattr(made, "read", lambda _: Log(written))
        return made

    monkeypatch.setattr(rights_topics, "Writer", Put)
    with_key = topics(AuditKeys([AuditKey(1, 0, bytes(32))]))
    with pytest.raises(Misuse, match="no erasure of this id"):
        with_key.audited(record.id)
    topics(AuditKeys([AuditKey(1, 0, b"e" * 32)])).audit(structs.replace(record, actor="eve"))
    topics(AuditKeys([])).audit(structs.replace(record, actor="eve"))
    with pytest.raises(Corrupt, match="not written with this key ring"):
        with_key.audited(record.id)
    with_key.audit(record)
    assert with_key.audited(record.id) == record
    assert with_key.erasures_of([user(1), email(1)]) == [record]
    assert not with_key.erasures_of([user(1)])
    with_key.audit(structs.replace(record, id="c" * 32, action=Action.EXPORT))
    assert with_key.erasures_of([email(1)]) == [record]
    written.append(structs.replace(written[-2], key=b"b" * 32))  # under another key than its own
    assert with_key.erasures_of([email(1)]) == [record]
    assert topics(AuditKeys([])).audited(record.id).actor == "eve"  # without a key nobody can tell


def test_of_two_erasures_the_later_one_has_the_later_time() -> None:
    """Whatever the clocks say: the legs know the latest alone."""
    first = Audited("a" * 32, 5_000, Action.ERASE, "olga", "T-1", None, (email(1),), (7, 0))
    done = structs.replace(first, action=Action.ERASED, time=5_100)
    assert time_after([], 4_000) == 4_000
    assert time_after([first, done], 4_000) == 5_001
    assert time_after([done, first], 6_000) == 6_000


def test_an_erasure_that_was_not_done_is_named() -> None:
    first = Audited("a" * 32, 5_000, Action.ERASE, "olga", "T-1", None, (email(1),), (7, 0))
    done = structs.replace(first, id="b" * 32, action=Action.ERASED)
    with pytest.raises(Misuse, match=f"--again {first.id}"):
        time_after([first, done], 6_000)


@pytest.mark.parametrize("ticket", ["", " ", "ann@example.com", "a b", "x" * 65, "-a", "é", "a\n"])
def test_a_ticket_is_a_plain_reference(ticket: str) -> None:
    with pytest.raises(Misuse, match="--ticket") as caught:
        check_ticket(ticket)
    assert not ticket.strip() or ticket not in str(caught.value)
    assert check_ticket("DSR-4711/2#a") == "DSR-4711/2#a"
