"""Signing up: what is told to whom, and what becomes of sign-ups that are not finished."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from account_world import SITE, new_name
from blindai.cloud import tables
from blindai.cloud.identity.links import LIFETIME_SECONDS, Purpose
from blindai.cloud.identity.rates import MAILS, SIGN_UPS
from blindai.errors import BlindAIError, InvalidInput, PermissionDenied
from blindai.web.throttle import Throttled
from people_world import OTHER, PASSWORD, PeopleWorld, code_of

DAY = LIFETIME_SECONDS[Purpose.VERIFY]


def test_somebody_signs_up_and_in(world: PeopleWorld) -> None:
    name = new_name("alice")
    email = world.sign_up(world.address().upper(), name).lower()
    (mail,) = (one for one in world.mail.sent if one.to == email)
    assert mail.subject == f"{SITE.name}: Confirm your address"
    assert name in mail.text
    assert f"{SITE.url}/verify?link=" in mail.text
    assert PASSWORD not in mail.text
    user = world.people.verify(world.link(email))
    assert (user.email, user.verified, user.has_password) == (email, True, True)
    assert [one.namespace for one in world.accounts.memberships(user.id)] == [name]
    assert world.people.user_of(world.sign_in(user).id) == user


def test_before_the_mail_is_answered_nobody_can_sign_in(world: PeopleWorld) -> None:
    email = world.sign_up()
    with pytest.raises(PermissionDenied) as caught:
        world.people.sign_in(email, PASSWORD, address=world.place)
    assert caught.value.code == "identity.unverified"
    # With another password, nobody hears that the address has signed up.
    assert code_of(world.people.sign_in, email, OTHER, address=world.place) == "authentication.password"
    # The right one sent the link again, and both are good until one is used.
    assert world.mails(email) == ["Confirm your address"] * 2
    second = world.link(email)
    world.mail.sent.pop()
    world.people.verify(world.link(email))
    assert code_of(world.people.verify, second) == "identity.link"
    world.people.sign_in(email, PASSWORD, address=world.place)


def outcome(call: Callable[[], object]) -> str:
    try:
        return repr(call())
    except BlindAIError as error:
        return f"{error.code}: {error.message} {error.hint}"


@pytest.mark.parametrize("taken", [False, True], ids=["free name", "taken name"])
@pytest.mark.parametrize("known", ["unknown", "unverified", "verified"])
def test_a_sign_up_does_not_tell_whether_the_address_is_known(world: PeopleWorld, known: str, taken: bool) -> None:
    email = world.address()
    if known != "unknown":
        world.sign_up(email)
    if known == "verified":
        world.people.verify(world.link(email))
    other = new_name("other")
    world.sign_up(name=other)
    name = other if taken else new_name("fresh")
    sent = len(world.mail.sent)
    world.passwords.work.clear()
    said = outcome(lambda: world.people.sign_up(email, PASSWORD, name, address=world.place))
    assert said == (f"account.taken: the name {name} is taken choose another name" if taken else "None")
    assert world.passwords.work == ["hash"]
    assert len(world.mail.sent) - sent == (0 if taken else 1)


def test_whoever_has_signed_up_before_reads_so_in_the_mail(world: PeopleWorld) -> None:
    user = world.user()
    name = new_name("second")
    world.sign_up(user.email, name, OTHER)
    assert world.mails(user.email) == ["Confirm your address", "You have signed up before"]
    assert code_of(world.people.sign_in, user.email, OTHER, address=world.place) == "authentication.password"
    world.sign_in(user)
    # Nothing came of it: the name is free.
    assert [one.namespace for one in world.accounts.memberships(world.user(name=name).id)] == [name]
    # The link in that mail is one for a new password, and no other.
    assert code_of(world.people.verify, world.link(user.email)) == "identity.link"
    world.people.reset(world.link(user.email), OTHER)
    world.sign_in(user, OTHER)


def test_of_two_sign_ups_with_one_address_the_later_one_counts(world: PeopleWorld) -> None:
    """A stranger who signs up first knows a password; the owner of the address must not confirm that one later."""
    email, name = world.address(), new_name("alice")
    world.sign_up(email, name, OTHER)
    strangers = world.link(email)
    # The same name, too: it is the same sign-up, whose mail got lost.
    world.sign_up(email, name, PASSWORD)
    assert code_of(world.people.verify, strangers) == "identity.link"
    world.people.verify(world.link(email))
    assert code_of(world.people.sign_in, email, OTHER, address=world.place) == "authentication.password"
    world.people.sign_in(email, PASSWORD, address=world.place)


def test_a_sign_up_that_is_not_finished_vanishes_with_its_name(world: PeopleWorld) -> None:
    name = new_name("alice")
    email = world.sign_up(name=name)
    link = world.link(email)
    world.clock.now += DAY - 1
    assert code_of(world.sign_up, world.address(), name) == "account.taken"
    world.clock.now += 1
    assert code_of(world.people.verify, link) == "identity.link"
    other = world.user(name=name)
    assert [one.namespace for one in world.accounts.memberships(other.id)] == [name]
    assert code_of(world.people.sign_in, email, PASSWORD, address=world.place) == "authentication.password"
    with world.database.read() as connection:
        assert connection.execute(sa.select(tables.users).where(tables.users.c.email == email)).all() == []


def test_a_verified_user_does_not_vanish(world: PeopleWorld) -> None:
    user = world.user()
    world.clock.now += 400 * DAY
    world.user()
    world.sign_in(user)


@pytest.mark.parametrize(
    ("email", "password", "name", "code"),
    [
        ("nobody", PASSWORD, "alice", "identity.email"),
        ("al\u0456ce@example.org", PASSWORD, "alice", "identity.email"),
        ("", "short", "alice", "password.length"),
        ("", "a" * 20, "alice", "password.repetition"),
        ("", "my name is carol-acme, really", "carol-acme", "password.name"),
        ("somebody@example.org", "somebody likes horses and so", "carol", "password.name"),
        ("", PASSWORD, "", "account.name"),
        ("", PASSWORD, "Alice", "account.name"),
        ("", PASSWORD, "al\u0456ce", "account.name"),
        ("", PASSWORD, "alice\n", "account.name"),
        ("", PASSWORD, "'; drop table users; --", "account.name"),
        ("", PASSWORD, "<script>", "account.name"),
        ("", PASSWORD, "../alice", "account.name"),
        ("", PASSWORD, "admin", "account.taken"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    world: PeopleWorld, email: str, password: str, name: str, code: str
) -> None:
    email = email or world.address()
    assert code_of(world.people.sign_up, email, password, name, address=world.place) == code
    assert world.mail.sent == []
    with world.database.read() as connection:
        found = connection.execute(sa.select(tables.users.c.id).where(tables.users.c.email == email)).all()
    assert found == []


@pytest.mark.parametrize("link", ["", "x", "A" * 43, "\udcff", "x" * 200, "' OR 1=1 --"])
def test_a_link_that_was_never_sent_is_not_good(world: PeopleWorld, link: str) -> None:
    assert code_of(world.people.verify, link) == "identity.link"
    assert code_of(world.people.reset, link, OTHER) == "identity.link"


def test_a_link_works_once_and_for_one_purpose(world: PeopleWorld) -> None:
    email = world.sign_up()
    link = world.link(email)
    assert code_of(world.people.reset, link, OTHER) == "identity.link"
    user = world.people.verify(link)
    assert code_of(world.people.verify, link) == "identity.link"
    world.people.request_reset(user.email, address=world.place)
    reset = world.link(user.email)
    assert code_of(world.people.verify, reset) == "identity.link"
    assert world.people.reset(reset, OTHER).id == user.id


def test_no_secret_of_a_link_is_kept(world: PeopleWorld) -> None:
    link = world.link(world.sign_up())
    with world.database.read() as connection:
        rows = connection.execute(sa.select(tables.links)).all()
    assert rows
    assert not any(link in str(value) for row in rows for value in row)


def test_one_place_signs_up_so_often(world: PeopleWorld) -> None:
    for _ in range(SIGN_UPS.size):
        world.sign_up()
    with pytest.raises(Throttled) as caught:
        world.sign_up()
    assert (caught.value.code, caught.value.retry_after) == ("quota.rate", SIGN_UPS.seconds)
    world.passwords.work.clear()
    assert code_of(world.sign_up) == "quota.rate"
    assert world.passwords.work == []  # nothing dear is done for it
    world.clock.now += SIGN_UPS.seconds
    world.sign_up()


@pytest.mark.parametrize("known", [False, True])
def test_one_address_gets_so_many_mails_whether_it_is_known_or_not(world: PeopleWorld, known: bool) -> None:
    email = world.user().email if known else world.address()
    for number in range(MAILS.size - known):
        world.people.sign_up(email, PASSWORD, new_name("alice"), address=f"{world.place}-{number}")
    with pytest.raises(Throttled) as caught:
        world.people.sign_up(email, PASSWORD, new_name("alice"), address=world.place)
    assert (caught.value.code, caught.value.retry_after) == ("quota.rate", MAILS.seconds)
    assert code_of(world.people.request_reset, email, address=world.place) == "quota.rate"
    assert len(world.mails(email)) == MAILS.size


def test_of_many_who_want_one_name_at_once_one_gets_it(world: PeopleWorld) -> None:
    name = new_name("wanted")

    def sign_up(email: str) -> str:
        try:
            world.people.sign_up(email, PASSWORD, name, address=email)
        except InvalidInput as error:
            return error.code
        return ""

    with ThreadPoolExecutor(8) as pool:
        said = sorted(pool.map(sign_up, [world.address() for _ in range(8)]))
    assert said == [""] + ["account.taken"] * 7


def test_many_sign_ups_with_one_address_at_once_make_one_user(world: PeopleWorld) -> None:
    email = world.address()

    def sign_up(number: int) -> None:
        world.people.sign_up(email, PASSWORD, new_name("alice"), address=f"{world.place}-{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sign_up, range(4)))
    said = []
    for message in [one for one in world.mail.sent if one.to == email]:
        world.mail.sent[:] = [message]
        said.append(outcome(lambda: world.people.verify(world.link(email)).email).partition(":")[0])
    assert sorted(said) == [repr(email), *["identity.link"] * 3]
