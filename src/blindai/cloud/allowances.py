"""What accounts may use and do use, for whoever runs the cloud: nobody else may change it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from blindai.cloud.accounts import audit, namespaces
from blindai.cloud.accounts.namespaces import AccountQuotas
from blindai.cloud.fleet.usage import month_of
from blindai.cloud.tables import members, models, months
from blindai.cloud.tables import namespaces as accounts
from blindai.errors import InvalidInput
from blindai.web.database import retrying
from blindai.wire.cloud import MAX_COUNT

if TYPE_CHECKING:
    from blindai.web.database import Database

# In the log of the account, which its members read.
CHANGED: Final = "quotas.changed"


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """One account.

    Attributes:
        kind: `personal` or `organisation`.
        closed_at: None for one that is open.
        members: people, besides those who are invited.
        quotas: what it may use.
        models, model_bytes: what it has, on all endpoints.
        month_requests: since the month began, in UTC.
    """

    name: str
    kind: str
    opened_at: datetime
    closed_at: datetime | None
    members: int
    quotas: AccountQuotas
    models: int
    model_bytes: int
    month_requests: int


class Allowances:
    """The accounts in one database. Thread-safe; each method is one transaction.

    Args:
        clock: wall clock, in seconds since 1970.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def all(self) -> tuple[Allowance, ...]:
        """Every account, closed ones too, by name."""
        with self._database.read() as connection:
            return self._find(connection)

    def of(self, name: str) -> Allowance:
        """One account.

        Raises:
            InvalidInput: `account.unknown`.
        """
        with self._database.read() as connection:
            return self._one(connection, name)

    @retrying
    def change(self, name: str, quotas: Mapping[str, int | None]) -> Allowance:
        """Let an account use more or less from now on. Enclaves hear of it with the next assertion, in seconds.

        Models that are there already stay, also where they are more than the account may have from now on.

        Args:
            quotas: attributes of `AccountQuotas`; the others stay as they are.

        Raises:
            InvalidInput: `account.unknown`, also for a closed one; `account.quotas`, for what is no number of anything.
        """
        for quota, count in quotas.items():
            unlimited = count is None and quota == "requests_per_month"
            if not unlimited and (count is None or not 0 <= count <= MAX_COUNT):
                raise InvalidInput(f"{quota} is a number from 0 to {MAX_COUNT}", code="account.quotas")
        with self._database.write() as connection:
            row = namespaces.lock_account(connection, name)
            if row is None or row.closed_at is not None:
                raise _unknown()
            if quotas:
                columns = {namespaces.QUOTA_COLUMNS[quota]: count for quota, count in quotas.items()}
                connection.execute(sa.update(accounts).where(accounts.c.name == name).values(columns))
                words = " ".join(f"{quota}={'unlimited' if n is None else n}" for quota, n in sorted(quotas.items()))
                audit.note(connection, name, None, CHANGED, words, at=int(self._clock()))
            return self._one(connection, name)

    def _one(self, connection: sa.Connection, name: str) -> Allowance:
        found = self._find(connection, accounts.c.name == name)
        if not found:
            raise _unknown()
        return found[0]

    def _find(self, connection: sa.Connection, *where: sa.ColumnElement[bool]) -> tuple[Allowance, ...]:
        held = (
            sa.select(models.c.namespace, sa.func.count().label("models"), sa.func.sum(models.c.bytes).label("bytes"))
            .group_by(models.c.namespace)
            .subquery()
        )
        people = (
            sa.select(members.c.namespace, sa.func.count().label("people")).group_by(members.c.namespace).subquery()
        )
        month = sa.and_(months.c.namespace == accounts.c.name, months.c.month == month_of(self._clock()))
        query = (
            sa.select(accounts, held.c.models, held.c.bytes, people.c.people, months.c.queries)
            .outerjoin(held, held.c.namespace == accounts.c.name)
            .outerjoin(people, people.c.namespace == accounts.c.name)
            .outerjoin(months, month)
            .where(*where)
            .order_by(accounts.c.name)
        )
        return tuple(_allowance(row) for row in connection.execute(query))


def _allowance(row: sa.Row[Any]) -> Allowance:
    return Allowance(
        name=row.name,
        kind=row.kind,
        opened_at=datetime.fromtimestamp(row.created_at, UTC),
        closed_at=None if row.closed_at is None else datetime.fromtimestamp(row.closed_at, UTC),
        members=row.people or 0,
        quotas=AccountQuotas(**{quota: getattr(row, column) for quota, column in namespaces.QUOTA_COLUMNS.items()}),
        models=row.models or 0,
        # Sums of PostgreSQL are Decimal.
        model_bytes=int(row.bytes or 0),
        month_requests=row.queries or 0,
    )


def _unknown() -> InvalidInput:
    return InvalidInput("there is no such account", code="account.unknown")
