"""Signing a command line in with the help of a browser (RFC 8628, device authorization grant).

Each method works on a connection whose transaction is the caller's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from blindai.cloud import tables
from blindai.cloud.identity.labels import require_label
from blindai.cloud.site import Site
from blindai.errors import AuthenticationError, InvalidInput
from blindai.wire.cloud_api import DENIED, EXPIRED, PENDING, SLOW_DOWN, DeviceCodes

# Where people type the code.
PAGE: Final = "/device"

# 20 letters without vowels and without look-alikes of digits, 8 of them (RFC 8628, section 6.1): 34 bits, of which
# somebody who is signed in may try ten, and then one a minute.
ALPHABET: Final = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_CHARACTERS: Final = 8

# Long enough to find one's password, short enough that a guess finds few (section 5.1).
LIFETIME_SECONDS: Final = 600

# Between two questions of a command line (section 3.2 has 5 where nothing else is said).
INTERVAL_SECONDS: Final = 5

DEVICE_CODE_BYTES: Final = 32

_APPROVED: Final = "approved"
_DENIED: Final = "denied"
_PENDING: Final = "pending"


class Devices:
    """The grants in the database.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, site: Site, *, clock: Callable[[], float]) -> None:
        self._page = f"{site.url}{PAGE}"
        self._clock = clock

    def begin(self, connection: Connection, name: str) -> DeviceCodes:
        """The codes for a command line of that name.

        Raises:
            InvalidInput: `device.name`.
        """
        now, rows = int(self._clock()), tables.device_grants.c
        require_label(name, code="device.name")
        connection.execute(delete(tables.device_grants).where(rows.created_at <= now - LIFETIME_SECONDS))
        device_code = secrets.token_urlsafe(DEVICE_CODE_BYTES)
        # Two of a thousand open ones are alike once in ten million times; then the database refuses the second.
        letters = "".join(secrets.choice(ALPHABET) for _ in range(USER_CODE_CHARACTERS))
        connection.execute(
            insert(tables.device_grants).values(
                id=_digest(device_code),
                user_code=letters,
                user=None,
                name=name,
                state=_PENDING,
                created_at=now,
                polled_at=None,
            )
        )
        user_code = f"{letters[:4]}-{letters[4:]}"
        return DeviceCodes(
            device_code=device_code,
            user_code=user_code,
            verification_uri=self._page,
            verification_uri_complete=f"{self._page}?code={user_code}",
            expires_in=LIFETIME_SECONDS,
            interval=INTERVAL_SECONDS,
        )

    def find(self, connection: Connection, user_code: str) -> Row[Any] | None:
        """The grant that waits for a decision under this code, locked; as people type codes."""
        letters = "".join(letter for letter in user_code.upper() if letter not in " -")
        if len(letters) != USER_CODE_CHARACTERS or not set(letters) <= set(ALPHABET):
            return None
        query = select(tables.device_grants).where(tables.device_grants.c.user_code == letters)
        row = connection.execute(query.with_for_update()).one_or_none()
        return None if row is None or row.state != _PENDING or self._is_over(row) else row

    def decide(self, connection: Connection, row: Row[Any], user_id: str, *, approve: bool) -> None:
        """Let a command line in as this user, or not."""
        connection.execute(
            update(tables.device_grants)
            .where(tables.device_grants.c.id == row.id)
            .values(user=user_id, state=_APPROVED if approve else _DENIED)
        )

    def take(self, connection: Connection, device_code: str) -> Row[Any] | AuthenticationError:
        """The grant of a command line that was let in, which is gone then; or why there is none (yet).

        The refusal is returned and not raised, for that the command line has asked is written down.
        """
        query = select(tables.device_grants).where(tables.device_grants.c.id == _digest(device_code))
        row = connection.execute(query.with_for_update()).one_or_none()
        if row is None or self._is_over(row):
            return AuthenticationError("the code is too old, or was used", code=EXPIRED, hint="begin again")
        if row.state == _PENDING:
            now = int(self._clock())
            early = row.polled_at is not None and now < row.polled_at + INTERVAL_SECONDS
            mine = tables.device_grants.c.id == row.id
            connection.execute(update(tables.device_grants).where(mine).values(polled_at=now))
            if early:
                return AuthenticationError(f"ask every {INTERVAL_SECONDS} seconds", code=SLOW_DOWN)
            return AuthenticationError("nobody has decided yet", code=PENDING)
        connection.execute(delete(tables.device_grants).where(tables.device_grants.c.id == row.id))
        if row.state == _DENIED:
            return AuthenticationError("the sign-in was declined", code=DENIED)
        return row

    def remove_all(self, connection: Connection, user_id: str) -> None:
        """Forget the grants that a user has decided about."""
        connection.execute(delete(tables.device_grants).where(tables.device_grants.c.user == user_id))

    def _is_over(self, row: Row[Any]) -> bool:
        return int(self._clock()) >= int(row.created_at) + LIFETIME_SECONDS


def unknown() -> InvalidInput:
    """The refusal of a code that nobody waits with."""
    return InvalidInput(
        "no command line waits with this code", code="device.code", hint="compare the letters, or begin again"
    )


def _digest(device_code: str) -> str:
    return hashlib.sha256(b"blindai/device-code/v1\0" + device_code.encode("utf-8", "surrogatepass")).hexdigest()
