"""Every change is in the log, no secret is, and no stranger reads it."""

from __future__ import annotations

import pytest

from account_world import World, everything_in, new_name
from blindai.cloud import tables
from blindai.cloud.accounts import Role
from blindai.cloud.accounts.audit import MAX_ENTRIES, MAX_SUBJECT
from blindai.wire.api_key import ApiKey


def test_every_change_is_in_the_log(world: World) -> None:
    staff = world.staff()
    email = world.email(staff.stranger)
    new = world.user()
    world.accounts.accept(new, world.invite(staff.admin, staff.namespace, world.email(new), Role.VIEWER))
    key = world.key(staff.developer, staff.namespace)
    world.invite(staff.admin, staff.namespace, email, Role.VIEWER)
    world.accounts.withdraw(staff.admin, staff.namespace, email)
    world.accounts.set_role(staff.admin, staff.namespace, staff.viewer, Role.DEVELOPER)
    world.accounts.revoke_key(staff.developer, staff.namespace, key)
    world.accounts.remove_member(staff.admin, staff.namespace, staff.viewer)
    log = world.accounts.audit(staff.admin, staff.namespace)[::-1]
    viewer = world.email(staff.viewer)
    assert [(entry.user, entry.action, entry.subject) for entry in log] == [
        (staff.admin, "organisation.opened", staff.namespace),
        (staff.developer, "member.joined", "developer"),
        (staff.viewer, "member.joined", "viewer"),
        (staff.admin, "member.invited", f"viewer {world.email(new)}"),
        (new, "member.joined", "viewer"),
        (staff.developer, "key.created", key),
        (staff.admin, "member.invited", f"viewer {email}"),
        (staff.admin, "invitation.withdrawn", f"viewer {email}"),
        (staff.admin, "member.role", f"developer {viewer}"),
        (staff.developer, "key.revoked", key),
        (staff.admin, "member.removed", viewer),
    ]
    assert log[0].email == world.email(staff.admin)


def test_the_log_is_read_page_by_page(world: World) -> None:
    name = new_name()
    user = world.user(name)
    made = [world.key(user, name) for _ in range(5)]
    first = world.accounts.audit(user, name, limit=2)
    rest = world.accounts.audit(user, name, before=first[-1].id, limit=1000)
    assert [entry.subject for entry in (*first, *rest)] == [*made[::-1], name]
    assert world.accounts.audit(user, name, before=rest[-1].id) == ()
    assert world.accounts.audit(user, name, limit=-1) == ()
    assert world.accounts.audit(user, name, before=-(10**30)) == ()
    assert len(world.accounts.audit(user, name, before=10**30)) == 6
    assert MAX_ENTRIES < 1000


def test_what_is_noted_is_harmless_and_fits(world: World) -> None:
    name = new_name()
    user = world.user(name)
    key = ApiKey.new()
    with world.database.write() as connection:
        world.accounts.note(connection, name, user, "signed.in", f"\x1b[2J{key.text}\r\n" + "x" * 400)
        world.accounts.note(connection, None, None, "nothing", "'; DROP TABLE audit; --")
    (entry,) = world.accounts.audit(user, name, limit=1)
    assert entry.subject.startswith(f"?[2J{key.id}??x")
    assert len(entry.subject) == MAX_SUBJECT
    assert key.text not in everything_in(world.database)
    with pytest.raises(ValueError, match="32"), world.database.write() as connection:
        world.accounts.note(connection, name, user, "x" * 33, "")


def test_no_secret_is_in_any_column(world: World) -> None:
    staff = world.staff()
    world.key(staff.developer, staff.namespace)
    world.accounts.revoke_key(staff.admin, staff.namespace, world.key(staff.admin, staff.namespace))
    world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.ADMIN)
    everything = everything_in(world.database)
    assert len(world.secrets) == 3
    assert staff.namespace in everything
    for secret in world.secrets:
        assert secret not in everything
        # Of a key its id, which has eight of the random characters, and no more of them.
        assert secret[20:] not in everything


def test_a_change_that_is_refused_leaves_no_entry(world: World) -> None:
    staff = world.staff()
    before = len(world.rows(tables.audit))
    with pytest.raises(Exception, match="last admin"):
        world.accounts.remove_member(staff.admin, staff.namespace, staff.admin)
    assert len(world.rows(tables.audit)) == before
