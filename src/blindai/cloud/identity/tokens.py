"""Access tokens of command lines: what they are called, and whose they are.

Each method works on a connection whose transaction is the caller's.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from blindai.cloud import tables
from blindai.errors import InvalidInput
from blindai.wire.cloud_api import TOKEN_PREFIX, AccessToken

# 256 bits.
SECRET_BYTES: Final = 32

# Longer texts were never ours.
MAX_CHARACTERS: Final = 128

# A laptop that was left in a drawer, or lost, is signed out; one in use stays signed in, as people expect of a
# command line.
IDLE_SECONDS: Final = 90 * 24 * 3600

# `used_at` is written at most this often.
TOUCH_SECONDS: Final = 3600

# The one that was unused for longest makes room: machines that come and go sign in again and again.
MAX_TOKENS: Final = 50

_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Token:
    """What is kept of a token.

    Attributes:
        id: its digest, which gives it not away.
        name: what the command line called itself.
    """

    id: str
    name: str
    created_at: datetime
    used_at: datetime


class Tokens:
    """The access tokens in the database.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock

    def make(self, connection: Connection, user_id: str, name: str) -> AccessToken:
        """A new token of a user."""
        now, rows = int(self._clock()), tables.access_tokens.c
        connection.execute(delete(tables.access_tokens).where(rows.used_at <= now - IDLE_SECONDS))
        for old in self.of(connection, user_id)[MAX_TOKENS - 1 :]:
            self.remove(connection, user_id, old.id)
        token = TOKEN_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        connection.execute(
            insert(tables.access_tokens).values(id=_digest(token), user=user_id, name=name, created_at=now, used_at=now)
        )
        return AccessToken(token)

    def find(self, connection: Connection, token: str) -> Row[Any] | None:
        """The row of a token that is good."""
        if not token.startswith(TOKEN_PREFIX) or len(token) > MAX_CHARACTERS:
            return None
        query = select(tables.access_tokens).where(tables.access_tokens.c.id == _digest(token))
        row = connection.execute(query).one_or_none()
        return None if row is None or int(self._clock()) >= row.used_at + IDLE_SECONDS else row

    def is_stale(self, row: Row[Any]) -> bool:
        """Whether `touch` is due."""
        return int(self._clock()) >= int(row.used_at) + TOUCH_SECONDS

    def touch(self, connection: Connection, row: Row[Any]) -> None:
        """Note that a token is in use."""
        connection.execute(
            update(tables.access_tokens).where(tables.access_tokens.c.id == row.id).values(used_at=int(self._clock()))
        )

    def of(self, connection: Connection, user_id: str) -> tuple[Token, ...]:
        """The tokens of a user that are good, those used last first."""
        rows = tables.access_tokens.c
        query = (
            select(tables.access_tokens)
            .where(rows.user == user_id, rows.used_at > int(self._clock()) - IDLE_SECONDS)
            .order_by(rows.used_at.desc(), rows.id)
        )
        return tuple(
            Token(
                row.id, row.name, datetime.fromtimestamp(row.created_at, UTC), datetime.fromtimestamp(row.used_at, UTC)
            )
            for row in connection.execute(query)
        )

    def remove(self, connection: Connection, user_id: str, token_id: str) -> None:
        """Revoke one.

        Raises:
            InvalidInput: `identity.token_unknown`.
        """
        rows = tables.access_tokens.c
        if not _ID.fullmatch(token_id):
            raise _unknown()
        gone = connection.execute(
            delete(tables.access_tokens).where(rows.id == token_id, rows.user == user_id)
        ).rowcount
        if not gone:
            raise _unknown()

    def end(self, connection: Connection, token: str) -> None:
        """Revoke a token by itself; one that is none is no error."""
        connection.execute(delete(tables.access_tokens).where(tables.access_tokens.c.id == _digest(token)))

    def remove_all(self, connection: Connection, user_id: str) -> None:
        """Revoke all of a user."""
        connection.execute(delete(tables.access_tokens).where(tables.access_tokens.c.user == user_id))


def _unknown() -> InvalidInput:
    return InvalidInput("you have no such command line signed in", code="identity.token_unknown")


def _digest(token: str) -> str:
    return hashlib.sha256(b"blindai/access-token/v1\0" + token.encode("utf-8", "surrogatepass")).hexdigest()
