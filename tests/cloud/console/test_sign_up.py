"""Signing up, links in mails, and forgotten passwords, as forms."""

from __future__ import annotations

import html

import pytest

from cloud_scene import PASSWORD, CloudScene
from console_world import Person

OTHER = "another long pass phrase"


def sign_up(browser: Person, **changes: str) -> tuple[int, str]:
    """Status and text of what a sign-up is answered with."""
    form = {"email": "ann@example.com", "name": "ann", "password": PASSWORD} | changes
    answer = browser.submit("/sign-up", "/sign-up", **form)
    return answer.status, answer.header("location") or answer.text


def test_who_is_known_is_not_said(small_scene: CloudScene, stranger: Person) -> None:
    small_scene.join("alice")
    known = sign_up(stranger, email="alice@example.com", name="other")
    unknown = sign_up(stranger)
    assert known == unknown == (303, "/sign-up/mail")
    assert "signed up before" in small_scene.mails("alice@example.com")[-1].subject


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"email": "ann@"}, "identity.email", "email"),
        ({"name": "Ann"}, "account.name", "name"),
        ({"name": "\u0430nn"}, "account.name", "name"),
        ({"name": "alice"}, "account.taken", "name"),
        ({"name": "admin"}, "account.taken", "name"),
        ({"password": "short"}, "password.length", "password"),
        ({"password": ""}, "password.length", "password"),
    ],
)
def test_what_is_wrong_stands_beside_the_field(
    small_scene: CloudScene, stranger: Person, changes: dict[str, str], code: str, field: str
) -> None:
    small_scene.join("alice")
    status, text = sign_up(stranger, **changes)
    assert status in {400, 409}
    place = text[text.index(f'id="{field}-wrong"') :]
    assert code in place[: place.index("</small>")]
    assert f'aria-describedby="{field}-wrong' in text
    for name, typed in {"email": "ann@example.com", "name": "ann", **changes}.items():
        if name != "password":
            assert f'name="{name}" type="{"email" if name == "email" else "text"}" value="{html.escape(typed)}"' in text
    assert PASSWORD not in text


def test_the_link_does_nothing_before_the_button_is_pressed(small_scene: CloudScene, stranger: Person) -> None:
    sign_up(stranger)
    link = small_scene.mails("ann@example.com")[-1].link
    page = f"/verify?link={link}"
    # A program that looks at mails.
    assert stranger.get(page).status == 200
    ann = Person(small_scene, "ann")
    assert ann.enter().status == 403
    assert stranger.submit(page, "/verify", link=link).header("location") == "/sign-in?done=verified"
    assert ann.enter().status == 303
    answer = stranger.submit(page, "/verify", link=link)
    assert (answer.status, "identity.link" in answer.text) == (400, True)


def test_a_forgotten_password(small_scene: CloudScene, stranger: Person, alice: Person) -> None:
    for email in ("alice@example.com", "eve@example.com"):
        answer = stranger.submit("/forgotten", "/forgotten", email=email)
        assert answer.header("location") == "/forgotten/mail"
    assert small_scene.mails("eve@example.com") == []
    link = small_scene.mails("alice@example.com")[-1].link
    page = f"/reset?link={link}"
    answer = stranger.submit(page, "/reset", link=link, new=OTHER, again=OTHER + "x")
    assert (answer.status, "password.repeat" in answer.text) == (400, True)
    assert 'id="again-wrong"' in answer.text
    answer = stranger.submit(page, "/reset", link=link, new="short", again="short")
    assert (answer.status, 'id="new-wrong"' in answer.text) == (400, True)
    # The form is still good, and holds nothing that was typed.
    assert "short" not in answer.text
    answer = stranger.submit(page, "/reset", link=link, new=OTHER, again=OTHER)
    assert answer.header("location") == "/sign-in?done=password"
    assert alice.get("/account").status == 303
    assert alice.enter(OTHER).status == 303
    assert "identity.link" in stranger.submit(page, "/reset", link=link, new=OTHER, again=OTHER).text


def test_links_of_one_kind_do_nothing_elsewhere(small_scene: CloudScene, stranger: Person, alice: Person) -> None:
    sign_up(stranger)
    verify = small_scene.mails("ann@example.com")[-1].link
    stranger.submit("/forgotten", "/forgotten", email="alice@example.com")
    reset = small_scene.mails("alice@example.com")[-1].link
    assert "identity.link" in stranger.submit("/reset", "/reset", link=verify, new=OTHER, again=OTHER).text
    assert "identity.link" in stranger.submit("/verify", "/verify", link=reset).text
    assert "account.invitation" in alice.submit("/invitation", "/invitation", link=reset).text


def test_links_are_made_of_the_address_of_the_site_and_not_of_the_request(
    small_scene: CloudScene, stranger: Person
) -> None:
    form = {"csrf": stranger.get("/sign-up").csrf, "email": "ann@example.com", "name": "ann", "password": PASSWORD}
    assert stranger.post("/sign-up", form, host="evil.example").status == 303
    assert "evil.example" not in small_scene.mails("ann@example.com")[-1].text


def test_a_sign_up_by_passkey_that_is_refused_says_why_in_the_page(stranger: Person) -> None:
    answer = stranger.submit("/sign-up", "/sign-up/passkey/options", email="ann@", name="ann")
    assert answer.status == 400
    assert '"code":"identity.email"' in answer.text
    answer = stranger.submit("/sign-up", "/sign-up/passkey/options", email="ann@example.com", name="ann")
    assert (answer.status, "challenge" in answer.text) == (200, True)
    answer = stranger.submit("/sign-up", "/sign-up/passkey", email="ann@example.com", name="ann", response="{}")
    assert (answer.status, "identity.passkey" in answer.text) == (400, True)
    assert 'value="ann@example.com"' in answer.text
