"""Changing a password, and choosing one by mail: who is out afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from blindai.cloud.identity.links import LIFETIME_SECONDS, Purpose
from blindai.cloud.identity.rates import PASSWORD_CHANGES, RESETS
from blindai.errors import InvalidInput, Unavailable
from people_world import OTHER, PASSWORD, PeopleWorld, code_of

THIRD = "yet another phrase to pass"


def test_another_password_ends_all_but_the_session_that_set_it(world: PeopleWorld) -> None:
    user, another = world.user(), world.user()
    here, elsewhere, token = world.sign_in(user), world.sign_in(user), world.token(user)
    theirs = world.sign_in(another)
    world.people.request_reset(user.email, address=world.place)
    reset = world.link(user.email)
    waiting = world.people.device_codes("laptop", address=world.place)
    world.people.decide_device(user.id, waiting.user_code, True)
    world.people.change_password(user.id, PASSWORD, OTHER, keep=here.id)
    assert world.people.user_of(here.id) == user
    assert world.people.user_of(elsewhere.id) is None
    assert world.people.user_of_token(token) is None
    assert world.people.user_of(theirs.id) == another
    assert code_of(world.people.reset, reset, THIRD) == "identity.link"
    assert code_of(world.people.device_token, waiting.device_code) == "device.expired_token"
    assert code_of(world.sign_in, user) == "authentication.password"
    world.sign_in(user, OTHER)
    assert world.mails(user.email)[-1] == "Your password was changed"
    assert not any(secret in world.mail.sent[-1].text for secret in (PASSWORD, OTHER))


def test_nobody_keeps_a_session_of_somebody_else(world: PeopleWorld) -> None:
    user, another = world.user(), world.user()
    mine, theirs = world.sign_in(user), world.sign_in(another)
    world.people.change_password(user.id, PASSWORD, OTHER, keep=theirs.id)
    assert world.people.user_of(mine.id) is None
    assert world.people.user_of(theirs.id) == another


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (OTHER, OTHER, "authentication.password"),
        ("", OTHER, "authentication.password"),
        (PASSWORD, "short", "password.length"),
        (PASSWORD, "ab" * 10, "password.repetition"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(world: PeopleWorld, old: str, new: str, code: str) -> None:
    user = world.user()
    session, other = world.sign_in(user), world.sign_in(user)
    sent = len(world.mail.sent)
    assert code_of(world.people.change_password, user.id, old, new, keep=session.id) == code
    assert world.people.user_of(other.id) == user
    world.sign_in(user)
    assert len(world.mail.sent) == sent


def test_a_thief_at_an_open_browser_has_few_tries(world: PeopleWorld) -> None:
    user = world.user()
    session = world.sign_in(user)
    for _ in range(PASSWORD_CHANGES.size):
        code = code_of(world.people.change_password, user.id, OTHER, OTHER, keep=session.id)
        assert code == "authentication.password"
    assert code_of(world.people.change_password, user.id, PASSWORD, OTHER, keep=session.id) == "quota.rate"
    world.clock.now += PASSWORD_CHANGES.seconds
    world.people.change_password(user.id, PASSWORD, OTHER, keep=session.id)


def test_a_session_alone_gives_nobody_a_password(world: PeopleWorld) -> None:
    user = world.passkey_user()
    session = world.sign_in_passkey()
    assert code_of(world.people.change_password, user.id, "", OTHER, keep=session.id) == "identity.no_password"


def test_a_reset_ends_everything_that_could_sign_in_before(world: PeopleWorld) -> None:
    user = world.user()
    session, token = world.sign_in(user), world.token(user)
    world.add_passkey(user, session)
    world.people.request_reset(user.email, address=world.place)
    first = world.link(user.email)
    world.people.request_reset(user.email, address=world.place)
    second = world.link(user.email)
    world.passwords.work.clear()
    assert world.people.reset(first, OTHER).id == user.id
    assert world.passwords.work == ["hash"]
    assert world.people.user_of(session.id) is None
    assert world.people.user_of_token(token) is None
    assert world.people.passkeys(user.id) == ()
    assert code_of(world.sign_in_passkey) == "authentication.passkey"
    assert code_of(world.people.reset, first, THIRD) == "identity.link"
    assert code_of(world.people.reset, second, THIRD) == "identity.link"
    assert code_of(world.sign_in, user) == "authentication.password"
    world.sign_in(user, OTHER)
    assert world.mails(user.email)[-2:] == ["Choose a new password", "Your password was reset"]


def test_of_many_who_follow_one_link_at_once_one_chooses(world: PeopleWorld) -> None:
    user = world.user()
    world.people.request_reset(user.email, address=world.place)
    link = world.link(user.email)
    phrases = [f"{OTHER} number {number}" for number in range(4)]

    def reset(new: str) -> str:
        try:
            world.people.reset(link, new)
        except InvalidInput as error:
            return error.code
        return new

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(reset, phrases))
    (chosen,) = (one for one in said if one != "identity.link")
    assert len(said) - said.count("identity.link") == 1
    world.sign_in(user, chosen)


def test_a_reset_gives_whoever_has_a_passkey_a_password(world: PeopleWorld) -> None:
    user = world.passkey_user()
    assert not user.has_password
    world.people.request_reset(user.email, address=world.place)
    assert world.people.reset(world.link(user.email), OTHER).has_password
    world.sign_in(user, OTHER)


def test_a_link_for_a_new_password_is_good_for_an_hour(world: PeopleWorld) -> None:
    user = world.user()
    world.people.request_reset(user.email, address=world.place)
    link = world.link(user.email)
    world.clock.now += LIFETIME_SECONDS[Purpose.RESET]
    world.passwords.work.clear()
    assert code_of(world.people.reset, link, OTHER) == "identity.link"
    assert world.passwords.work == []  # strangers with links of their own making cost nothing


def test_a_weak_password_does_not_use_the_link_up(world: PeopleWorld) -> None:
    user = world.user()
    world.people.request_reset(user.email, address=world.place)
    link = world.link(user.email)
    assert code_of(world.people.reset, link, "short") == "password.length"
    assert code_of(world.people.reset, link, f"I am {user.email}") == "password.name"
    world.people.reset(link, OTHER)


@pytest.mark.parametrize("kind", ["unknown", "unverified", "verified", "left"])
def test_a_request_tells_nobody_whether_the_address_is_known(world: PeopleWorld, kind: str) -> None:
    email = world.address()
    match kind:
        case "unverified":
            world.sign_up(email)
        case "verified":
            world.user(email)
        case "left":
            world.people.leave(world.user(email).id, confirm_email=email)
    before = world.mails(email)
    world.passwords.work.clear()
    world.people.request_reset(email, address=world.place)
    assert world.passwords.work == []
    expected = {"unverified": ["Confirm your address"], "verified": ["Choose a new password"]}
    assert world.mails(email)[len(before) :] == expected.get(kind, [])


def test_a_mail_server_that_is_away_tells_nobody_either(world: PeopleWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    user = world.user()

    def send(_: object) -> None:
        raise Unavailable("the mail server is away", code="unavailable.mail")

    monkeypatch.setattr(world.mail, "send", send)
    world.people.request_reset(user.email, address=world.place)
    world.people.request_reset(world.address(), address=world.place)
    for email in (user.email, world.address()):
        assert code_of(world.sign_up, email) == "unavailable.mail"


def test_one_place_asks_for_so_many(world: PeopleWorld) -> None:
    for _ in range(RESETS.size):
        world.people.request_reset(world.address(), address=world.place)
    assert code_of(world.people.request_reset, world.address(), address=world.place) == "quota.rate"
    assert code_of(world.people.request_reset, "no address", address=world.place) == "identity.email"
