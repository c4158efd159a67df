"""A person's own page."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from blindai.web.sessions import COOKIE
from cloud_scene import PASSWORD, PLACE, CloudScene
from console_world import Person
from software_authenticator import SoftwareAuthenticator

OTHER = "another long pass phrase"


@pytest.fixture
def with_passkey(small_scene: CloudScene) -> Callable[[Person], str]:
    """Adds a passkey to a person's account; its id."""

    def with_passkey(person: Person) -> str:
        options = person.submit("/account", "/account/passkeys/options", **{"passkey-name": "laptop"}).text
        response = SoftwareAuthenticator(small_scene.plane.site.url).create(options)
        answer = person.submit("/account", "/account/passkeys", response=response, **{"passkey-name": "laptop"})
        assert answer.header("location") == "/account?done=passkey"
        (made,) = small_scene.plane.people.passkeys(person.id)
        return made.id

    return with_passkey


def command_line(scene: CloudScene, person: Person) -> str:
    """Sign a command line in; the id of its token."""
    scene.access_token(person.id)
    return scene.plane.people.tokens(person.id)[-1].id


def change(person: Person, **changes: str) -> tuple[int, str]:
    """Status and text of what a change of the password is answered with."""
    answer = person.submit(
        "/account", "/account/password", **({"old": PASSWORD, "new": OTHER, "again": OTHER} | changes)
    )
    return answer.status, answer.header("location") or answer.text


def test_a_new_password_ends_the_other_sessions(small_scene: CloudScene, alice: Person) -> None:
    other = Person(small_scene, "alice")
    other.enter()
    command_line(small_scene, alice)
    assert change(alice) == (303, "/account?done=password")
    assert alice.get("/account").status == 200
    assert other.get("/account").status == 303
    assert small_scene.plane.people.tokens(alice.id) == ()
    assert other.enter().status == 401
    assert other.enter(OTHER).status == 303


@pytest.mark.parametrize(
    ("changes", "status", "field", "code"),
    [
        ({"old": OTHER}, 401, "old", "authentication.password"),
        ({"again": "x"}, 400, "again", "password.repeat"),
        ({"new": "short", "again": "short"}, 400, "new", "password.length"),
    ],
)
def test_what_is_wrong_stands_beside_the_field(
    alice: Person, changes: dict[str, str], status: int, field: str, code: str
) -> None:
    got, text = change(alice, **changes)
    assert got == status
    place = text[text.index(f'id="{field}-wrong"') :]
    assert code in place[: place.index("</small>")]
    assert OTHER not in text
    assert PASSWORD not in text
    assert alice.enter().status == 303


def test_a_passkey_signs_in_until_it_is_removed(
    small_scene: CloudScene, alice: Person, with_passkey: Callable[[Person], str]
) -> None:
    passkey = with_passkey(alice)
    assert "laptop" in alice.get("/account").words
    answer = alice.submit("/account", "/account/passkeys/remove", passkey=passkey)
    assert answer.header("location") == "/account?done=passkey-removed"
    assert small_scene.plane.people.passkeys(alice.id) == ()
    answer = alice.submit("/account", "/account/passkeys/remove", passkey=passkey)
    assert (answer.status, "identity.passkey_unknown" in answer.text) == (404, True)


def test_nobody_removes_a_passkey_of_somebody_else(
    small_scene: CloudScene, alice: Person, bob: Person, with_passkey: Callable[[Person], str]
) -> None:
    passkey = with_passkey(alice)
    answer = bob.submit("/account", "/account/passkeys/remove", passkey=passkey)
    assert (answer.status, "identity.passkey_unknown" in answer.text) == (404, True)
    assert [one.id for one in small_scene.plane.people.passkeys(alice.id)] == [passkey]


def test_an_answer_that_another_session_asked_for_adds_nothing(
    small_scene: CloudScene, alice: Person, bob: Person
) -> None:
    options = alice.submit("/account", "/account/passkeys/options").text
    response = SoftwareAuthenticator(small_scene.plane.site.url).create(options)
    answer = bob.submit("/account", "/account/passkeys", response=response, **{"passkey-name": "mine"})
    assert (answer.status, "identity.ceremony" in answer.text) == (400, True)


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "\u202ex", "a\r\nb"])
def test_a_passkey_is_called_something_that_can_be_seen(alice: Person, name: str) -> None:
    answer = alice.submit("/account", "/account/passkeys", response="{}", **{"passkey-name": name})
    assert answer.status == 400
    place = answer.text[answer.text.index('id="passkey-name-wrong"') :]
    assert "identity.passkey_name" in place[: place.index("</small>")]


def test_a_command_line_is_signed_out(small_scene: CloudScene, alice: Person, bob: Person) -> None:
    token = command_line(small_scene, alice)
    assert "laptop" in alice.get("/account").words
    answer = bob.submit("/account", "/account/tokens/revoke", token=token)
    assert (answer.status, "identity.token_unknown" in answer.text) == (404, True)
    answer = alice.submit("/account", "/account/tokens/revoke", token=token)
    assert answer.header("location") == "/account?done=token"
    assert small_scene.plane.people.tokens(alice.id) == ()


def test_signing_out_everywhere_ends_all(small_scene: CloudScene, alice: Person, bob: Person) -> None:
    other = Person(small_scene, "alice")
    other.enter()
    command_line(small_scene, alice)
    answer = alice.submit("/account", "/account/sign-out-everywhere")
    assert answer.header("location") == "/sign-in?done=everywhere"
    assert "cache" in answer.header("clear-site-data")
    assert other.get("/account").status == 303
    assert small_scene.plane.people.tokens(alice.id) == ()
    assert bob.get("/account").status == 200


def test_the_export_is_ones_own_and_holds_no_secret(small_scene: CloudScene, alice: Person, bob: Person) -> None:
    token = small_scene.access_token(alice.id)
    answer = alice.get("/account/export")
    assert answer.header("content-disposition") == 'attachment; filename="blindai-export.json"'
    assert json.loads(answer.text)["user"]["email"] == "alice@example.com"
    for secret in (PASSWORD, token, *alice.cookies.values()):
        assert secret not in answer.text
    assert "bob" not in answer.text
    assert bob.get("/account/export").text != answer.text


def test_leaving_takes_the_address_and_ends_everything(small_scene: CloudScene, alice: Person) -> None:
    other = Person(small_scene, "alice")
    other.enter()
    answer = alice.submit("/account/leave", "/account/leave", email="alice@example.org")
    assert (answer.status, 'id="email-wrong"' in answer.text) == (400, True)
    assert 'value="alice@example.org"' in answer.text
    answer = alice.submit("/account/leave", "/account/leave", email=" Alice@example.com ")
    assert answer.header("location") == "/sign-in?done=left"
    assert other.get("/account").status == 303
    assert other.enter().status == 401


def test_the_last_admin_of_others_does_not_leave(small_scene: CloudScene, alice: Person, bob: Person) -> None:
    accounts = small_scene.plane.accounts
    accounts.create_organisation(alice.id, "acme")
    alice.submit("/accounts/acme/members", "/accounts/acme/invitations", email=bob.email, role="viewer")
    accounts.accept(bob.id, small_scene.mails(bob.email)[-1].link)
    answer = alice.submit("/account/leave", "/account/leave", email=alice.email)
    assert (answer.status, "account.last_admin" in answer.text) == (409, True)
    assert alice.get("/account").status == 200


def test_somebody_without_a_password_is_told_how_to_have_one(small_scene: CloudScene) -> None:
    people, authenticator = small_scene.plane.people, SoftwareAuthenticator(small_scene.plane.site.url)
    options = people.sign_up_passkey_options("pia@example.com", "pia", visitor="visitor", address=PLACE)
    people.sign_up_passkey("visitor", authenticator.create(options), address=PLACE)
    people.verify(small_scene.mails("pia@example.com")[-1].link)
    pia = Person(small_scene, "pia")
    options = pia.submit("/sign-in", "/sign-in/passkey/options").text
    answer = pia.submit("/sign-in", "/sign-in/passkey", response=authenticator.get(options), next="/account")
    assert answer.header("location") == "/account"
    assert "You sign in with passkeys and have no password." in pia.get("/account").words
    known = people.user_of(pia.cookies[COOKIE])
    assert known is not None
    (passkey,) = people.passkeys(known.id)
    answer = pia.submit("/account", "/account/passkeys/remove", passkey=passkey.id)
    assert "identity.last_passkey" in answer.text
