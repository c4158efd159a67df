"""Keys are made, shown once, kept as digests, and revoked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from account_world import World
from blindai.cloud import tables
from blindai.cloud.accounts import Role, keys
from blindai.errors import BlindAIError, InvalidInput, PermissionDenied, QuotaExceeded, Unavailable
from blindai.wire.api_key import ApiKey
from blindai.wire.cloud import Scope
from blindai.wire.cloud_api import NewKey


@pytest.fixture
def own(world: World) -> tuple[str, str]:
    """A user, and their own account."""
    user = world.user()
    return user, world.accounts.memberships(user)[0].namespace


def test_a_key_is_shown_once_and_kept_as_a_digest(world: World, own: tuple[str, str]) -> None:
    new = NewKey(name="laptop", scopes=(Scope.UPLOAD, Scope.QUERY, Scope.QUERY), expires_in_days=30)
    created = world.accounts.create_key(*own, new)
    key = ApiKey.parse(created.api_key)
    now = datetime.fromtimestamp(world.clock(), UTC)
    entry = created.entry
    assert (entry.id, entry.namespace, entry.name, entry.scopes) == (key.id, own[1], "laptop", ("query", "upload"))
    assert (entry.created_at, entry.expires_at) == (now, now + timedelta(days=30))
    assert (entry.used_at, entry.revoked_at, entry.made_by) == (None, None, own[0])
    assert world.accounts.keys(*own) == (entry,)
    (row,) = world.rows(tables.api_keys, id=key.id)
    assert row.digest == key.digest
    assert created.api_key not in repr(created)


def test_the_newest_key_comes_first(world: World, own: tuple[str, str]) -> None:
    made = []
    for _ in range(3):
        made.append(world.key(*own))
        world.clock.now += 1
    assert [entry.id for entry in world.accounts.keys(*own)] == made[::-1]


def test_revoking_twice_is_revoking_once(world: World, own: tuple[str, str]) -> None:
    key = world.key(*own)
    first = world.accounts.revoke_key(*own, key)
    assert first.revoked_at == datetime.fromtimestamp(world.clock(), UTC)
    world.clock.now += 100
    assert world.accounts.revoke_key(*own, key) == first
    assert len(world.rows(tables.audit, namespace=own[1], action="key.revoked")) == 1


def test_a_developer_revokes_their_own_and_an_admin_all(world: World) -> None:
    staff = world.staff()
    of_developer = world.key(staff.developer, staff.namespace)
    of_admin = world.key(staff.admin, staff.namespace)
    with pytest.raises(PermissionDenied) as caught:
        world.accounts.revoke_key(staff.developer, staff.namespace, of_admin)
    assert caught.value.code == "account.role"
    assert world.accounts.revoke_key(staff.developer, staff.namespace, of_developer).revoked_at is not None
    again = world.key(staff.developer, staff.namespace)
    assert world.accounts.revoke_key(staff.admin, staff.namespace, again).revoked_at is not None


@pytest.mark.parametrize(
    "key_id", ["", "bai_sk_", "bai_sk_00000000", "' OR 1=1 --", "\x00", "\ud800", "bai_sk_0000000\n"]
)
def test_what_is_no_key_is_unknown(world: World, own: tuple[str, str], key_id: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.accounts.revoke_key(*own, key_id)
    assert caught.value.code == "account.key_unknown"


def test_the_key_of_another_account_is_unknown_even_to_an_admin(world: World, own: tuple[str, str]) -> None:
    staff = world.staff()
    key = world.key(staff.admin, staff.namespace)
    with pytest.raises(InvalidInput) as caught:
        world.accounts.revoke_key(*own, key)
    assert caught.value.code == "account.key_unknown"
    assert world.rows(tables.api_keys, id=key)[0].revoked_at is None


@pytest.mark.parametrize(
    "asked",
    [
        {"name": ""},
        {"name": " "},
        {"name": "x" * 65},
        {"name": "a\r\nSet-Cookie: x"},
        {"name": "a\x00"},
        {"name": "\ud800"},
        {"name": "lap\u202etop"},
        {"name": "lap\u200btop"},
        {"name": None},
        {"name": "x", "scopes": ()},
        {"name": "x", "scopes": ("admin",)},
        {"name": "x", "scopes": ("query",) * 4},
        {"name": "x", "scopes": "query"},
        {"name": "x", "expires_in_days": 0},
        {"name": "x", "expires_in_days": -1},
        {"name": "x", "expires_in_days": 3651},
        {"name": "x", "expires_in_days": 10**30},
    ],
    ids=ascii,
)
def test_what_no_key_can_be_is_refused(world: World, own: tuple[str, str], asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.accounts.create_key(*own, NewKey(**asked))
    assert caught.value.code == "account.key_request"
    assert world.accounts.keys(*own) == ()


@pytest.mark.parametrize(
    "name", ["'; DROP TABLE api_keys; --", "<script>alert(1)</script>", "%s %n {0} ${x}", "\u540d\u524d"]
)
def test_other_names_are_kept_as_they_are(world: World, own: tuple[str, str], name: str) -> None:
    world.key(*own, name=name)
    assert [entry.name for entry in world.accounts.keys(*own)] == [name]


def test_a_key_is_no_name_of_a_key(world: World, own: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.key(*own, name=f"my {ApiKey.new().text}")
    assert caught.value.code == "account.key_request"


def test_ids_that_clash_are_drawn_again(world: World, own: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = ApiKey.parse(world.accounts.create_key(*own, NewKey(name="first")).api_key)
    second = ApiKey.new()
    drawn: Iterator[ApiKey] = iter([first, first, second])
    monkeypatch.setattr(ApiKey, "new", lambda: next(drawn))
    assert world.accounts.create_key(*own, NewKey(name="second")).api_key == second.text
    assert {entry.name: entry.id for entry in world.accounts.keys(*own)} == {"first": first.id, "second": second.id}


def test_ids_that_clash_always_are_an_error_and_leave_nothing(
    world: World, own: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ApiKey.parse(world.accounts.create_key(*own, NewKey(name="first")).api_key)
    monkeypatch.setattr(ApiKey, "new", lambda: first)
    with pytest.raises(Unavailable):
        world.key(*own)
    assert len(world.accounts.keys(*own)) == len(world.rows(tables.audit, namespace=own[1], action="key.created")) == 1


def test_an_account_has_so_many_keys_in_force(
    world: World, own: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    made = [world.key(*own, expires_in_days=1), world.key(*own), world.key(*own)]
    with pytest.raises(QuotaExceeded) as caught:
        world.key(*own)
    assert caught.value.code == "account.keys"
    world.accounts.revoke_key(*own, made[1])
    world.key(*own)
    world.clock.now += 24 * 3600  # the first one has expired
    world.key(*own)
    with pytest.raises(QuotaExceeded):
        world.key(*own)


def test_keys_made_and_revoked_in_a_loop_do_not_pile_up(
    world: World, own: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEPT", 4)
    kept = world.key(*own, name="in use")
    made = []
    for _ in range(6):
        world.clock.now += 1
        made.append(world.key(*own))
        world.accounts.revoke_key(*own, made[-1])
    assert [entry.id for entry in world.accounts.keys(*own)] == [*made[:-4:-1], kept]


def test_a_key_that_is_made_beside_a_demotion_is_revoked_or_refused(world: World) -> None:
    """The account is locked before the role is read."""
    staff = world.staff()

    def make() -> str:
        try:
            return world.key(staff.developer, staff.namespace)
        except BlindAIError as error:
            return error.code

    for _ in range(5):
        world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.DEVELOPER)
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(make) for _ in range(3)]
            pool.submit(world.accounts.set_role, staff.admin, staff.namespace, staff.developer, Role.VIEWER).result()
        assert {one.result() for one in made if not one.result().startswith("bai_sk_")} <= {"account.role"}
        assert not [row for row in world.rows(tables.api_keys, namespace=staff.namespace) if row.revoked_at is None]
