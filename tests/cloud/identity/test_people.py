"""What is kept about somebody, and their leave."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from account_world import new_name
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.errors import BlindAIError
from blindai.wire.cloud_api import NewKey
from people_world import OTHER, PASSWORD, PeopleWorld, code_of


def test_an_export_has_everything_about_a_user_and_no_secret(world: PeopleWorld) -> None:
    name = new_name("alice")
    user, another = world.user(name=name), world.user()
    session, token = world.sign_in(user), world.token(user)
    passkey = world.add_passkey(user, session, "my phone")
    world.token(another, "theirs")
    key = world.accounts.create_key(user.id, name, NewKey(name="my key"))
    world.people.request_reset(user.email, address=world.place)
    kept = world.people.export(user.id)
    assert kept["user"]["email"] == user.email
    assert [one["id"] for one in kept["passkeys"]] == [passkey]
    assert [one["name"] for one in kept["command_lines"]] == ["laptop"]
    assert [one["id"] for one in kept["api_keys"]] == [key.entry.id]
    assert [one["namespace"] for one in kept["memberships"]] == [name]
    assert [one["purpose"] for one in kept["links"]] == ["reset"]
    assert len(kept["sessions"]) == 1
    assert {"user.verified", "user.passkey_added", "user.device_approved"} <= {one["action"] for one in kept["log"]}
    text = json.dumps(kept)
    assert kept["user"]["created_at"] == "2027-01-15T08:00:00+00:00"
    assert another.email not in text
    with world.database.read() as connection:
        stored = connection.execute(sa.select(tables.users.c.password).where(tables.users.c.id == user.id)).scalar_one()
    for secret in (session.id, token, key.api_key, world.link(user.email), stored, PASSWORD):
        assert secret not in text


def test_every_table_that_knows_a_user_is_in_the_export(world: PeopleWorld) -> None:
    """A new table with a column for users must be thought of here."""
    told = {
        "users",
        "passkeys",
        "links",
        "access_tokens",
        "device_grants",
        "members",
        "invitations",
        "api_keys",
        "audit",
    }
    columns = {"user", "email", "created_by", "invited_by"}
    assert {table.name for table in tables.metadata.tables.values() if columns & set(table.c.keys())} == told
    kept = world.people.export(world.user().id)
    assert len(kept) == len(told) + 1  # and the sessions, whose column is `account`


def test_whoever_leaves_is_out_at_once_and_nothing_of_them_is_left(world: PeopleWorld) -> None:
    user = world.user()
    session, token = world.sign_in(user), world.token(user)
    world.add_passkey(user, session)
    world.people.request_reset(user.email, address=world.place)
    reset = world.link(user.email)
    approved = world.people.device_codes("laptop", address=world.place)
    world.people.decide_device(user.id, approved.user_code, True)
    world.people.leave(user.id, confirm_email=f" {user.email.upper()}")
    assert world.people.user_of(session.id) is None
    assert world.people.user_of_token(token) is None
    assert code_of(world.sign_in, user) == "authentication.password"
    assert code_of(world.sign_in_passkey) == "authentication.passkey"
    assert code_of(world.people.reset, reset, OTHER) == "identity.link"
    assert code_of(world.people.device_token, approved.device_code) == "device.expired_token"
    assert code_of(world.people.export, user.id) == "identity.unknown"
    for call in (
        lambda: world.people.leave(user.id, confirm_email=user.email),
        lambda: world.people.change_password(user.id, PASSWORD, OTHER, keep=session.id),
        lambda: world.people.add_passkey_options(user.id, session.id),
        lambda: world.people.device_grant("BCDF-GHJK", user_id=user.id),
    ):
        assert code_of(call) == "identity.unknown"
    assert world.mails(user.email)[-1] == "You have left"
    with world.database.read() as connection:
        own = sa.select(tables.audit.c.action).where(tables.audit.c.user == user.id, tables.audit.c.namespace.is_(None))
        assert connection.execute(own).scalars().all() == ["user.left"]
        for table in tables.metadata.tables.values():
            for row in connection.execute(sa.select(table)):
                assert not any(user.email in str(value) for value in row), table.name


def test_the_address_of_somebody_who_left_can_sign_up_again_as_somebody_else(world: PeopleWorld) -> None:
    name = new_name("alice")
    user = world.user(name=name)
    world.people.leave(user.id, confirm_email=user.email)
    assert code_of(world.sign_up, user.email, name) == "account.taken"
    again = world.user(user.email)
    assert again.id != user.id
    assert len(world.accounts.memberships(again.id)) == 1


@pytest.mark.parametrize("typed", ["", "yes", "bob@example.org", "\x00"])
def test_nobody_leaves_by_mistake(world: PeopleWorld, typed: str) -> None:
    user = world.user()
    session = world.sign_in(user)
    assert code_of(world.people.leave, user.id, confirm_email=typed) == "identity.confirmation"
    assert world.people.user_of(session.id) == user


def test_the_last_admin_of_others_cannot_leave(world: PeopleWorld) -> None:
    user, member = world.user(), world.user()
    team = new_name("team")
    world.accounts.create_organisation(user.id, team)
    world.accounts.invite(user.id, team, member.email, Role.VIEWER)
    world.accounts.accept(member.id, world.link(member.email))
    session = world.sign_in(user)
    with pytest.raises(BlindAIError) as caught:
        world.people.leave(user.id, confirm_email=user.email)
    assert caught.value.code == "account.last_admin"
    assert world.people.user_of(session.id) == user
    world.sign_in(user)
    world.accounts.set_role(user.id, team, member.id, Role.ADMIN)
    world.people.leave(user.id, confirm_email=user.email)
