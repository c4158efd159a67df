"""Members come, change and go, and their keys with them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier

import pytest
import sqlalchemy as sa

from account_world import Staff, World
from blindai.cloud import tables
from blindai.cloud.accounts import Action, Member, Role, members
from blindai.errors import BlindAIError, InvalidInput, PermissionDenied, QuotaExceeded
from blindai.web.database import retrying


def in_force(world: World, key: str) -> bool:
    return world.rows(tables.api_keys, id=key)[0].revoked_at is None


def test_members_are_listed_by_address(world: World) -> None:
    staff = world.staff()
    now = datetime.fromtimestamp(world.clock(), UTC)
    roles = {staff.admin: Role.ADMIN, staff.developer: Role.DEVELOPER, staff.viewer: Role.VIEWER}
    expected = [Member(user, world.email(user), role, now) for user, role in roles.items()]
    assert list(world.accounts.members(staff.viewer, staff.namespace)) == sorted(expected, key=lambda one: one.email)


@pytest.mark.parametrize("how", ["removed", "demoted", "gone by themselves", "left the cloud"])
def test_who_may_make_no_keys_any_more_loses_those_that_they_made(world: World, how: str) -> None:
    staff = world.staff()
    lost = [world.key(staff.developer, staff.namespace) for _ in range(2)]
    kept = world.key(staff.admin, staff.namespace)
    if how == "removed":
        world.accounts.remove_member(staff.admin, staff.namespace, staff.developer)
    elif how == "demoted":
        world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.VIEWER)
    elif how == "gone by themselves":
        world.accounts.remove_member(staff.developer, staff.namespace, staff.developer)
    else:
        with world.database.write() as connection:
            world.accounts.left(connection, staff.developer)
    assert not any(in_force(world, key) for key in lost)
    assert in_force(world, kept)
    revoked = world.rows(tables.audit, namespace=staff.namespace, action="key.revoked")
    assert {row.subject for row in revoked} == set(lost)


def test_promotion_and_a_role_that_one_has_leave_keys_alone(world: World) -> None:
    staff = world.staff()
    key = world.key(staff.developer, staff.namespace)
    before = len(world.rows(tables.audit, namespace=staff.namespace))
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.DEVELOPER)
    assert len(world.rows(tables.audit, namespace=staff.namespace)) == before
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)
    world.accounts.set_role(staff.developer, staff.namespace, staff.developer, Role.DEVELOPER)
    assert in_force(world, key)


def test_keys_of_a_member_in_other_accounts_are_left_alone(world: World) -> None:
    first, second = world.staff(), world.staff()
    link = world.invite(second.admin, second.namespace, world.email(first.developer), Role.DEVELOPER)
    world.accounts.accept(first.developer, link)
    key = world.key(first.developer, second.namespace)
    world.accounts.remove_member(first.admin, first.namespace, first.developer)
    assert in_force(world, key)


@pytest.mark.parametrize("how", ["demote", "remove"])
def test_the_last_admin_stays(world: World, how: str) -> None:
    staff = world.staff()
    acts: dict[str, Callable[[], None]] = {
        "demote": lambda: world.accounts.set_role(staff.admin, staff.namespace, staff.admin, Role.DEVELOPER),
        "remove": lambda: world.accounts.remove_member(staff.admin, staff.namespace, staff.admin),
    }
    with pytest.raises(InvalidInput) as caught:
        acts[how]()
    assert caught.value.code == "account.last_admin"
    with pytest.raises(InvalidInput) as caught, world.database.write() as connection:
        world.accounts.left(connection, staff.admin)
    assert caught.value.code == "account.last_admin"
    assert world.accounts.require(staff.admin, staff.namespace, Action.CLOSE) is Role.ADMIN
    # A refused departure has changed nothing, in their own account neither.
    assert len(world.accounts.memberships(staff.admin)) == 2


def test_of_two_admins_who_remove_each_other_at_once_one_stays(world: World) -> None:
    staff = world.staff()
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)

    def remove(pair: tuple[str, str]) -> str:
        try:
            world.accounts.remove_member(pair[0], staff.namespace, pair[1])
        except BlindAIError as error:
            return error.code
        return ""

    pairs = [(staff.admin, staff.developer), (staff.developer, staff.admin)]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, pairs)) == ["", "account.unknown"]
    assert len(world.rows(tables.members, namespace=staff.namespace, role="admin")) == 1


def test_of_two_admins_who_go_at_once_one_stays(world: World) -> None:
    staff = world.staff()
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)

    def go(user: str) -> str:
        try:
            world.accounts.remove_member(user, staff.namespace, user)
        except BlindAIError as error:
            return error.code
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(go, [staff.admin, staff.developer])) == ["", "account.last_admin"]


def test_of_two_admins_who_leave_the_cloud_at_once_one_stays(world: World) -> None:
    staff = world.staff()
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)
    both = Barrier(2)

    @retrying
    def leave(user: str) -> None:
        with world.database.write() as connection:
            world.accounts.left(connection, user)

    def outcome(user: str) -> str:
        both.wait()
        try:
            leave(user)
        except BlindAIError as error:
            return error.code
        return ""

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(outcome, [staff.admin, staff.developer])) == ["", "account.last_admin"]


@pytest.mark.parametrize(
    "member", ["", "user-aaaaaaaaaaaaaaaa", "' OR 1=1 --", "\x00", "\ud800", "user-\r\nSet-Cookie"]
)
def test_who_is_no_member_has_no_role(world: World, standing: Staff, member: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.accounts.set_role(standing.admin, standing.namespace, member, Role.ADMIN)
    assert caught.value.code == "account.member_unknown"
    with pytest.raises(InvalidInput) as caught:
        world.accounts.remove_member(standing.admin, standing.namespace, member)
    assert caught.value.code == "account.member_unknown"


def test_a_member_of_another_account_is_no_member_here(world: World) -> None:
    staff, other = world.staff(), world.staff()
    with pytest.raises(InvalidInput) as caught:
        world.accounts.remove_member(staff.admin, staff.namespace, other.developer)
    assert caught.value.code == "account.member_unknown"
    assert len(world.accounts.members(other.admin, other.namespace)) == 3


def test_a_personal_account_has_one_member(world: World) -> None:
    user = world.user()
    name = world.accounts.memberships(user)[0].namespace
    acts: tuple[Callable[[], object], ...] = (
        lambda: world.accounts.invite(user, name, "bob@example.org", Role.VIEWER),
        lambda: world.accounts.set_role(user, name, user, Role.VIEWER),
        lambda: world.accounts.remove_member(user, name, user),
    )
    for act in acts:
        with pytest.raises(InvalidInput) as caught:
            act()
        assert caught.value.code == "account.personal"


def test_only_an_admin_removes_others(world: World) -> None:
    staff = world.staff()
    for user in (staff.viewer, staff.developer):
        with pytest.raises(PermissionDenied) as caught:
            world.accounts.remove_member(user, staff.namespace, staff.admin)
        assert caught.value.code == "account.role"


def test_an_organisation_has_so_many_members(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.VIEWER)
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    acts: tuple[Callable[[], object], ...] = (
        lambda: world.accounts.accept(staff.stranger, link),
        lambda: world.invite(staff.admin, staff.namespace, "bob@example.org", Role.VIEWER),
    )
    for act in acts:
        with pytest.raises(QuotaExceeded) as caught:
            act()
        assert caught.value.code == "account.members"


def test_who_left_is_called_by_their_id(world: World) -> None:
    staff = world.staff()
    world.accounts.remove_member(staff.admin, staff.namespace, staff.developer)
    email = world.email(staff.developer)
    world.accounts.accept(staff.developer, world.invite(staff.admin, staff.namespace, email, Role.DEVELOPER))
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)
    assert any(email in entry.subject for entry in world.accounts.audit(staff.admin, staff.namespace))
    with world.database.write() as connection:
        world.accounts.left(connection, staff.developer)
        connection.execute(
            sa.update(tables.users).where(tables.users.c.id == staff.developer).values(email=None, left_at=1)
        )
    log = world.accounts.audit(staff.admin, staff.namespace)
    assert not any(email in entry.subject or entry.email == email for entry in log)
    assert f"developer {staff.developer}" in [entry.subject for entry in log if entry.action == "member.invited"]
    assert f"admin {staff.developer}" in [entry.subject for entry in log if entry.action == "member.role"]
