"""Journeys of people in a real browser: signing up and in, passkeys, organisations, command lines, leaving."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from blindai.cloud.accounts import Role
from chromium import CONTRAST, PHONE, WIDE, press_until
from cloud_scene import PASSWORD, PLACE, CloudScene, Mail
from console_world import World

OTHER = "another long pass phrase"


@pytest.fixture
def scene(world: World) -> CloudScene:
    # Everybody here comes from one address; what it may do in an hour has come back.
    world.scene.clock.shift += 3600
    return world.scene


def mail_to(scene: CloudScene, email: str) -> Mail:
    """The last mail to somebody."""
    return scene.mails(email)[-1]


def link_to(scene: CloudScene, email: str) -> str:
    """The address in the last mail to somebody."""
    found = re.search(r"https://\S+link=\S+", mail_to(scene, email).text)
    assert found is not None
    return found[0]


def sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.goto("/sign-in")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


@pytest.fixture
def signed_in(scene: CloudScene, context: Callable[..., BrowserContext]) -> Callable[..., Page]:
    """The page of somebody who has signed up and is signed in."""

    def signed_in(name: str, **options: object) -> Page:
        scene.join(name)
        page = context(**options).new_page()
        sign_in(page, f"{name}@example.com")
        return page

    return signed_in


def with_passkeys(page: Page) -> str:
    """Give a page's browser an authenticator that asks nobody, and keeps passkeys that know their user."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    made = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return str(made["authenticatorId"])


def test_from_sign_up_to_sign_out(scene: CloudScene, context: Callable[..., BrowserContext]) -> None:
    page = context().new_page()
    page.goto("/")
    page.get_by_role("link", name="Sign up").first.click()
    page.get_by_label("E-mail address").fill("ann@example.com")
    page.get_by_label("Account name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(scene, "ann@example.com"))
    page.get_by_role("button", name="Confirm the address").click()
    expect(page.get_by_role("status")).to_contain_text("The address is confirmed")
    page.get_by_label("E-mail address").fill("ann@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page).to_have_url(re.compile("/accounts/ann$"))

    page.get_by_role("link", name="Account", exact=True).click()
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill(OTHER)
    page.get_by_label("New password again").fill("a" + OTHER)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_role("alert")).to_contain_text("The two new passwords differ.")
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill(OTHER)
    page.get_by_label("New password again").fill(OTHER)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_role("status")).to_contain_text("The password was changed.")
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/account")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    sign_in(page, "ann@example.com", OTHER)


def test_sign_up_by_keyboard_alone(scene: CloudScene, context: Callable[..., BrowserContext]) -> None:
    page = context().new_page()
    page.goto("/sign-up")
    # The first field has the focus already.
    page.keyboard.type("kim@example.com")
    press_until(page, "Account name")
    page.keyboard.type("Kim--")
    hint = page.locator("#name-hint")
    wrong = hint.evaluate("one => getComputedStyle(one).color")
    press_until(page, "Password")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    # The browser itself refuses the name, and goes there.
    expect(page.locator("#name")).to_be_focused()
    page.keyboard.press("Control+a")
    page.keyboard.type("kim")
    assert hint.evaluate("one => getComputedStyle(one).color") != wrong
    press_until(page, "Password")
    press_until(page, "Sign up")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    assert mail_to(scene, "kim@example.com").link


def test_what_was_typed_is_kept_but_for_the_password(scene: CloudScene, context: Callable[..., BrowserContext]) -> None:
    scene.join("taken")
    page = context(scripts=False).new_page()
    page.goto("/sign-up")
    page.get_by_label("E-mail address").fill("tom@example.com")
    page.get_by_label("Account name").fill("taken")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("alert")).to_contain_text("account.taken")
    name = page.get_by_label("Account name")
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(name).to_be_focused()
    expect(name).to_have_value("taken")
    expect(page.get_by_label("E-mail address")).to_have_value("tom@example.com")
    expect(page.get_by_label("Password")).to_have_value("")


def test_a_forgotten_password(scene: CloudScene, signed_in: Callable[..., Page]) -> None:
    page = signed_in("dora", scripts=False)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("link", name="Forgot the password?").click()
    page.get_by_label("E-mail address").fill("dora@example.com")
    page.get_by_role("button", name="Send the link").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(scene, "dora@example.com"))
    page.get_by_label("New password", exact=True).fill(OTHER)
    page.get_by_label("New password again").fill(OTHER)
    page.get_by_role("button", name="Set the password").click()
    expect(page.get_by_role("status")).to_contain_text("Sign in with the new one")
    sign_in(page, "dora@example.com", OTHER)


def test_passkeys_instead_of_passwords(scene: CloudScene, context: Callable[..., BrowserContext]) -> None:
    page = context().new_page()
    with_passkeys(page)
    page.goto("/sign-up")
    page.get_by_label("E-mail address").fill("pia@example.com")
    page.get_by_label("Account name").fill("pia")
    page.get_by_role("button", name="Use a passkey instead").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    page.goto(link_to(scene, "pia@example.com"))
    page.get_by_role("button", name="Confirm the address").click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page).to_have_url(re.compile("/accounts/pia$"))
    page.goto("/account")
    expect(page.get_by_text("You sign in with passkeys and have no password.")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_a_passkey_is_added_and_removed(scene: CloudScene, signed_in: Callable[..., Page]) -> None:
    page = signed_in("rob")
    with_passkeys(page)
    page.goto("/account")
    page.get_by_label("Name of a new passkey").fill("This laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("status")).to_contain_text("The passkey was added.")
    assert "This laptop" in mail_to(scene, "rob@example.com").text
    # The same authenticator makes no second one.
    page.get_by_label("Name of a new passkey").fill("Again")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("has a passkey for this account already")
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    page.goto("/account")
    page.get_by_role("button", name="Remove This laptop").click()
    expect(page.get_by_role("status")).to_contain_text("The passkey was removed.")
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("authentication.passkey")


def test_an_organisation_and_an_invitation(
    scene: CloudScene, signed_in: Callable[..., Page], context: Callable[..., BrowserContext]
) -> None:
    admin = signed_in("olga")
    press_until(admin, "Account:")
    admin.keyboard.press("Enter")
    press_until(admin, "New organisation")
    admin.keyboard.press("Enter")
    admin.get_by_label("Account name").fill("acme")
    admin.get_by_role("button", name="Make the organisation").click()
    expect(admin.get_by_role("status")).to_contain_text("You are its admin")
    admin.get_by_label("E-mail address").fill("paul@example.com")
    admin.get_by_label("Role", exact=True).select_option("viewer")
    admin.get_by_role("button", name="Send the invitation").click()
    expect(admin.get_by_role("status")).to_contain_text("The invitation was sent.")

    # Whoever is invited signs in first, by the link itself.
    scene.join("paul")
    scene.mails("paul@example.com")
    guest = context().new_page()
    (invitation,) = [mail for mail in scene.mails("paul@example.com") if "acme" in mail.subject]
    guest.goto(f"/invitation?link={invitation.link}")
    guest.get_by_label("E-mail address").fill("paul@example.com")
    guest.get_by_label("Password").fill(PASSWORD)
    guest.get_by_role("button", name="Sign in", exact=True).click()
    guest.get_by_role("button", name="Accept the invitation").click()
    expect(guest.get_by_role("status")).to_contain_text("You are a member now.")
    expect(guest.get_by_role("heading", name="Invite somebody")).to_have_count(0)

    admin.reload()
    admin.get_by_label("Role of paul@example.com").select_option("developer")
    admin.get_by_role("button", name="Change the role of paul@example.com").click()
    expect(admin.get_by_role("status")).to_contain_text("The role was changed.")
    admin.get_by_role("link", name="Who did what in this account").click()
    expect(admin.get_by_role("row", name=re.compile("member.role.*developer"))).to_be_visible()
    admin.get_by_role("link", name="Members of acme").click()
    admin.get_by_role("button", name="Remove paul@example.com").click()
    admin.get_by_role("button", name="Remove", exact=True).click()
    expect(admin.get_by_role("status")).to_contain_text("The member was removed")
    guest.reload()
    expect(guest.get_by_text("account.unknown")).to_be_visible()

    admin.get_by_role("button", name="Close acme").click()
    admin.get_by_label("The name of the organisation").fill("acne")
    admin.get_by_role("button", name="Close the organisation").click()
    expect(admin.get_by_role("alert")).to_contain_text("account.confirmation")
    admin.get_by_label("The name of the organisation").fill("acme")
    admin.get_by_role("button", name="Close the organisation").click()
    expect(admin).to_have_url(re.compile("/accounts/olga$"))


@pytest.mark.parametrize("decision", ["Approve", "Deny"])
def test_a_command_line_is_let_in_or_not(scene: CloudScene, signed_in: Callable[..., Page], decision: str) -> None:
    codes = scene.plane.people.device_codes("a laptop", address=PLACE)
    name = f"dev-{decision.lower()}"
    page = signed_in(name, scripts=False)
    page.goto("/device")
    page.get_by_label("Code").fill(codes.user_code)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("a laptop")).to_be_visible()
    page.get_by_role("button", name=decision).click()
    words = {"Approve": "The command line is signed in.", "Deny": "The command line was refused."}
    expect(page.get_by_role("status")).to_contain_text(words[decision])
    page.goto("/account")
    listed = page.get_by_role("button", name="Sign out a laptop")
    if decision == "Approve":
        token = scene.plane.people.device_token(codes.device_code).access_token
        assert scene.plane.people.user_of_token(token) is not None
        page.reload()
        listed.click()
        expect(page.get_by_role("status")).to_contain_text("The command line was signed out.")
        assert scene.plane.people.user_of_token(token) is None
    else:
        expect(listed).to_have_count(0)


def test_what_is_kept_is_taken_along_and_deleted(scene: CloudScene, signed_in: Callable[..., Page]) -> None:
    page = signed_in("lea")
    page.goto("/account")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download your data").click()
    assert download.value.suggested_filename == "blindai-export.json"
    assert json.loads(Path(download.value.path()).read_text())["user"]["email"] == "lea@example.com"
    page.get_by_role("button", name="Delete your account").click()
    page.get_by_label("Your e-mail address").fill("leo@example.com")
    page.get_by_role("button", name="Delete the account").click()
    expect(page.get_by_role("alert")).to_contain_text("identity.confirmation")
    page.get_by_label("Your e-mail address").fill("lea@example.com")
    page.get_by_role("button", name="Delete the account").click()
    expect(page.get_by_role("status")).to_contain_text("Your account was deleted.")
    page.get_by_label("E-mail address").fill("lea@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("authentication.password")


def test_a_link_in_a_mail_finds_whoever_is_signed_in(world: World, signed_in: Callable[..., Page]) -> None:
    page = signed_in("max")
    # Another site: the cookies of a session are not sent along from there.
    page.goto("data:text/html,<title>mail</title>")
    page.evaluate(f"location.href = '{world.address}/account'")
    expect(page.get_by_role("heading", name="Your account")).to_be_visible()


OPEN_PAGES = [
    "/sign-in",
    "/sign-up",
    "/sign-up/mail",
    "/verify?link=x",
    "/forgotten",
    "/forgotten/mail",
    "/reset?link=x",
]


@pytest.mark.parametrize(("theme", "width"), [("light", WIDE), ("dark", PHONE)])
def test_every_page_fits_and_can_be_read(
    scene: CloudScene, signed_in: Callable[..., Page], context: Callable[..., BrowserContext], theme: str, width: int
) -> None:
    """With the longest words that may stand there."""
    name = f"{theme}-{width}-".ljust(38, "n") + "z"
    organisation = f"{theme}-{width}-".ljust(38, "w") + "z"
    page = signed_in(name, theme=theme, width=width)
    accounts, people = scene.plane.accounts, scene.plane.people
    known = people.user_of(scene.sign_in(f"{name}@example.com"))
    assert known is not None
    user = known.id
    accounts.create_organisation(user, organisation)
    accounts.invite(user, organisation, f"{'l' * 60}@{'d' * 60}.example", Role.VIEWER)
    long = f"{'m' * 55}-{width}@{theme}{'d' * 50}.example"
    other = scene.join(f"other-{theme}-{width}", long)
    accounts.invite(user, organisation, long, Role.DEVELOPER)
    accounts.accept(other, scene.mails(long)[-1].link)
    codes = people.device_codes("W" * 64, address=PLACE)
    people.decide_device(user, codes.user_code, approve=True)
    people.device_token(codes.device_code)
    waiting = people.device_codes("W" * 64, address=PLACE)
    there = f"/accounts/{organisation}"
    pages = [
        "/account",
        "/account/leave",
        "/organisations/new",
        f"{there}/members",
        f"{there}/members/{other}/remove",
        f"{there}/audit",
        f"{there}/close",
        f"/accounts/{name}/members",
        "/accounts/nothing/members",
        "/invitation?link=x",
        "/device",
        f"/device?code={waiting.user_code}",
        "/device?code=wrong",
    ]
    outside = context(theme=theme, width=width).new_page()
    for where, addresses in [(page, pages), (outside, OPEN_PAGES)]:
        for address in addresses:
            where.goto(address)
            where.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
            assert where.evaluate("document.documentElement.scrollWidth") <= width, address
            assert where.evaluate(CONTRAST) == [], address
