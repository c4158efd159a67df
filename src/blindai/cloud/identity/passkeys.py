"""The passkeys of users. Each function works on a connection whose transaction is the caller's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from blindai.cloud import tables
from blindai.cloud.identity.authenticators import Registered
from blindai.errors import AuthenticationError, InvalidInput, QuotaExceeded

# A person has a few devices.
MAX_PASSKEYS: Final = 20


@dataclass(frozen=True)
class Passkey:
    """One passkey.

    Attributes:
        id: of the credential, in base64url.
        name: what its user calls it.
        used_at: when it last signed somebody in.
    """

    id: str
    name: str
    created_at: datetime
    used_at: datetime | None


def of(connection: Connection, user_id: str) -> tuple[Passkey, ...]:
    """The passkeys of a user, the oldest first."""
    rows = tables.passkeys.c
    query = select(tables.passkeys).where(rows.user == user_id).order_by(rows.created_at, rows.id)
    return tuple(_passkey(row) for row in connection.execute(query))


def add(connection: Connection, user_id: str, made: Registered, name: str, *, now: int) -> Passkey:
    """Keep a new one, of a user whose row is locked.

    Raises:
        InvalidInput: `identity.passkey_taken`.
        QuotaExceeded: `identity.passkeys`.
    """
    rows = tables.passkeys.c
    count = connection.execute(
        select(func.count()).select_from(tables.passkeys).where(rows.user == user_id)
    ).scalar_one()
    if count >= MAX_PASSKEYS:
        raise QuotaExceeded(f"you have {MAX_PASSKEYS} passkeys, which is as many as one may", code="identity.passkeys")
    try:
        with connection.begin_nested():
            connection.execute(
                insert(tables.passkeys).values(
                    id=made.id,
                    user=user_id,
                    name=name,
                    public_key=made.public_key,
                    sign_count=made.sign_count,
                    transports=json.dumps(made.transports),
                    created_at=now,
                    used_at=None,
                )
            )
    except IntegrityError:
        # Ids are random, and authenticators do not make two alike (Web Authentication Level 3, section 7.1, step 26).
        raise InvalidInput("this passkey is in use already", code="identity.passkey_taken") from None
    return Passkey(made.id, name, datetime.fromtimestamp(now, UTC), None)


def find(connection: Connection, passkey_id: str) -> Row[Any] | None:
    """The row of a passkey, locked."""
    query = select(tables.passkeys).where(tables.passkeys.c.id == passkey_id)
    return connection.execute(query.with_for_update()).one_or_none()


def used(connection: Connection, row: Row[Any], sign_count: int, *, now: int) -> bool:
    """Note that a passkey signed somebody in, unless its counter says that there is a copy of it.

    A counter that does not grow is of a copy, or of the original after one (section 6.1.1). Passkeys that are kept in
    a cloud count nothing, and say 0.

    Returns:
        Whether it may.
    """
    if (sign_count or row.sign_count) and sign_count <= row.sign_count:
        return False
    connection.execute(
        update(tables.passkeys).where(tables.passkeys.c.id == row.id).values(sign_count=sign_count, used_at=now)
    )
    return True


def remove(connection: Connection, user_id: str, passkey_id: str, *, has_password: bool) -> Passkey:
    """Delete a passkey of a user whose row is locked.

    Raises:
        InvalidInput: `identity.passkey_unknown`; `identity.last_passkey`, if nothing else could sign the user in.
    """
    mine = {one.id: one for one in of(connection, user_id)}
    if passkey_id not in mine:
        raise InvalidInput("you have no such passkey", code="identity.passkey_unknown")
    if len(mine) == 1 and not has_password:
        raise InvalidInput(
            "you have no password: without this passkey you could not sign in",
            code="identity.last_passkey",
            hint="add another passkey, or choose a password by mail first",
        )
    connection.execute(delete(tables.passkeys).where(tables.passkeys.c.id == passkey_id))
    return mine[passkey_id]


def remove_all(connection: Connection, user_id: str) -> None:
    """Delete all passkeys of a user."""
    connection.execute(delete(tables.passkeys).where(tables.passkeys.c.user == user_id))


def unknown() -> AuthenticationError:
    """The refusal of a passkey that signs nobody in."""
    return AuthenticationError(
        "this passkey signs nobody in here",
        code="authentication.passkey",
        hint="sign in with your password, and remove this passkey from your device if it is an old one",
    )


def cloned() -> AuthenticationError:
    """The refusal of a passkey of which there seems to be a copy."""
    return AuthenticationError(
        "the counter of this passkey says that there is a copy of it",
        code="identity.passkey_cloned",
        hint="sign in in another way, remove the passkey, and add it again",
    )


def _passkey(row: Row[Any]) -> Passkey:
    used_at = None if row.used_at is None else datetime.fromtimestamp(row.used_at, UTC)
    return Passkey(row.id, row.name, datetime.fromtimestamp(row.created_at, UTC), used_at)
