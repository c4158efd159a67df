"""Organisations: making one, who works there and as what, invitations, the log, and closing it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from blindai.cloud.accounts import Action, Role
from blindai.cloud.console.visit import ACCOUNT, HOME, Address, Visit
from blindai.errors import BlindAIError, InvalidInput
from blindai.web.forms import Filled, see
from blindai.wire.cloud import NAMESPACE_RULE

if TYPE_CHECKING:
    from starlette.responses import Response

NEW: Final = "/organisations/new"
INVITATION: Final = "/invitation"

# Of one page of the log.
ENTRIES: Final = 50

# Ids are counted up from 1; a number of more digits is none of them.
_MAX_ID_DIGITS: Final = 18

_log = structlog.get_logger("blindai.cloud")

DONE: Final = {
    "opened": "The organisation was made. You are its admin.",
    "invited": "The invitation was sent.",
    "withdrawn": "The invitation was taken back: its link is dead.",
    "role": "The role was changed.",
    "removed": "The member was removed, and the keys that they had made were revoked.",
    "joined": "You are a member now.",
}

# What each role may do, in words.
ROLES: Final = {
    Role.VIEWER: "sees models and usage",
    Role.DEVELOPER: "also makes keys",
    Role.ADMIN: "also manages members",
}

_NEW_FIELDS: Final = {"account.name": "name", "account.taken": "name"}
_INVITE_FIELDS: Final = {"identity.email": "email", "account.member": "email", "account.role_unknown": "role"}
_CLOSE_FIELDS: Final = {"account.confirmation": "name"}


async def new_page(visit: Visit) -> Response:
    """The form for an organisation."""
    return visit.page("organisation.html", rule=NAMESPACE_RULE)


async def new(visit: Visit) -> Response:
    """Make an organisation, with its maker as the admin."""
    try:
        made = await visit.ask(visit.plane.accounts.create_organisation, visit.person.id, visit.form.get("name", ""))
    except BlindAIError as error:
        form = Filled(given=visit.form, error=error, fields=_NEW_FIELDS)
        return visit.page("organisation.html", form=form, rule=NAMESPACE_RULE)
    _log.info("organisation_opened", namespace=made.namespace, user=visit.person.id)
    return see(f"/accounts/{made.namespace}/members?done=opened")


async def members_page(visit: Visit) -> Response:
    """Who works in the account."""
    return await _page(visit)


async def invite(visit: Visit) -> Response:
    """Send an invitation."""
    given = visit.form
    try:
        role = _role(given.get("role", ""))
        await visit.ask(visit.plane.accounts.invite, visit.person.id, visit.namespace, given.get("email", ""), role)
    except BlindAIError as error:
        return await _page(visit, Filled(given=given, error=error, fields=_INVITE_FIELDS))
    _log.info("invited", namespace=visit.namespace, role=role.value, by=visit.person.id)
    return see(visit.at("/members?done=invited"))


async def withdraw(visit: Visit) -> Response:
    """Take an invitation back."""
    try:
        email = visit.form.get("email", "")
        await visit.ask(visit.plane.accounts.withdraw, visit.person.id, visit.namespace, email)
    except BlindAIError as error:
        return await _page(visit, Filled(error=error))
    _log.info("invitation_withdrawn", namespace=visit.namespace, by=visit.person.id)
    return see(visit.at("/members?done=withdrawn"))


async def set_role(visit: Visit) -> Response:
    """Give a member another role."""
    try:
        role = _role(visit.form.get("role", ""))
        member = visit.part("member")
        await visit.ask(visit.plane.accounts.set_role, visit.person.id, visit.namespace, member, role)
    except BlindAIError as error:
        return await _page(visit, Filled(error=error))
    _log.info("role_changed", namespace=visit.namespace, user=member, role=role.value, by=visit.person.id)
    return see(visit.at("/members?done=role"))


async def remove_page(visit: Visit) -> Response:
    """What will happen when a member is removed."""
    found = await visit.ask(visit.plane.accounts.members, visit.person.id, visit.namespace)
    member = next((one for one in found if one.user == visit.part("member")), None)
    if member is None:
        return await _page(visit, status=HTTPStatus.NOT_FOUND)
    return visit.page("remove_member.html", member=member)


async def remove(visit: Visit) -> Response:
    """Remove a member, or leave the organisation."""
    member = visit.part("member")
    try:
        await visit.ask(visit.plane.accounts.remove_member, visit.person.id, visit.namespace, member)
    except BlindAIError as error:
        return await _page(visit, Filled(error=error))
    _log.info("member_removed", namespace=visit.namespace, user=member, by=visit.person.id)
    return see(HOME if member == visit.person.id else visit.at("/members?done=removed"))


async def audit_page(visit: Visit) -> Response:
    """The log of the account, the newest first."""
    asked = visit.query("before")
    before = int(asked) if asked.isascii() and asked.isdigit() and len(asked) <= _MAX_ID_DIGITS else None
    found = await visit.ask(
        visit.plane.accounts.audit, visit.person.id, visit.namespace, before=before, limit=ENTRIES + 1
    )
    older = found[ENTRIES - 1].id if len(found) > ENTRIES else None
    return visit.page("audit.html", entries=found[:ENTRIES], older=older, newest=before is None)


async def close_page(visit: Visit) -> Response:
    """What will be lost, and the form that asks for the name once more."""
    return visit.page("close.html", personal=_is_personal(visit))


async def close(visit: Visit) -> Response:
    """Close an organisation."""
    try:
        if visit.form.get("name", "") != visit.namespace:
            raise InvalidInput("this is not the name of the organisation", code="account.confirmation")
        await visit.ask(visit.plane.accounts.close, visit.person.id, visit.namespace)
    except BlindAIError as error:
        form = Filled(given=visit.form, error=error, fields=_CLOSE_FIELDS)
        return visit.page("close.html", form=form, personal=_is_personal(visit))
    _log.info("account_closed", namespace=visit.namespace, by=visit.person.id)
    return see(HOME)


async def invitation_page(visit: Visit) -> Response:
    """The link in the mail."""
    return visit.page("invitation.html", link=visit.query("link"))


async def accept(visit: Visit) -> Response:
    """Become a member."""
    link = visit.form.get("link", "")
    try:
        joined = await visit.ask(visit.plane.accounts.accept, visit.person.id, link)
    except BlindAIError as error:
        return visit.page("invitation.html", form=Filled(error=error), link=link)
    _log.info("joined", namespace=joined.namespace, user=visit.person.id)
    return see(f"/accounts/{quote(joined.namespace)}/members?done=joined")


async def _page(visit: Visit, form: Filled | None = None, *, status: int = 200) -> Response:
    accounts, user = visit.plane.accounts, visit.person.id
    manages = visit.may(Action.MEMBERS)
    return visit.page(
        "members.html",
        status=status,
        form=form or Filled(),
        members=await visit.ask(accounts.members, user, visit.namespace),
        invitations=await visit.ask(accounts.invitations, user, visit.namespace) if manages else (),
        manages=manages,
        personal=_is_personal(visit),
        roles=ROLES,
        done=DONE.get(visit.query("done")),
    )


def _is_personal(visit: Visit) -> bool:
    return any(one.namespace == visit.namespace and one.kind == "personal" for one in visit.memberships)


def _role(value: str) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise InvalidInput("choose one of the roles", code="account.role_unknown") from None


_MEMBERS: Final = ACCOUNT + "/members"
_MEMBER: Final = _MEMBERS + "/{member}"

ADDRESSES: Final = (
    Address("GET", NEW, new_page),
    Address("POST", NEW, new),
    Address("GET", INVITATION, invitation_page),
    Address("POST", INVITATION, accept),
    Address("GET", _MEMBERS, members_page, Action.VIEW),
    Address("POST", ACCOUNT + "/invitations", invite, Action.MEMBERS),
    Address("POST", ACCOUNT + "/invitations/withdraw", withdraw, Action.MEMBERS),
    Address("POST", _MEMBER + "/role", set_role, Action.MEMBERS),
    # Everybody may leave; whom else one may remove, `Accounts.remove_member` decides.
    Address("GET", _MEMBER + "/remove", remove_page, Action.VIEW),
    Address("POST", _MEMBER + "/remove", remove, Action.VIEW),
    Address("GET", ACCOUNT + "/audit", audit_page, Action.AUDIT),
    Address("GET", ACCOUNT + "/close", close_page, Action.CLOSE),
    Address("POST", ACCOUNT + "/close", close, Action.CLOSE),
)
