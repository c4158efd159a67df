"""Links that are sent by mail: what is in them is a secret that works once, for one purpose, for a while.

Each method works on a connection whose transaction is the caller's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from blindai.cloud import tables
from blindai.errors import InvalidInput

# 256 bits.
SECRET_BYTES: Final = 32

# Texts that are longer were never ours; digests of megabytes are work for nothing.
MAX_CHARACTERS: Final = 128


class Purpose(StrEnum):
    """What a link does."""

    VERIFY = "verify"
    RESET = "reset"


# A sign-up waits for a day: people read their mail by the next one. A link that gives a new password to whoever reads
# the mail is for those who are waiting for it (OWASP Forgot Password Cheat Sheet, "URL Tokens").
LIFETIME_SECONDS: Final = {Purpose.VERIFY: 24 * 3600, Purpose.RESET: 3600}


@dataclass(frozen=True)
class Link:
    """A link that was good.

    Attributes:
        email: where it was sent.
    """

    user: str
    email: str


class Links:
    """The links in the database.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock

    def make(self, connection: Connection, user_id: str, email: str, purpose: Purpose) -> str:
        """A new secret. Links of before stay good: mails may be read in another order than they were sent."""
        now = int(self._clock())
        for one, lifetime in LIFETIME_SECONDS.items():
            connection.execute(
                delete(tables.links).where(
                    tables.links.c.purpose == one.value, tables.links.c.created_at <= now - lifetime
                )
            )
        secret = secrets.token_urlsafe(SECRET_BYTES)
        connection.execute(
            insert(tables.links).values(
                id=_digest(secret), user=user_id, purpose=purpose.value, email=email, created_at=now
            )
        )
        return secret

    def find(self, connection: Connection, secret: str, purpose: Purpose, *, lock: bool = False) -> Link:
        """What `secret` stands for.

        Raises:
            InvalidInput: `identity.link`, whatever is wrong with it.
        """
        if len(secret) > MAX_CHARACTERS:
            raise _wrong()
        query = select(tables.links).where(tables.links.c.id == _digest(secret))
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if (
            row is None
            or row.purpose != purpose.value
            or int(self._clock()) >= row.created_at + LIFETIME_SECONDS[purpose]
        ):
            raise _wrong()
        return Link(row.user, row.email)

    def take(self, connection: Connection, secret: str, purpose: Purpose) -> Link:
        """As `find`; the link is good no more once the transaction is done."""
        link = self.find(connection, secret, purpose, lock=True)
        connection.execute(delete(tables.links).where(tables.links.c.id == _digest(secret)))
        return link

    def remove_all(self, connection: Connection, user_id: str) -> None:
        """Make every link of a user worthless."""
        connection.execute(delete(tables.links).where(tables.links.c.user == user_id))


def _wrong() -> InvalidInput:
    return InvalidInput(
        "this link is not good: it was used, is too old, or was not copied whole",
        code="identity.link",
        hint="ask for a new one",
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(b"blindai/link/v1\0" + secret.encode("utf-8", "surrogatepass")).hexdigest()
