"""The accounts themselves: a person's own, and organisations. A name that was given up stays taken.

Whatever changes something in an account locks the account's row first, so that changes of one account come one after
the other, and what was counted still holds when it is acted upon.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from blindai.cloud import tables
from blindai.cloud.accounts import audit
from blindai.cloud.accounts.names import is_name, require_free_form, taken
from blindai.cloud.accounts.roles import Action, Role, require_role
from blindai.errors import InvalidInput, QuotaExceeded
from blindai.wire.cloud_api import Membership

# Made by one user, those that were closed too: their names never come back.
MAX_ORGANISATIONS: Final = 10

OPENED: Final = "account.opened"
ORGANISATION_OPENED: Final = "organisation.opened"
CLOSED: Final = "account.closed"


class Kind(StrEnum):
    """Whose an account is."""

    PERSONAL = "personal"
    ORGANISATION = "organisation"


@dataclass(frozen=True)
class AccountQuotas:
    """What an account may use; by default, a new one. See `cloud.allowances` for changes.

    Attributes:
        models: versions of models at one time.
        model_bytes: of all of them together.
        requests_per_minute: on each endpoint.
        requests_per_month: on all endpoints; None without a limit.
    """

    models: int = 20
    model_bytes: int = 10 << 30
    requests_per_minute: int = 600
    requests_per_month: int | None = 100_000


# By attributes of `AccountQuotas`.
QUOTA_COLUMNS: Final = {
    "models": "max_models",
    "model_bytes": "max_bytes",
    "requests_per_minute": "per_minute",
    "requests_per_month": "per_month",
}


def unknown(name: str) -> InvalidInput:
    """The answer for an account that does not exist, and for one that the asker is no member of."""
    shown = name if is_name(name) else "of this name"
    return InvalidInput(f"there is no account {shown}, or you are no member of it", code="account.unknown")


def insert_account(connection: Connection, name: str, user: str, *, kind: Kind, quotas: AccountQuotas, at: int) -> None:
    """Open an account with `user` as its admin.

    Raises:
        InvalidInput: `account.name`, `account.taken`.
    """
    require_free_form(name)
    try:
        # Within its own savepoint: two who want one name at once must leave the transaction of the slower one whole.
        with connection.begin_nested():
            connection.execute(
                insert(tables.namespaces).values(
                    name=name,
                    kind=kind.value,
                    created_at=at,
                    **{column: getattr(quotas, quota) for quota, column in QUOTA_COLUMNS.items()},
                )
            )
    except IntegrityError:
        raise taken(name) from None
    connection.execute(insert(tables.members).values(namespace=name, user=user, role=Role.ADMIN.value, joined_at=at))
    action = OPENED if kind is Kind.PERSONAL else ORGANISATION_OPENED
    audit.note(connection, name, user, action, name, at=at)


def require_room_for_organisation(connection: Connection, user: str) -> None:
    """Refuse another organisation to a user who has made many.

    Raises:
        QuotaExceeded: `account.organisations`.
    """
    log = tables.audit.c
    # The user's row is what two requests at once queue at.
    connection.execute(select(tables.users.c.id).where(tables.users.c.id == user).with_for_update()).one_or_none()
    made = connection.execute(
        select(func.count()).select_from(tables.audit).where(log.user == user, log.action == ORGANISATION_OPENED)
    ).scalar_one()
    if made >= MAX_ORGANISATIONS:
        raise QuotaExceeded(
            f"you have made {MAX_ORGANISATIONS} organisations, closed ones counted, which is as many as one may",
            code="account.organisations",
        )


def memberships(connection: Connection, user: str) -> tuple[Membership, ...]:
    """The accounts that a user works in: their own first, then by name."""
    rows = connection.execute(_memberships(user).order_by(tables.namespaces.c.name)).all()
    own_first = sorted(rows, key=lambda row: row.kind != Kind.PERSONAL)
    return tuple(Membership(namespace=row.name, kind=row.kind, role=Role(row.role)) for row in own_first)


def require_member(
    connection: Connection, user: str, name: str, action: Action | None, *, lock: bool = False
) -> tuple[Role, Kind]:
    """The role of a member who may do `action` (None: whatever every member may do to themselves).

    Args:
        lock: something in the account is going to be changed.

    Raises:
        InvalidInput: `account.unknown`.
        PermissionDenied: `account.role`.
    """
    if not is_name(name):
        raise unknown(name)
    query = _memberships(user).where(tables.namespaces.c.name == name)
    row = connection.execute(query).one_or_none()
    if row is not None and lock:
        # Not before: a stranger must neither make members wait nor learn from waiting that there are some.
        lock_account(connection, name)
        row = connection.execute(query).one_or_none()
    if row is None:
        raise unknown(name)
    role = Role(row.role)
    if action is not None:
        require_role(role, action)
    return role, Kind(row.kind)


def lock_account(connection: Connection, name: str) -> Row[Any] | None:
    """Make others who change something in this account wait until this transaction is over."""
    query = select(tables.namespaces).where(tables.namespaces.c.name == name)
    return connection.execute(query.with_for_update()).one_or_none()


def require_organisation(kind: Kind) -> None:
    """Refuse what a personal account does not have.

    Raises:
        InvalidInput: `account.personal`.
    """
    if kind is Kind.PERSONAL:
        raise InvalidInput(
            "a personal account has one member, and is closed when that one leaves",
            code="account.personal",
            hint="make an organisation to work with others",
        )


def close_account(connection: Connection, name: str, user: str, *, at: int) -> None:
    """Close an account for good. Its name stays taken; its members, invitations and keys are the caller's to end."""
    connection.execute(update(tables.namespaces).where(tables.namespaces.c.name == name).values(closed_at=at))
    audit.note(connection, name, user, CLOSED, name, at=at)


def remove_account(connection: Connection, name: str) -> None:
    """Remove an account that nobody ever used: of a sign-up that was not finished. Its name is free again."""
    connection.execute(delete(tables.members).where(tables.members.c.namespace == name))
    connection.execute(delete(tables.namespaces).where(tables.namespaces.c.name == name))
    audit.forget_account(connection, name)


def _memberships(user: str) -> Select[Any]:
    """Rows with name, kind and role; none for a user who has not verified their address, or has left."""
    accounts, members, users = tables.namespaces.c, tables.members.c, tables.users.c
    return (
        select(accounts.name, accounts.kind, members.role)
        .join_from(tables.members, tables.namespaces, accounts.name == members.namespace)
        .join(tables.users, users.id == members.user)
        .where(
            members.user == user, accounts.closed_at.is_(None), users.verified_at.is_not(None), users.left_at.is_(None)
        )
    )
