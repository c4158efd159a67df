"""The page of keys: what it shows, to whom, and what it makes and ends."""

from __future__ import annotations

import re
from collections.abc import Callable

from blindai.cloud.accounts import Role
from blindai.wire.api_key import PATTERN
from cloud_scene import CloudScene
from console_world import Person

KEYS = "/accounts/alice/keys"
FORM = {"name": "laptop", "scope-query": "on", "expires": "90"}


def test_a_key_is_made_shown_once_and_revoked(alice: Person, small_scene: CloudScene) -> None:
    answer = alice.submit(KEYS, KEYS, **FORM | {"scope-upload": "on"})
    assert answer.status == 200
    (text,) = re.findall(PATTERN, answer.text)
    (entry,) = small_scene.plane.accounts.keys(alice.id, "alice")
    assert text.startswith(entry.id)
    assert "It may query, upload, and expires in 90 d" in answer.words
    assert "--account alice --api-key-stdin" in answer.words

    listed = alice.get(KEYS)
    assert text not in listed.text
    assert "laptop" in listed.words
    assert "query, upload" in listed.words
    assert "by you" in listed.words

    asked = alice.get(f"{KEYS}/{entry.id}/revoke")
    assert "Revoke laptop" in asked.words
    answer = alice.submit(f"{KEYS}/{entry.id}/revoke", f"{KEYS}/{entry.id}/revoke")
    assert (answer.status, answer.header("location")) == (303, f"{KEYS}?done=revoked")
    listed = alice.get(answer.header("location"))
    assert "The key is revoked." in listed.words
    assert "1 not in force any more" in listed.words
    assert "No key is in force." in listed.words
    assert "it is refused everywhere" in alice.get(f"{KEYS}/{entry.id}/revoke").words


WRONG: list[tuple[dict[str, str | None], str]] = [
    ({"name": ""}, "A name has 1 to 64 characters"),
    ({"name": "x" * 65}, "A name has 1 to 64 characters"),
    ({"name": "a\u202eb"}, "characters that can be seen"),
    ({"scope-query": None}, "Choose what the key is good for"),
    ({"expires": "-1"}, "Choose one of the lengths of time"),
    ({"expires": "1e3"}, "Choose one of the lengths of time"),
]


def test_what_no_key_is_made_of(alice: Person, small_scene: CloudScene) -> None:
    for changed, said in WRONG:
        form = {name: value for name, value in (FORM | changed).items() if value is not None}
        answer = alice.submit(KEYS, KEYS, **form)
        assert answer.status == 400
        assert said in answer.words
        assert "account.key_request" in answer.words
        # What was typed is still there.
        assert ('value="laptop"' in answer.text) == ("name" not in changed)
    assert small_scene.plane.accounts.keys(alice.id, "alice") == ()


def test_a_scope_that_the_form_does_not_have_is_none(alice: Person, small_scene: CloudScene) -> None:
    alice.submit(KEYS, KEYS, **FORM | {"scope-admin": "on", "scopes": "delete"})
    (entry,) = small_scene.plane.accounts.keys(alice.id, "alice")
    assert [scope.value for scope in entry.scopes] == ["query"]


def test_names_are_text_and_nothing_else(alice: Person) -> None:
    name = "<script>alert(1)</script>'\""
    answer = alice.submit(KEYS, KEYS, **FORM | {"name": name})
    assert name in answer.words.replace("&#39;", "'") or "<script>alert" not in answer.text
    assert "<script>alert" not in alice.get(KEYS).text


def test_an_expired_key_is_told_apart(alice: Person, small_scene: CloudScene) -> None:
    small_scene.clock.shift = -40 * 86400
    small_scene.key(alice.id, "alice", expires_in_days=30)
    small_scene.clock.shift = 0
    listed = alice.get(KEYS)
    assert "No key is in force." in listed.words
    assert "expired" in listed.words


def test_who_revokes_what(person: Callable[[str], Person], small_scene: CloudScene, alice: Person, bob: Person) -> None:
    """A developer sees all keys and ends their own; a viewer sees none; a stranger learns nothing."""
    accounts = small_scene.plane.accounts
    accounts.create_organisation(alice.id, "lab")
    carol = person("carol")
    for member, role in ((bob, Role.DEVELOPER), (carol, Role.VIEWER)):
        accounts.invite(alice.id, "lab", member.email, role)
        accounts.accept(member.id, small_scene.mails(member.email)[-1].link)
    keys = "/accounts/lab/keys"
    small_scene.key(alice.id, "lab")
    (hers,) = accounts.keys(alice.id, "lab")

    seen = bob.get(keys)
    assert "by alice@example.com" in seen.words
    assert f"{keys}/{hers.id}/revoke" not in seen.text
    answer = bob.submit(keys, f"{keys}/{hers.id}/revoke")
    assert answer.status == 403
    assert "account.role" in answer.words
    bob.submit(keys, keys, **FORM)
    (his,) = (one for one in accounts.keys(alice.id, "lab") if one.id != hers.id)
    assert f"{keys}/{his.id}/revoke" in bob.get(keys).text
    assert f"{keys}/{his.id}/revoke" in alice.get(keys).text

    refused = carol.get(keys)
    assert (refused.status, "account.role" in refused.words) == (403, True)
    assert hers.id not in refused.text

    dora = person("dora")
    unknown = dora.get("/accounts/nowhere/keys").words.replace("nowhere", "lab")
    for path in (keys, f"{keys}/{hers.id}/revoke"):
        answer = dora.get(path)
        assert (answer.status, answer.words) == (404, unknown)

    # A key of another account is no key of this one.
    answer = dora.submit("/accounts/dora/keys", f"/accounts/dora/keys/{hers.id}/revoke")
    assert "account.key_unknown" in answer.words
    assert dora.get(f"/accounts/dora/keys/{hers.id}/revoke").status == answer.status
    assert all(one.revoked_at is None for one in accounts.keys(alice.id, "lab"))
    accounts.remove_member(alice.id, "lab", bob.id)
    assert "by a former member" in alice.get(keys).words


def test_without_a_token_of_the_form_nothing_is_done(alice: Person, small_scene: CloudScene) -> None:
    small_scene.key(alice.id, "alice")
    (before,) = small_scene.plane.accounts.keys(alice.id, "alice")
    for path in (KEYS, f"{KEYS}/{before.id}/revoke"):
        answer = alice.post(path, FORM)
        assert (answer.status, "csrf.missing" in answer.words) == (403, True)
    assert small_scene.plane.accounts.keys(alice.id, "alice") == (before,)
