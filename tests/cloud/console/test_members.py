"""Organisations in the console: members, roles, invitations, the log, and closing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blindai.cloud.accounts import Role
from blindai.cloud.console import members
from cloud_scene import CloudScene
from console_world import Person

HERE = "/accounts/acme"


@pytest.fixture
def admin(small_scene: CloudScene, alice: Person) -> Person:
    """The admin of an organisation."""
    small_scene.plane.accounts.create_organisation(alice.id, "acme")
    return alice


@pytest.fixture
def joined(small_scene: CloudScene, admin: Person, person: Callable[[str], Person]) -> Callable[[str], Person]:
    """Makes members: somebody with the name of the role."""

    def joined(role: str) -> Person:
        made = person(role)
        small_scene.plane.accounts.invite(admin.id, "acme", made.email, Role(role))
        small_scene.plane.accounts.accept(made.id, small_scene.mails(made.email)[-1].link)
        return made

    return joined


def test_an_organisation_is_made(alice: Person) -> None:
    answer = alice.submit("/organisations/new", "/organisations/new", name="acme")
    assert answer.header("location") == f"{HERE}/members?done=opened"
    page = alice.get(f"{HERE}/members")
    assert "Members of acme" in page.words
    assert "/accounts/acme/members" in alice.get("/accounts/alice/members").text


@pytest.mark.parametrize(
    ("name", "code"),
    [("alice", "account.taken"), ("Acme", "account.name"), ("a--b", "account.name"), ("", "account.name")],
)
def test_a_name_that_cannot_be_stands_with_the_reason(alice: Person, name: str, code: str) -> None:
    answer = alice.submit("/organisations/new", "/organisations/new", name=name)
    assert answer.status in {400, 409}
    place = answer.text[answer.text.index('id="name-wrong"') :]
    assert code in place[: place.index("</small>")]
    assert f'value="{name}"' in answer.text


def test_an_invitation_leads_in(small_scene: CloudScene, admin: Person, bob: Person) -> None:
    answer = admin.submit(f"{HERE}/members", f"{HERE}/invitations", email=bob.email, role="developer")
    assert answer.header("location") == f"{HERE}/members?done=invited"
    assert bob.email in admin.get(f"{HERE}/members").words
    link = small_scene.mails(bob.email)[-1].link
    page = f"/invitation?link={link}"
    # It is for one address.
    answer = admin.submit(page, "/invitation", link=link)
    assert (answer.status, "account.invitation_address" in answer.text) == (403, True)
    # Nothing is done before the button is pressed.
    assert bob.get(page).status == 200
    assert bob.get(f"{HERE}/members").status == 404
    assert bob.submit(page, "/invitation", link=link).header("location") == f"{HERE}/members?done=joined"
    assert bob.get(f"{HERE}/members").status == 200
    answer = bob.submit(page, "/invitation", link=link)
    assert (answer.status, "account.invitation" in answer.text) == (404, True)


def test_an_invitation_is_taken_back(small_scene: CloudScene, admin: Person, bob: Person) -> None:
    admin.submit(f"{HERE}/members", f"{HERE}/invitations", email=bob.email, role="viewer")
    answer = admin.submit(f"{HERE}/members", f"{HERE}/invitations/withdraw", email=bob.email)
    assert answer.header("location") == f"{HERE}/members?done=withdrawn"
    link = small_scene.mails(bob.email)[-1].link
    assert "account.invitation" in bob.submit("/invitation", "/invitation", link=link).text
    answer = admin.submit(f"{HERE}/members", f"{HERE}/invitations/withdraw", email=bob.email)
    assert (answer.status, "account.invitation" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("form", "field", "code"),
    [
        ({"email": "bob@", "role": "viewer"}, "email", "identity.email"),
        ({"email": "alice@example.com", "role": "viewer"}, "email", "account.member"),
        ({"email": "bob@example.com", "role": "owner"}, "role", "account.role_unknown"),
        ({"email": "bob@example.com"}, "role", "account.role_unknown"),
    ],
)
def test_an_invitation_that_cannot_be_comes_back_filled_in(
    admin: Person, form: dict[str, str], field: str, code: str
) -> None:
    answer = admin.submit(f"{HERE}/members", f"{HERE}/invitations", **form)
    assert answer.status in {400, 409}
    place = answer.text[answer.text.index(f'id="{field}-wrong"') :]
    assert code in place[: place.index("</small>")]
    assert f'value="{form["email"]}"' in answer.text


def test_members_see_what_their_role_allows(joined: Callable[[str], Person], admin: Person) -> None:
    viewer = joined("viewer")
    page = viewer.get(f"{HERE}/members")
    assert "Invite somebody" not in page.words
    assert "Who did what" not in page.words
    assert "Close the organisation" not in page.words
    for path in (f"{HERE}/audit", f"{HERE}/close"):
        answer = viewer.get(path)
        assert (answer.status, "account.role" in answer.text) == (403, True)
    for path in (f"{HERE}/invitations", f"{HERE}/members/{admin.id}/role", f"{HERE}/close"):
        answer = viewer.submit("/account", path, role="admin", email="eve@example.com", name="acme")
        assert (answer.status, "account.role" in answer.text) == (403, True)
    answer = viewer.submit("/account", f"{HERE}/members/{admin.id}/remove")
    assert (answer.status, "account.role" in answer.text) == (403, True)


def test_a_member_gets_another_role_and_is_removed(admin: Person, joined: Callable[[str], Person]) -> None:
    viewer = joined("viewer")
    there = f"{HERE}/members/{viewer.id}"
    answer = admin.submit(f"{HERE}/members", f"{there}/role", role="admin")
    assert answer.header("location") == f"{HERE}/members?done=role"
    assert viewer.get(f"{HERE}/close").status == 200
    answer = admin.submit(f"{HERE}/members", f"{there}/role", role="king")
    assert (answer.status, "account.role_unknown" in answer.text) == (400, True)
    assert viewer.email in admin.get(f"{there}/remove").words
    assert admin.submit(f"{there}/remove", f"{there}/remove").header("location") == f"{HERE}/members?done=removed"
    assert viewer.get(f"{HERE}/members").status == 404
    assert admin.get(f"{there}/remove").status == 404
    answer = admin.submit(f"{HERE}/members", f"{there}/remove")
    assert (answer.status, "account.member_unknown" in answer.text) == (404, True)


def test_everybody_may_leave_but_the_last_admin(admin: Person, joined: Callable[[str], Person]) -> None:
    viewer = joined("viewer")
    page = f"{HERE}/members/{viewer.id}/remove"
    assert "Leave acme" in viewer.get(page).words
    assert viewer.submit(page, page).header("location") == "/"
    assert viewer.get(f"{HERE}/members").status == 404
    page = f"{HERE}/members/{admin.id}/remove"
    answer = admin.submit(page, page)
    assert (answer.status, "account.last_admin" in answer.text) == (409, True)


def test_the_log_is_told_page_by_page(admin: Person, small_scene: CloudScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "ENTRIES", 2)
    for name in ("one", "two", "three"):
        small_scene.plane.accounts.invite(admin.id, "acme", f"{name}@example.com", Role.VIEWER)
    first = admin.get(f"{HERE}/audit")
    assert "three@example.com" in first.words
    assert "one@example.com" not in first.words
    older = f"{HERE}/audit?before=" + first.text.split("?before=")[1].split('"')[0]
    second = admin.get(older)
    assert "one@example.com" in second.words
    assert "organisation.opened" in second.words
    assert "Older" not in second.words
    for before in ("x", "-1", "9" * 40, "\u0661"):
        assert "three@example.com" in admin.get(f"{HERE}/audit?before={before}").words


def test_closing_takes_the_name(small_scene: CloudScene, admin: Person) -> None:
    page = f"{HERE}/close"
    answer = admin.submit(page, page, name="Acme")
    assert (answer.status, "account.confirmation" in answer.text) == (400, True)
    assert 'value="Acme"' in answer.text
    assert admin.submit(page, page, name="acme").header("location") == "/"
    assert admin.get(f"{HERE}/members").status == 404
    answer = admin.submit("/organisations/new", "/organisations/new", name="acme")
    assert (answer.status, "account.taken" in answer.text) == (409, True)


def test_a_personal_account_has_one_member(alice: Person) -> None:
    page = alice.get("/accounts/alice/members")
    assert "This is your personal account" in page.words
    assert "Invite somebody" not in page.words
    answer = alice.submit("/account", "/accounts/alice/invitations", email="bob@example.com", role="viewer")
    assert (answer.status, "account.personal" in answer.text) == (409, True)
    assert "A personal account is closed when" in alice.get("/accounts/alice/close").words
    answer = alice.submit("/account", "/accounts/alice/close", name="alice")
    assert (answer.status, "account.personal" in answer.text) == (409, True)
