"""Who is signed in, kept on the server: the browser holds a random id in a cookie, the database its digest.

A copy of the database signs nobody in. An id is made at each sign-in and never taken from outside, so that nobody can
give a victim an id beforehand (session fixation), and it is dead the moment its row is gone.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Table, delete, insert, select, update

# 256 bits.
ID_BYTES: Final = 32

# A browser that was left alone is signed out after half an hour, and every browser after a working day
# (OWASP Session Management Cheat Sheet, "Session Expiration", for applications of high value).
IDLE_SECONDS: Final = 30 * 60
LIFETIME_SECONDS: Final = 10 * 3600

# `seen_at` is written at most this often: a page that is looked at must not write at every request.
TOUCH_SECONDS: Final = 60

# The prefix makes browsers refuse it without Secure, with Domain, or from a sister domain (RFC 6265bis, 4.1.3.2).
COOKIE: Final = "__Host-session"

Clock = Callable[[], float]


@dataclass(frozen=True)
class Session:
    """One browser that is signed in.

    Attributes:
        id: what its cookie holds. A secret.
        account: name of the account.
    """

    id: str
    account: str

    def __repr__(self) -> str:
        return f"Session(account={self.account!r})"


class Sessions:
    """The sessions in one table. Each method works on a connection whose transaction is the caller's.

    Args:
        table: made by `tables.session_table`.
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, table: Table, *, clock: Clock = time.time) -> None:
        self._table = table
        self._clock = clock

    def begin(self, connection: Connection, account: str) -> Session:
        """Sign `account` in: a new session, with a new id. Rows that have run out are removed on the way."""
        now = int(self._clock())
        rows = self._table.c
        connection.execute(
            delete(self._table).where(
                (rows.created_at <= now - LIFETIME_SECONDS) | (rows.seen_at <= now - IDLE_SECONDS)
            )
        )
        session = Session(secrets.token_urlsafe(ID_BYTES), account)
        connection.execute(
            insert(self._table).values(id=_digest(session.id), account=account, created_at=now, seen_at=now)
        )
        return session

    def find(self, connection: Connection, session_id: str) -> Session | None:
        """The session of this id, unless there is none or its time is over."""
        now = int(self._clock())
        row = connection.execute(select(self._table).where(self._table.c.id == _digest(session_id))).one_or_none()
        if row is None or now >= row.created_at + LIFETIME_SECONDS or now >= row.seen_at + IDLE_SECONDS:
            return None
        return Session(session_id, row.account)

    def is_stale(self, connection: Connection, session: Session) -> bool:
        """Whether `touch` is due."""
        seen = connection.execute(
            select(self._table.c.seen_at).where(self._table.c.id == _digest(session.id))
        ).scalar_one_or_none()
        return seen is not None and int(self._clock()) >= seen + TOUCH_SECONDS

    def touch(self, connection: Connection, session: Session) -> None:
        """Note that the session is in use."""
        connection.execute(
            update(self._table).where(self._table.c.id == _digest(session.id)).values(seen_at=int(self._clock()))
        )

    def end(self, connection: Connection, session_id: str) -> None:
        """Sign this browser out."""
        connection.execute(delete(self._table).where(self._table.c.id == _digest(session_id)))

    def end_all(self, connection: Connection, account: str, *, keep: str | None = None) -> None:
        """Sign `account` out everywhere: its password has changed, or it may not sign in any more.

        Args:
            keep: the id of a session that goes on, if it is one of this account's.
        """
        ended = delete(self._table).where(self._table.c.account == account)
        connection.execute(ended if keep is None else ended.where(self._table.c.id != _digest(keep)))


def _digest(session_id: str) -> str:
    return hashlib.sha256(b"blindai/session/v1\0" + session_id.encode("utf-8", "surrogatepass")).hexdigest()
