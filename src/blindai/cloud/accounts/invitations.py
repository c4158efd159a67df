"""Invitations into an organisation. They go to an address, and only the user with that address can accept them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select

from blindai.cloud import tables
from blindai.cloud.accounts import audit, members
from blindai.cloud.accounts.roles import Role
from blindai.cloud.mail import Message
from blindai.cloud.site import Site
from blindai.errors import InvalidInput, PermissionDenied, QuotaExceeded

# Long enough for a holiday. Whoever comes later asks for another.
LIFETIME_SECONDS: Final = 14 * 24 * 3600

# Mails that one account can cause in a day, to addresses of strangers. An organisation that invites more people than
# that at once takes two days.
MAX_MAILS_PER_DAY: Final = 50

INVITED: Final = "member.invited"
WITHDRAWN: Final = "invitation.withdrawn"

# Where the page is on which an invitation is accepted; the link is the parameter `link`.
PAGE: Final = "/invitation"

# 256 bits.
_LINK_BYTES: Final = 32

_DAY_SECONDS: Final = 24 * 3600


@dataclass(frozen=True)
class Invitation:
    """One that nobody has accepted yet.

    Attributes:
        invited_by: address of the admin, or their id if they have left.
        expires_at: it may be past: then it can only be sent again or withdrawn.
    """

    email: str
    role: Role
    invited_by: str
    created_at: datetime
    expires_at: datetime


def of(connection: Connection, namespace: str) -> tuple[Invitation, ...]:
    """The invitations of an account, by address."""
    rows, users = tables.invitations.c, tables.users.c
    query = (
        select(tables.invitations, users.email.label("inviter"))
        .join_from(tables.invitations, tables.users, users.id == rows.invited_by, isouter=True)
        .where(rows.namespace == namespace)
        .order_by(rows.email)
    )
    return tuple(_invitation(row) for row in connection.execute(query))


def invite(connection: Connection, namespace: str, user: str, email: str, role: Role, *, at: int) -> str:
    """Invite `email`, in place of an earlier invitation to it. The account is locked.

    Args:
        email: in the form in which addresses are compared.

    Returns:
        The link's secret, for `mail`. What is stored is its digest.

    Raises:
        InvalidInput: `account.member`: that is one already.
        QuotaExceeded: `account.invitations`, `account.members`.
    """
    _require_no_member(connection, namespace, email)
    members.require_room(connection, namespace)
    _require_fewer_mails(connection, namespace, at)
    rows = tables.invitations.c
    connection.execute(delete(tables.invitations).where(rows.namespace == namespace, rows.email == email))
    link = secrets.token_urlsafe(_LINK_BYTES)
    connection.execute(
        insert(tables.invitations).values(
            id=_digest(link), namespace=namespace, email=email, role=role.value, invited_by=user, created_at=at
        )
    )
    audit.note(connection, namespace, user, INVITED, f"{role.value} {email}", at=at)
    return link


def mail(site: Site, namespace: str, *, inviter: str, email: str, role: Role, link: str) -> Message:
    """What the invited person reads. Nothing in it was written by a user, but for addresses and the account's name."""
    days = LIFETIME_SECONDS // _DAY_SECONDS
    return Message(
        to=email,
        subject=f"{site.name}: invitation to {namespace}",
        text=(
            f"{inviter} invites you to work in the account {namespace} at {site.name}, as {role.value}.\n"
            "\n"
            "To accept, open this page and sign in, or sign up with this address first:\n"
            "\n"
            f"  {site.url}{PAGE}?link={link}\n"
            "\n"
            f"The link is good for {days} days, for this address alone. If you know nothing of this, do nothing.\n"
        ),
    )


def withdraw(connection: Connection, namespace: str, user: str, email: str, *, at: int) -> None:
    """Take an invitation back. The account is locked.

    Raises:
        InvalidInput: `account.invitation`: there is none to this address.
    """
    rows = tables.invitations.c
    done = connection.execute(
        delete(tables.invitations).where(rows.namespace == namespace, rows.email == email).returning(rows.role)
    ).one_or_none()
    if done is None:
        raise InvalidInput("there is no invitation to this address", code="account.invitation")
    audit.note(connection, namespace, user, WITHDRAWN, f"{done.role} {email}", at=at)


def account_of(connection: Connection, link: str) -> str:
    """Which account a link leads into, to be locked.

    Raises:
        InvalidInput: `account.invitation`.
    """
    rows = tables.invitations.c
    namespace = connection.execute(select(rows.namespace).where(rows.id == _digest(link))).scalar_one_or_none()
    if namespace is None:
        raise _dead()
    return str(namespace)


def accept(connection: Connection, namespace: str, user: str, link: str, *, at: int) -> Role:
    """Make a member of the user whom the invitation went to. The account is locked, and the user's row too.

    Raises:
        InvalidInput: `account.invitation`, for one that was used, was withdrawn, or has expired; `account.member`.
        PermissionDenied: `account.invitation_address`: it went to another address than the user's.
        QuotaExceeded: `account.members`.
    """
    rows, users, accounts = tables.invitations.c, tables.users.c, tables.namespaces.c
    row = connection.execute(
        select(tables.invitations)
        .join_from(tables.invitations, tables.namespaces, accounts.name == rows.namespace)
        .where(rows.id == _digest(link), rows.namespace == namespace, accounts.closed_at.is_(None))
    ).one_or_none()
    if row is None or at >= row.created_at + LIFETIME_SECONDS:
        raise _dead()
    email = connection.execute(
        select(users.email).where(users.id == user, users.verified_at.is_not(None), users.left_at.is_(None))
    ).scalar_one_or_none()
    if email != row.email:
        raise PermissionDenied(
            "the invitation went to another address than that of your account",
            code="account.invitation_address",
            hint="sign in with the address that it went to",
        )
    _require_no_member(connection, namespace, row.email)
    members.require_room(connection, namespace)
    connection.execute(delete(tables.invitations).where(rows.id == row.id))
    role = Role(row.role)
    members.join(connection, namespace, user, role, at=at)
    return role


def end_all(connection: Connection, namespace: str) -> None:
    """Remove every invitation into an account that was closed."""
    connection.execute(delete(tables.invitations).where(tables.invitations.c.namespace == namespace))


def end_all_by(connection: Connection, namespace: str, user: str) -> None:
    """Remove the invitations of somebody who is no admin any more: one to themselves must not bring them back."""
    rows = tables.invitations.c
    connection.execute(delete(tables.invitations).where(rows.namespace == namespace, rows.invited_by == user))


def end_all_to(connection: Connection, email: str) -> None:
    """Remove every invitation to the address of a user who leaves."""
    connection.execute(delete(tables.invitations).where(tables.invitations.c.email == email))


def _require_no_member(connection: Connection, namespace: str, email: str) -> None:
    rows, users = tables.members.c, tables.users.c
    query = (
        select(rows.user)
        .join_from(tables.members, tables.users, users.id == rows.user)
        .where(rows.namespace == namespace, users.email == email)
    )
    if connection.execute(query).one_or_none() is not None:
        raise InvalidInput(f"{email} is a member already", code="account.member")


def _require_fewer_mails(connection: Connection, namespace: str, at: int) -> None:
    log = tables.audit.c
    counted = select(func.count()).select_from(tables.audit)
    sent = connection.execute(
        counted.where(log.namespace == namespace, log.action == INVITED, log.at > at - _DAY_SECONDS)
    ).scalar_one()
    if sent >= MAX_MAILS_PER_DAY:
        raise QuotaExceeded(
            f"{MAX_MAILS_PER_DAY} invitations were sent within a day, which is as many as one account may",
            code="account.invitations",
            hint="invite the others tomorrow",
        )


def _digest(link: str) -> str:
    return hashlib.sha256(b"blindai/invitation/v1\0" + link.encode("utf-8", "surrogatepass")).hexdigest()


def _dead() -> InvalidInput:
    return InvalidInput(
        "the invitation is good no more: it was used, was withdrawn, or is too old",
        code="account.invitation",
        hint="ask for another",
    )


def _invitation(row: Row[Any]) -> Invitation:
    return Invitation(
        email=row.email,
        role=Role(row.role),
        invited_by=row.inviter or row.invited_by,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=datetime.fromtimestamp(row.created_at + LIFETIME_SECONDS, UTC),
    )
