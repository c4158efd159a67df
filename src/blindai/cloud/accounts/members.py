"""Who works in an account, and as what. Who loses the right to make keys loses those that they have made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from blindai.cloud import tables
from blindai.cloud.accounts import audit, keys
from blindai.cloud.accounts.roles import ALLOWED, Action, Role
from blindai.errors import InvalidInput, QuotaExceeded

# Of one organisation. Its page and its log are read by people; one of this size is several.
MAX_MEMBERS: Final = 500

JOINED: Final = "member.joined"
ROLE: Final = "member.role"
REMOVED: Final = "member.removed"


@dataclass(frozen=True)
class Member:
    """Somebody who works in an account.

    Attributes:
        user: id.
    """

    user: str
    email: str
    role: Role
    joined_at: datetime


def of(connection: Connection, namespace: str) -> tuple[Member, ...]:
    """The members of an account, by address."""
    members, users = tables.members.c, tables.users.c
    query = (
        select(members.user, users.email, members.role, members.joined_at)
        .join_from(tables.members, tables.users, users.id == members.user)
        .where(members.namespace == namespace)
        .order_by(users.email)
    )
    return tuple(
        Member(row.user, row.email or "", Role(row.role), datetime.fromtimestamp(row.joined_at, UTC))
        for row in connection.execute(query)
    )


def roles_of(connection: Connection, namespace: str) -> dict[str, Role]:
    """The role of every member, by user. The account is locked, or it may be another one the next moment."""
    members = tables.members.c
    query = select(members.user, members.role).where(members.namespace == namespace)
    return {row.user: Role(row.role) for row in connection.execute(query)}


def require_room(connection: Connection, namespace: str) -> None:
    """Refuse more members than an organisation may have.

    Raises:
        QuotaExceeded: `account.members`.
    """
    counted = select(func.count()).select_from(tables.members).where(tables.members.c.namespace == namespace)
    if connection.execute(counted).scalar_one() >= MAX_MEMBERS:
        raise QuotaExceeded(
            f"the organisation has {MAX_MEMBERS} members, which is as many as it may", code="account.members"
        )


def join(connection: Connection, namespace: str, user: str, role: Role, *, at: int) -> None:
    """Make `user` a member. The account is locked."""
    connection.execute(insert(tables.members).values(namespace=namespace, user=user, role=role.value, joined_at=at))
    audit.note(connection, namespace, user, JOINED, role.value, at=at)


def change_role(connection: Connection, namespace: str, user: str, member: str, role: Role, *, at: int) -> None:
    """Give a member another role. The account is locked.

    Raises:
        InvalidInput: `account.member_unknown`, `account.last_admin`.
    """
    roles = roles_of(connection, namespace)
    _require_known(roles, member)
    if roles[member] is role:
        return
    if role is not Role.ADMIN:
        _require_other_admin(roles, member)
    rows = tables.members.c
    connection.execute(
        update(tables.members).where(rows.namespace == namespace, rows.user == member).values(role=role.value)
    )
    audit.note(connection, namespace, user, ROLE, f"{role.value} {member}", at=at)
    if Action.KEYS not in ALLOWED[role]:
        keys.revoke_all(connection, namespace, user, made_by=member, at=at)


def remove(connection: Connection, namespace: str, user: str, member: str, *, at: int) -> None:
    """End a membership, with the keys that the member has made. The account is locked.

    Raises:
        InvalidInput: `account.member_unknown`, `account.last_admin`.
    """
    roles = roles_of(connection, namespace)
    _require_known(roles, member)
    _require_other_admin(roles, member)
    rows = tables.members.c
    connection.execute(delete(tables.members).where(rows.namespace == namespace, rows.user == member))
    audit.note(connection, namespace, user, REMOVED, member, at=at)
    keys.revoke_all(connection, namespace, user, made_by=member, at=at)


def remove_all(connection: Connection, namespace: str) -> None:
    """End every membership of an account that was closed."""
    connection.execute(delete(tables.members).where(tables.members.c.namespace == namespace))


def unknown() -> InvalidInput:
    """The answer for whoever is no member."""
    return InvalidInput("the account has no such member", code="account.member_unknown")


def _require_known(roles: dict[str, Role], member: str) -> None:
    if member not in roles:
        raise unknown()


def _require_other_admin(roles: dict[str, Role], member: str) -> None:
    if {user for user, role in roles.items() if role is Role.ADMIN} == {member}:
        raise InvalidInput(
            "nobody could manage the account any more: this is its last admin",
            code="account.last_admin",
            hint="make another member admin first, or close the organisation",
        )
