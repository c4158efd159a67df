"""Challenges for passkeys: each is for one browser and one purpose, and is answered once.

Each method works on a connection whose transaction is the caller's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from blindai.cloud import tables
from blindai.errors import InvalidInput

# Web Authentication Level 3, section 13.4.3, asks for 16 at least.
CHALLENGE_BYTES: Final = 32

# As long as browsers wait for somebody to find their key (same, section 15.1: 5 to 10 minutes).
LIFETIME_SECONDS: Final = 300


class Purpose(StrEnum):
    """What a passkey is asked for."""

    SIGN_UP = "sign-up"
    SIGN_IN = "sign-in"
    ADD = "add"


@dataclass(frozen=True)
class Ceremony:
    """A challenge that has been handed out.

    Attributes:
        details: what its answer completes.
    """

    challenge: bytes
    details: dict[str, str]


class Ceremonies:
    """The challenges in the database.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock

    def begin(self, connection: Connection, cookie: str, purpose: Purpose, **details: str) -> bytes:
        """A new challenge, in place of one that the same browser had for the same purpose.

        Args:
            cookie: of the visitor or of the session. Only who has it can use the answer.
        """
        now, rows = int(self._clock()), tables.ceremonies.c
        key = _digest(cookie)
        connection.execute(
            delete(tables.ceremonies).where(
                (rows.created_at <= now - LIFETIME_SECONDS) | ((rows.id == key) & (rows.purpose == purpose.value))
            )
        )
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        connection.execute(
            insert(tables.ceremonies).values(
                id=key, purpose=purpose.value, challenge=challenge, details=json.dumps(details), created_at=now
            )
        )
        return challenge

    def take(self, connection: Connection, cookie: str, purpose: Purpose) -> Ceremony:
        """The challenge that this browser was given. It is gone once the transaction is done.

        Raises:
            InvalidInput: `identity.ceremony`.
        """
        rows = tables.ceremonies.c
        mine = (rows.id == _digest(cookie)) & (rows.purpose == purpose.value)
        row = connection.execute(select(tables.ceremonies).where(mine).with_for_update()).one_or_none()
        if row is None:
            raise over()
        connection.execute(delete(tables.ceremonies).where(mine))
        if int(self._clock()) >= row.created_at + LIFETIME_SECONDS:
            raise over()
        return Ceremony(bytes(row.challenge), json.loads(row.details))


def over() -> InvalidInput:
    """The refusal of an answer to no challenge, or to another one."""
    return InvalidInput(
        "this passkey was asked for too long ago, or by another page",
        code="identity.ceremony",
        hint="load the page again and repeat what you did",
    )


def _digest(cookie: str) -> str:
    return hashlib.sha256(b"blindai/ceremony/v1\0" + cookie.encode("utf-8", "surrogatepass")).hexdigest()
