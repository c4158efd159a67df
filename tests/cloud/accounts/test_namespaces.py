"""Accounts are opened and closed; their names are given once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from account_world import Staff, World, new_name
from blindai.cloud import tables
from blindai.cloud.accounts import AccountQuotas, Action, Membership, Role
from blindai.cloud.accounts.namespaces import MAX_ORGANISATIONS
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded


def test_a_user_is_the_admin_of_their_own_account(world: World) -> None:
    name = new_name()
    user = world.user(name)
    assert world.accounts.memberships(user) == (Membership(name, "personal", "admin"),)
    assert world.accounts.require(user, name, Action.KEYS) is Role.ADMIN


def test_before_the_address_is_verified_there_is_nothing_to_work_with(world: World) -> None:
    name = new_name()
    user = world.user(name, verified=False)
    assert world.accounts.memberships(user) == ()
    with pytest.raises(InvalidInput) as caught:
        world.key(user, name)
    assert caught.value.code == "account.unknown"


def test_a_sign_up_that_was_not_finished_leaves_nothing(world: World) -> None:
    name = new_name()
    user = world.user(name, verified=False)
    with world.database.write() as connection:
        world.accounts.drop_unverified(connection, user)
        connection.execute(sa.delete(tables.users).where(tables.users.c.id == user))
    assert not world.rows(tables.namespaces, name=name)
    assert not world.rows(tables.audit, namespace=name)
    other = world.user(name)
    assert [entry.user for entry in world.accounts.audit(other, name)] == [other]


def test_an_account_in_use_is_no_unfinished_sign_up(world: World) -> None:
    name = new_name()
    user = world.user(name)
    with world.database.write() as connection:
        world.accounts.drop_unverified(connection, user)
    assert world.accounts.memberships(user)


def test_own_account_comes_first(world: World) -> None:
    user = world.user("zz" + new_name())
    made = sorted(world.organisation(user) for _ in range(2))
    assert [one.namespace for one in world.accounts.memberships(user)][1:] == made


def test_an_account_begins_with_the_quotas_of_the_day(world: World) -> None:
    quotas = AccountQuotas(models=3, model_bytes=5, requests_per_minute=7, requests_per_month=None)
    name = new_name()
    World(world.database, quotas=quotas).user(name)
    (row,) = world.rows(tables.namespaces, name=name)
    assert (row.max_models, row.max_bytes, row.per_minute, row.per_month) == (3, 5, 7, None)


@pytest.mark.parametrize("kind", ["personal", "organisation", "closed"])
def test_a_name_that_is_or_was_somebodys_is_taken(world: World, kind: str) -> None:
    owner, name = world.user(), new_name()
    if kind == "personal":
        world.user(name)
    else:
        world.organisation(owner, name)
    if kind == "closed":
        world.accounts.close(owner, name)
    with pytest.raises(InvalidInput) as caught:
        world.organisation(owner, name)
    assert caught.value.code == "account.taken"
    with pytest.raises(InvalidInput) as caught:
        world.user(name, email=f"{new_name()}@example.org")
    assert caught.value.code == "account.taken"
    assert len(world.rows(tables.namespaces, name=name)) == 1


def test_of_many_who_want_a_name_at_once_one_gets_it(world: World) -> None:
    users, name = [world.user() for _ in range(6)], new_name()

    def take(user: str) -> str:
        try:
            return world.organisation(user, name)
        except BlindAIError as error:
            return error.code

    with ThreadPoolExecutor(len(users)) as pool:
        results = list(pool.map(take, users))
    assert sorted(results) == sorted([name] + ["account.taken"] * 5)
    assert len(world.rows(tables.members, namespace=name)) == 1


def test_nobody_takes_all_names(world: World) -> None:
    user = world.user()
    for _ in range(MAX_ORGANISATIONS):
        # Closing them does not help: their names stay taken.
        world.accounts.close(user, world.organisation(user))
    with pytest.raises(QuotaExceeded) as caught:
        world.organisation(user)
    assert caught.value.code == "account.organisations"


def test_closing_ends_all_that_was_in_it(world: World) -> None:
    staff = world.staff()
    key = world.key(staff.developer, staff.namespace)
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.ADMIN)
    world.accounts.close(staff.admin, staff.namespace)
    for user in staff:
        with pytest.raises(InvalidInput) as caught:
            world.accounts.require(user, staff.namespace, Action.VIEW)
        assert caught.value.code == "account.unknown"
    (row,) = world.rows(tables.api_keys, id=key)
    assert row.revoked_at == int(world.clock())
    with pytest.raises(InvalidInput) as caught:
        world.accounts.accept(staff.stranger, link)
    assert caught.value.code == "account.invitation"
    assert [row.action for row in world.rows(tables.audit, namespace=staff.namespace)][-2:] == [
        "key.revoked",
        "account.closed",
    ]


def test_an_account_that_the_operator_closed_is_closed_to_its_members(world: World, standing: Staff) -> None:
    closed = world.staff()
    with world.database.write() as connection:
        connection.execute(
            sa.update(tables.namespaces).where(tables.namespaces.c.name == closed.namespace).values(closed_at=1)
        )
    assert len(world.accounts.memberships(closed.admin)) == 1
    with pytest.raises(InvalidInput) as caught:
        world.key(closed.admin, closed.namespace)
    assert caught.value.code == "account.unknown"
    assert len(world.accounts.memberships(standing.admin)) == 2


def test_a_personal_account_is_closed_when_its_user_leaves_and_not_before(world: World) -> None:
    name = new_name()
    user = world.user(name)
    with pytest.raises(InvalidInput) as caught:
        world.accounts.close(user, name)
    assert caught.value.code == "account.personal"
    key = world.key(user, name)
    with world.database.write() as connection:
        world.accounts.left(connection, user)
    assert world.rows(tables.namespaces, name=name)[0].closed_at is not None
    assert world.rows(tables.api_keys, id=key)[0].revoked_at is not None
    assert world.accounts.memberships(user) == ()
