"""The people who decide about leases: their accounts, what each may do, and who is signed in.

Operators are known by name: the ledger writes it beside every decision. A name is never given a second time, so that a
log of years ago still means one person, and several approvals are those of several people.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from blindai.custody import tables
from blindai.errors import InvalidInput, PermissionDenied
from blindai.web.database import Database, retrying
from blindai.web.passwords import Passwords, refused, require_strength
from blindai.web.sessions import Session, Sessions
from blindai.web.throttle import Throttle

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Role(StrEnum):
    """What an operator is there for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Action(StrEnum):
    """What can be done, as far as roles tell one from the other."""

    VIEW = "view"  # leases, instances, requests, the log; verify and export it
    STOP = "stop"  # and pause
    RESUME = "resume"
    DECIDE = "decide"  # requests for more budget; raising it
    CONSUMERS = "consumers"  # their accounts and tokens
    OPERATORS = "operators"  # their accounts


_LEASES: Final = frozenset({Action.VIEW, Action.STOP, Action.RESUME, Action.DECIDE, Action.CONSUMERS})

# The only place that says who may do what.
ALLOWED: Final[dict[Role, frozenset[Action]]] = {
    Role.VIEWER: frozenset({Action.VIEW}),
    Role.OPERATOR: _LEASES,
    Role.ADMIN: _LEASES | {Action.OPERATORS},
}


@dataclass(frozen=True)
class Operator:
    """One account.

    Attributes:
        disabled: it cannot sign in any more.
    """

    name: str
    role: Role
    disabled: bool
    created_at: datetime

    def can(self, action: Action) -> bool:
        """Whether to offer `action` on a page; `require` is what stands in its way."""
        return not self.disabled and action in ALLOWED[self.role]

    def require(self, action: Action) -> None:
        """Refuse what this operator may not do.

        Raises:
            PermissionDenied: `operator.role`.
        """
        if not self.can(action):
            roles = [role.value for role in Role if action in ALLOWED[role]]
            raise PermissionDenied(
                f"{self.name} is {self.role}; this needs the role {' or '.join(roles)}", code="operator.role"
            )


def require_name(name: str) -> None:
    """Refuse what cannot be the name of an operator.

    Raises:
        InvalidInput: `operator.name`.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            "the name of an operator is made of a-z, 0-9, '.', '_' and '-', begins with a letter or a digit, "
            "and has 63 characters at most",
            code="operator.name",
        )


class Operators:
    """The accounts in one database. Thread-safe.

    Args:
        clock: wall clock, in seconds since 1970; it decides who must sign in again, and who must wait before a try.
    """

    def __init__(
        self, database: Database, *, passwords: Passwords | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._passwords = passwords or Passwords()
        self._clock = clock
        self._sessions = Sessions(tables.sessions, clock=clock)
        self._throttle = Throttle(tables.sign_in_attempts, clock=clock)

    @retrying
    def add(self, name: str, role: Role, password: str) -> Operator:
        """Make an account.

        Raises:
            InvalidInput: `operator.name`, `operator.exists`, or a `password.*` code.
        """
        require_name(name)
        require_strength(password, name=name)
        stored = self._passwords.hash(password)
        now = int(self._clock())
        with self._database.write() as connection:
            if self._row(connection, name) is not None:
                raise InvalidInput(
                    f"there is an operator {name} already; names are not given twice", code="operator.exists"
                )
            connection.execute(
                insert(tables.operators).values(
                    name=name, role=role.value, password=stored, disabled=False, created_at=now
                )
            )
        return Operator(name, role, disabled=False, created_at=datetime.fromtimestamp(now, UTC))

    def all(self) -> tuple[Operator, ...]:
        """Every account, by name."""
        with self._database.read() as connection:
            return tuple(_operator(row) for row in connection.execute(select(tables.operators).order_by("name")))

    def find(self, name: str) -> Operator:
        """The account `name`.

        Raises:
            InvalidInput: `operator.unknown`.
        """
        with self._database.read() as connection:
            return _operator(self._known(connection, name, lock=False))

    @retrying
    def set_password(self, name: str, password: str) -> None:
        """Give an account another password. It is signed out everywhere.

        Raises:
            InvalidInput: `operator.unknown`, or a `password.*` code.
        """
        require_strength(password, name=name)
        stored = self._passwords.hash(password)
        with self._database.write() as connection:
            self._known(connection, name)
            self._change(connection, name, password=stored)
            self._sessions.end_all(connection, name)

    @retrying
    def disable(self, name: str) -> None:
        """Shut an account, and sign it out everywhere. Its name stays taken.

        Raises:
            InvalidInput: `operator.unknown`, or `operator.last_admin`: nobody could manage the accounts any more.
        """
        with self._database.write() as connection:
            # Locked first, and in one order: two admins who shut out each other at once must not both succeed.
            admins = connection.execute(
                select(tables.operators.c.name)
                .where(tables.operators.c.role == Role.ADMIN.value, ~tables.operators.c.disabled)
                .order_by(tables.operators.c.name)
                .with_for_update()
            ).scalars()
            last = set(admins) == {name}
            self._known(connection, name)
            if last:
                raise InvalidInput(
                    f"{name} is the only admin left", code="operator.last_admin", hint="make another admin first"
                )
            self._change(connection, name, disabled=True)
            self._sessions.end_all(connection, name)

    @retrying
    def enable(self, name: str) -> None:
        """Open an account that was shut.

        Raises:
            InvalidInput: `operator.unknown`.
        """
        with self._database.write() as connection:
            self._known(connection, name)
            self._change(connection, name, disabled=False)

    def check(self, name: str, password: str, *, address: str) -> Operator:
        """The operator whose name and password these are.

        Args:
            address: from where, for counting failures.

        Raises:
            AuthenticationError: `authentication.password`.
            Throttled: `authentication.throttled`.
        """
        return self._checked(name, password, address, begin=False)[0]

    def sign_in(self, name: str, password: str, *, address: str) -> Session:
        """As `check`, and begin a session."""
        session = self._checked(name, password, address, begin=True)[1]
        if session is None:
            raise refused()
        return session

    @retrying
    def sign_out(self, session_id: str) -> None:
        """End one session; an id that is none is no error."""
        with self._database.write() as connection:
            self._sessions.end(connection, session_id)

    def signed_in(self, session_id: str, *, noted: bool = True) -> Operator | None:
        """Whose session this is, if it is one that has not ended.

        Args:
            noted: this is a use of the session, which keeps it from ending.
        """
        with self._database.read() as connection:
            session = self._sessions.find(connection, session_id)
            row = None if session is None else self._row(connection, session.account)
            stale = noted and session is not None and self._sessions.is_stale(connection, session)
        if session is None or row is None or row.disabled:
            return None
        if stale:
            # Between reading and this, it may have ended: then there is no row to write.
            with self._database.write() as connection:
                self._sessions.touch(connection, session)
        return _operator(row)

    def _checked(self, name: str, password: str, address: str, *, begin: bool) -> tuple[Operator, Session | None]:
        row = self._begin(name, address)
        # Outside of a transaction: it takes a while by design.
        renewed = self._passwords.verify(None if row is None else row.password, password)
        with self._database.write() as connection:
            found = self._row(connection, name, lock=True)
            if row is None or found is None or found.disabled or found.password != row.password:
                raise refused()
            self._throttle.succeed(connection, name, address)
            if renewed is not None:
                self._change(connection, name, password=renewed)
            return _operator(found), self._sessions.begin(connection, name) if begin else None

    def _begin(self, name: str, address: str) -> Row[Any] | None:
        @retrying
        def count() -> Row[Any] | None:
            with self._database.write() as connection:
                self._throttle.begin(connection, name, address)
                return self._row(connection, name)

        return count()

    def _known(self, connection: Connection, name: str, *, lock: bool = True) -> Row[Any]:
        row = self._row(connection, name, lock=lock)
        if row is None:
            raise InvalidInput(f"there is no operator {name}", code="operator.unknown")
        return row

    @staticmethod
    def _row(connection: Connection, name: str, *, lock: bool = False) -> Row[Any] | None:
        query = select(tables.operators).where(tables.operators.c.name == name)
        return connection.execute(query.with_for_update() if lock else query).one_or_none()

    @staticmethod
    def _change(connection: Connection, name: str, **values: object) -> None:
        connection.execute(update(tables.operators).where(tables.operators.c.name == name).values(**values))


def _operator(row: Row[Any]) -> Operator:
    return Operator(row.name, Role(row.role), bool(row.disabled), datetime.fromtimestamp(row.created_at, UTC))
