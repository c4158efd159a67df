"""The rows of people. Each method works on a connection whose transaction is the caller's."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from blindai.cloud import tables
from blindai.errors import InvalidInput

ID_PREFIX: Final = "user-"

# 16 characters of base32. Ids need not be secret, only different.
_ID_BYTES: Final = 10


@dataclass(frozen=True)
class User:
    """Somebody who has signed up and not left.

    Attributes:
        verified: the mail to their address has been answered. Without that they cannot sign in.
        has_password: without one there is at least one passkey.
    """

    id: str
    email: str
    verified: bool
    has_password: bool
    created_at: datetime


def new_id() -> str:
    """An id that nobody has."""
    return ID_PREFIX + base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()


def user_of(row: Row[Any]) -> User:
    """The row as others see it."""
    return User(
        id=row.id,
        email=row.email,
        verified=row.verified_at is not None,
        has_password=row.password is not None,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )


def add(connection: Connection, user_id: str, *, email: str | None, password: str | None, now: int) -> None:
    """Write down somebody whose address is yet to be verified."""
    connection.execute(
        insert(tables.users).values(
            id=user_id, email=email, password=password, created_at=now, verified_at=None, left_at=None
        )
    )


def find(connection: Connection, user_id: str, *, lock: bool = False) -> Row[Any] | None:
    """The row of somebody who has not left."""
    query = select(tables.users).where(tables.users.c.id == user_id, tables.users.c.left_at.is_(None))
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def find_email(connection: Connection, email: str, *, lock: bool = False) -> Row[Any] | None:
    """The row of whoever has this address, which is in its normal form."""
    query = select(tables.users).where(tables.users.c.email == email)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def known(connection: Connection, user_id: str) -> Row[Any]:
    """As `find`, and locked until the end of the transaction.

    Raises:
        InvalidInput: `identity.unknown`.
    """
    row = find(connection, user_id, lock=True)
    if row is None:
        raise InvalidInput("there is no such user", code="identity.unknown")
    return row


def change(connection: Connection, user_id: str, **values: object) -> None:
    """Write columns of a row."""
    connection.execute(update(tables.users).where(tables.users.c.id == user_id).values(**values))


def remove(connection: Connection, user_id: str) -> None:
    """Delete a row that nothing refers to: of somebody who was never verified."""
    connection.execute(delete(tables.users).where(tables.users.c.id == user_id))
