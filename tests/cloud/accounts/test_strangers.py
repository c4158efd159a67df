"""Whoever guesses the name of an account learns nothing: every method, every role, against an account that is not."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from account_world import Staff, World, everything_in, new_name, prepared
from blindai.cloud.accounts import Accounts, Action, Role, namespaces
from blindai.errors import BlindAIError
from blindai.web.database import Database
from blindai.wire.cloud_api import NewKey
from postgresql import PostgreSQL

Method = Callable[[Accounts, str, str, Staff, str], object]

# Method to what it does, and the roles that may. `key` was made by the admin.
METHODS: dict[str, tuple[Method, tuple[str, ...]]] = {
    "require": (lambda a, user, ns, staff, key: a.require(user, ns, Action.VIEW), ("viewer", "developer", "admin")),
    "members": (lambda a, user, ns, staff, key: a.members(user, ns), ("viewer", "developer", "admin")),
    "keys": (lambda a, user, ns, staff, key: a.keys(user, ns), ("developer", "admin")),
    "create_key": (lambda a, user, ns, staff, key: a.create_key(user, ns, NewKey(name="x")), ("developer", "admin")),
    "revoke_key": (lambda a, user, ns, staff, key: a.revoke_key(user, ns, key), ("admin",)),
    "audit": (lambda a, user, ns, staff, key: a.audit(user, ns), ("admin",)),
    "invitations": (lambda a, user, ns, staff, key: a.invitations(user, ns), ("admin",)),
    "invite": (lambda a, user, ns, staff, key: a.invite(user, ns, "bob@example.org", Role.VIEWER), ("admin",)),
    "withdraw": (lambda a, user, ns, staff, key: a.withdraw(user, ns, "eve@example.org"), ("admin",)),
    "set_role": (lambda a, user, ns, staff, key: a.set_role(user, ns, staff.developer, Role.VIEWER), ("admin",)),
    "remove_member": (lambda a, user, ns, staff, key: a.remove_member(user, ns, staff.viewer), ("viewer", "admin")),
    "close": (lambda a, user, ns, staff, key: a.close(user, ns), ("admin",)),
}

WITHOUT_ACCOUNT = {"open_personal", "drop_unverified", "create_organisation", "memberships", "accept", "left", "note"}

NO_ACCOUNTS = ["", "\x00", "\ud800", "' OR '1'='1", "a/../b", "<script>alert(1)</script>", "x\r\nSet-Cookie: a=b"]


def test_the_table_has_every_method() -> None:
    public = {name for name in vars(Accounts) if not name.startswith("_")}
    assert public == METHODS.keys() | WITHOUT_ACCOUNT


@dataclass(frozen=True)
class House:
    """An account with a key of its admin's and an open invitation; what is refused does not change it."""

    world: World
    staff: Staff
    key: str

    @classmethod
    def built(cls, database: Database) -> House:
        world = World(database)
        staff = world.staff()
        world.invite(staff.admin, staff.namespace, "eve@example.org", Role.VIEWER)
        return cls(world, staff, world.key(staff.admin, staff.namespace))

    def outcome(self, method: str, user: str, namespace: str) -> tuple[str, str]:
        """Code and words of the refusal, empty where there was none."""
        try:
            METHODS[method][0](self.world.accounts, user, namespace, self.staff, self.key)
        except BlindAIError as error:
            return error.code, str(error).replace(namespace, "NAME")
        return "", ""


@pytest.fixture(scope="module")
def house(shared_database: Database) -> House:
    return House.built(shared_database)


@pytest.mark.parametrize(("method", "role"), [(method, role) for method in METHODS for role in METHODS[method][1]])
def test_a_role_may_do_what_the_table_says(shared_database: Database, method: str, role: str) -> None:
    house = House.built(shared_database)
    assert house.outcome(method, getattr(house.staff, role), house.staff.namespace) == ("", "")


@pytest.mark.parametrize("method", METHODS)
def test_no_other_role_may(house: House, method: str) -> None:
    before = everything_in(house.world.database)
    for role in ("viewer", "developer"):
        if role not in METHODS[method][1]:
            code, _ = house.outcome(method, getattr(house.staff, role), house.staff.namespace)
            assert code == "account.role"
    assert everything_in(house.world.database) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_stranger_is_answered_as_if_there_were_no_account(house: House, method: str) -> None:
    before = everything_in(house.world.database)
    code, words = house.outcome(method, house.staff.stranger, house.staff.namespace)
    assert code == "account.unknown"
    assert house.outcome(method, house.staff.stranger, new_name()) == (code, words)
    assert everything_in(house.world.database) == before


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_name_is_the_name_of_no_account(house: House, method: str) -> None:
    for name in NO_ACCOUNTS:
        with pytest.raises(BlindAIError) as caught:
            METHODS[method][0](house.world.accounts, house.staff.admin, name, house.staff, house.key)
        assert caught.value.code == "account.unknown"
        assert not name or name not in str(caught.value)


def test_a_stranger_makes_nobody_wait_and_waits_for_nobody(postgresql: PostgreSQL) -> None:
    """A change locks the account; whoever is no member is refused before that."""
    url = postgresql.create()
    database = prepared(url)
    house = House.built(database)
    with database.write() as connection:
        namespaces.lock_account(connection, house.staff.namespace)
        with ThreadPoolExecutor(1) as pool:
            for method in METHODS:
                # One that waited would be refused with `unavailable.database_contended` in the end.
                outcome = pool.submit(house.outcome, method, house.staff.stranger, house.staff.namespace)
                assert outcome.result()[0] == "account.unknown"
    database.dispose()
    postgresql.drop(url)
