"""An invitation goes to an address, works once and for that address alone, and not for ever."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest

from account_world import ListMailer, Staff, World, new_name
from blindai.cloud import tables
from blindai.cloud.accounts import Membership, Role, invitations
from blindai.cloud.accounts.invitations import LIFETIME_SECONDS, MAX_MAILS_PER_DAY
from blindai.cloud.mail import Message
from blindai.errors import InvalidInput, PermissionDenied, QuotaExceeded, Unavailable


def test_who_accepts_is_a_member(world: World) -> None:
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.DEVELOPER)
    assert world.accounts.accept(staff.stranger, link) == Membership(staff.namespace, "organisation", "developer")
    assert world.accounts.invitations(staff.admin, staff.namespace) == ()


def test_the_mail_says_who_invites_and_what_to_do(world: World) -> None:
    staff = world.staff()
    email = world.email(staff.stranger)
    link = world.invite(staff.admin, staff.namespace, email, Role.VIEWER)
    mail = world.mail.sent[-1]
    assert (mail.to, mail.subject) == (email, f"BlindAI Cloud: invitation to {staff.namespace}")
    assert f"https://cloud.example/invitation?link={link}\n" in mail.text
    for word in (world.email(staff.admin), staff.namespace, "viewer", "14 days", "do nothing"):
        assert word in mail.text


def test_an_open_invitation_is_listed_and_can_be_withdrawn(world: World) -> None:
    staff = world.staff()
    email = world.email(staff.stranger)
    link = world.invite(staff.admin, staff.namespace, email, Role.VIEWER)
    (one,) = world.accounts.invitations(staff.admin, staff.namespace)
    assert (one.email, one.role, one.invited_by) == (email, Role.VIEWER, world.email(staff.admin))
    assert one.expires_at - one.created_at == timedelta(days=14)
    world.accounts.withdraw(staff.admin, staff.namespace, email)
    assert world.accounts.invitations(staff.admin, staff.namespace) == ()
    refused(world, staff.stranger, link)
    with pytest.raises(InvalidInput) as caught:
        world.accounts.withdraw(staff.admin, staff.namespace, email)
    assert caught.value.code == "account.invitation"


def test_it_works_once(world: World) -> None:
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.DEVELOPER)
    world.accounts.accept(staff.stranger, link)
    world.accounts.remove_member(staff.admin, staff.namespace, staff.stranger)
    refused(world, staff.stranger, link)


def test_it_works_for_its_address_alone_and_is_not_used_up_by_others(world: World) -> None:
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.ADMIN)
    thief = world.user()
    with pytest.raises(PermissionDenied) as caught:
        world.accounts.accept(thief, link)
    assert caught.value.code == "account.invitation_address"
    assert world.accounts.accept(staff.stranger, link).role is Role.ADMIN


def test_an_address_that_was_not_verified_accepts_nothing(world: World) -> None:
    staff = world.staff()
    sham = world.user(verified=False)
    link = world.invite(staff.admin, staff.namespace, world.email(sham), Role.ADMIN)
    with pytest.raises(PermissionDenied) as caught:
        world.accounts.accept(sham, link)
    assert caught.value.code == "account.invitation_address"


def test_it_runs_out(world: World) -> None:
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.VIEWER)
    world.clock.now += LIFETIME_SECONDS
    refused(world, staff.stranger, link)
    again = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.VIEWER)
    world.clock.now += LIFETIME_SECONDS - 1
    world.accounts.accept(staff.stranger, again)


def test_another_one_takes_the_place_of_the_first(world: World) -> None:
    staff = world.staff()
    first = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.ADMIN)
    second = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.VIEWER)
    refused(world, staff.stranger, first)
    assert world.accounts.accept(staff.stranger, second).role is Role.VIEWER


@pytest.mark.parametrize("how", ["removed", "demoted"])
def test_those_of_an_admin_who_is_none_any_more_are_dead(world: World, how: str) -> None:
    staff = world.staff()
    world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.ADMIN)
    link = world.invite(staff.developer, staff.namespace, world.email(staff.stranger), Role.ADMIN)
    if how == "removed":
        world.accounts.remove_member(staff.admin, staff.namespace, staff.developer)
    else:
        world.accounts.set_role(staff.admin, staff.namespace, staff.developer, Role.DEVELOPER)
    refused(world, staff.stranger, link)


@pytest.mark.parametrize("link", ["", "x", "' OR 1=1 --", "\x00", "\ud800", "<script>", "a" * 10_000])
def test_what_is_no_link_leads_nowhere(world: World, standing: Staff, link: str) -> None:
    refused(world, standing.stranger, link)


def test_a_link_of_another_purpose_leads_nowhere(world: World) -> None:
    """Digests are made with a domain of their own: what is in `links` is none of ours."""
    staff = world.staff()
    link = world.invite(staff.admin, staff.namespace, world.email(staff.stranger), Role.VIEWER)
    (row,) = world.rows(tables.invitations, namespace=staff.namespace)
    assert row.id not in {link, hashlib.sha256(link.encode()).hexdigest()}


def test_a_member_is_not_invited(world: World) -> None:
    staff = world.staff()
    with pytest.raises(InvalidInput) as caught:
        world.invite(staff.admin, staff.namespace, world.email(staff.viewer).upper(), Role.ADMIN)
    assert caught.value.code == "account.member"


@pytest.mark.parametrize(
    "email",
    [
        "",
        "bob",
        "bob@",
        "@example.org",
        "bob@example.org\r\nBcc: all@example.org",
        "bob@example.org, eve@example.org",
        "b\u00f6b@example.org",
        "bob@ex\u0430mple.org",
        "<bob@example.org>",
        "bob@[127.0.0.1]",
        "bob@example.org\x00",
        "'; DROP TABLE users; --",
        "a" * 250 + "@example.org",
    ],
)
def test_what_is_no_address_is_refused_and_nothing_is_sent(world: World, standing: Staff, email: str) -> None:
    before = len(world.mail.sent)
    with pytest.raises(InvalidInput) as caught:
        world.accounts.invite(standing.admin, standing.namespace, email, Role.VIEWER)
    assert caught.value.code == "identity.email"
    with pytest.raises(InvalidInput) as caught:
        world.accounts.withdraw(standing.admin, standing.namespace, email)
    assert caught.value.code == "identity.email"
    assert len(world.mail.sent) == before
    assert world.accounts.invitations(standing.admin, standing.namespace) == ()


def test_an_account_cannot_flood_strangers_with_mail(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MAX_MAILS_PER_DAY", 3)
    assert MAX_MAILS_PER_DAY > 3
    admin = world.user()
    namespace = world.organisation(admin)
    for _ in range(3):
        # One address over and over, withdrawn in between, counts too.
        world.invite(admin, namespace, "bob@example.org", Role.VIEWER)
        world.accounts.withdraw(admin, namespace, "bob@example.org")
    with pytest.raises(QuotaExceeded) as caught:
        world.invite(admin, namespace, "bob@example.org", Role.VIEWER)
    assert caught.value.code == "account.invitations"
    assert len(world.mail.sent) == 3
    world.clock.now += 24 * 3600
    world.invite(admin, namespace, "bob@example.org", Role.VIEWER)


def test_a_mail_that_was_not_taken_is_told_and_can_be_sent_again(world: World) -> None:
    class Broken(ListMailer):
        def send(self, message: Message) -> None:
            raise Unavailable("no", code="unavailable.mail")

    admin = world.user()
    namespace = world.organisation(admin)
    email = f"{new_name()}@example.org"
    broken = World(world.database, mail=Broken())
    with pytest.raises(Unavailable) as caught:
        broken.accounts.invite(admin, namespace, email, Role.VIEWER)
    assert caught.value.code == "unavailable.mail"
    link = world.invite(admin, namespace, email, Role.VIEWER)
    assert len(world.accounts.invitations(admin, namespace)) == 1
    world.accounts.accept(world.user(email=email), link)


def refused(world: World, user: str, link: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        world.accounts.accept(user, link)
    assert caught.value.code == "account.invitation"
