"""Signing in by password, sessions, and their end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from account_world import new_name
from blindai.cloud import tables
from blindai.cloud.identity.rates import MAILS
from blindai.errors import AuthenticationError
from blindai.web.sessions import IDLE_SECONDS, LIFETIME_SECONDS, TOUCH_SECONDS
from blindai.web.throttle import ACCOUNT, PAIR, Throttled
from people_world import OTHER, PASSWORD, PeopleWorld, code_of


@pytest.mark.parametrize("kind", ["unknown", "no address", "unverified", "left", "passkey only", "wrong password"])
def test_a_sign_in_that_fails_has_one_answer_and_one_price(world: PeopleWorld, kind: str) -> None:
    email, password = world.address(), PASSWORD
    match kind:
        case "no address":
            email = "no address of anybody\x00\u202e"
        case "unverified":
            world.sign_up(email)
            password = OTHER
        case "left":
            world.people.leave(world.user(email).id, confirm_email=email)
        case "passkey only":
            email = world.passkey_user().email
        case "wrong password":
            world.user(email)
            password = OTHER
    sent = len(world.mail.sent)
    world.passwords.work.clear()
    with pytest.raises(AuthenticationError) as caught:
        world.people.sign_in(email, password, address=world.place)
    assert (caught.value.code, caught.value.message) == (
        "authentication.password",
        "the name or the password is wrong",
    )
    assert world.passwords.work == ["verify"]
    assert len(world.mail.sent) == sent


def test_an_address_is_the_same_in_capitals(world: PeopleWorld) -> None:
    user = world.user()
    assert world.people.sign_in(f" {user.email.upper()} ", PASSWORD, address=world.place).account == user.id


def test_a_session_is_dead_after_its_sign_out(world: PeopleWorld) -> None:
    user = world.user()
    session, other = world.sign_in(user), world.sign_in(user)
    world.people.sign_out(session.id)
    assert world.people.user_of(session.id) is None
    world.people.touch(session.id)
    assert world.people.user_of(session.id) is None
    assert world.people.user_of(other.id) == user
    world.people.sign_out(session.id)


def test_signing_out_everywhere_takes_command_lines_along(world: PeopleWorld) -> None:
    user, another = world.user(), world.user()
    sessions, token = [world.sign_in(user).id for _ in range(3)], world.token(user)
    theirs, their_token = world.sign_in(another).id, world.token(another)
    world.people.sign_out_everywhere(user.id)
    assert [world.people.user_of(session) for session in sessions] == [None] * 3
    assert world.people.user_of_token(token) is None
    assert world.people.user_of(theirs) == another == world.people.user_of_token(their_token)


def test_a_session_ends_when_nobody_uses_it_and_after_a_day_of_work(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    begun = world.clock.now
    while world.clock.now + IDLE_SECONDS - 1 < begun + LIFETIME_SECONDS:
        world.clock.now += IDLE_SECONDS - 1
        assert world.people.user_of(session.id) == user
        world.people.touch(session.id)
    world.clock.now = begun + LIFETIME_SECONDS
    assert world.people.user_of(session.id) is None
    idle = world.sign_in(user)
    world.clock.now += IDLE_SECONDS
    assert world.people.user_of(idle.id) is None


def test_to_look_at_a_session_writes_nothing_and_to_touch_it_once_a_minute(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)

    def seen() -> int:
        with world.database.read() as connection:
            query = sa.select(tables.sessions.c.seen_at).where(tables.sessions.c.account == user.id)
            return int(connection.execute(query).scalar_one())

    begun = seen()
    world.clock.now += TOUCH_SECONDS - 1
    world.people.touch(session.id)
    assert seen() == begun
    world.clock.now += 1
    world.people.user_of(session.id)
    assert seen() == begun
    world.people.touch(session.id)
    assert seen() == begun + TOUCH_SECONDS


@pytest.mark.parametrize("session", ["", "x", "\udcff", "x" * 10_000])
def test_a_session_that_never_began_is_nobodys(world: PeopleWorld, session: str) -> None:
    assert world.people.user_of(session) is None
    world.people.touch(session)
    world.people.sign_out(session)


@pytest.mark.parametrize("known", [False, True])
def test_guessing_is_slow_for_addresses_that_are_known_and_for_others(world: PeopleWorld, known: bool) -> None:
    email = world.user().email if known else world.address()
    for _ in range(PAIR.failures):
        assert code_of(world.people.sign_in, email, OTHER, address=world.place) == "authentication.password"
    world.passwords.work.clear()
    with pytest.raises(Throttled) as caught:
        world.people.sign_in(email.upper(), PASSWORD, address=world.place)
    assert (caught.value.code, caught.value.retry_after) == ("authentication.throttled", 1)
    assert world.passwords.work == []


def test_many_places_that_guess_do_not_lock_the_owner_out(world: PeopleWorld) -> None:
    user = world.user()
    world.sign_in(user)
    for _ in range(ACCOUNT.failures):
        assert code_of(world.people.sign_in, user.email, OTHER, address=new_name("bot")) == "authentication.password"
    assert code_of(world.people.sign_in, user.email, PASSWORD, address="elsewhere") == "authentication.throttled"
    world.sign_in(user)


def test_no_secret_of_a_session_or_password_is_kept(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    secrets = (session.id, world.token(user), PASSWORD)
    with world.database.read() as connection:
        for table in tables.metadata.tables.values():
            for row in connection.execute(sa.select(table)):
                assert not any(secret in str(value) for value in row for secret in secrets), table.name


def test_a_password_that_changes_while_it_is_checked_is_the_old_one(
    world: PeopleWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = world.user()
    session = world.sign_in(user)
    world.people.request_reset(user.email, address=world.place)
    link, verify = world.link(user.email), world.passwords.verify

    def meanwhile(stored: str | None, password: str) -> str | None:
        monkeypatch.undo()
        checked = verify(stored, password)
        world.people.reset(link, OTHER)
        return checked

    monkeypatch.setattr(world.passwords, "verify", meanwhile)
    assert code_of(world.sign_in, user) == "authentication.password"
    assert world.people.user_of(session.id) is None
    world.people.request_reset(user.email, address=world.place)
    link = world.link(user.email)
    monkeypatch.setattr(world.passwords, "verify", meanwhile)
    changed = code_of(world.people.change_password, user.id, OTHER, f"{OTHER} again", keep="")
    assert changed == "authentication.password"


def test_whoever_signs_in_unverified_again_and_again_gets_so_many_mails(world: PeopleWorld) -> None:
    email = world.sign_up()
    for _ in range(MAILS.size + 1):
        assert code_of(world.people.sign_in, email, PASSWORD, address=world.place) == "identity.unverified"
    assert len(world.mails(email)) == MAILS.size


@pytest.fixture
def hash_of(world: PeopleWorld) -> Callable[[str], str]:
    def hash_of(user_id: str) -> str:
        with world.database.read() as connection:
            query = sa.select(tables.users.c.password).where(tables.users.c.id == user_id)
            return str(connection.execute(query).scalar_one())

    return hash_of


def test_an_old_hash_is_made_anew_at_the_sign_in(world: PeopleWorld, hash_of: Callable[[str], str]) -> None:
    from argon2 import PasswordHasher

    user = world.user()
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    with world.database.write() as connection:
        connection.execute(sa.update(tables.users).where(tables.users.c.id == user.id).values(password=old))
    world.sign_in(user)
    assert "m=8,t=1" in hash_of(user.id)
    world.sign_in(user)
