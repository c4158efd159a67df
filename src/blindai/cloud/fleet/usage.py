"""What was done with keys: totals of instances in, counts by hour and by month out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from blindai.cloud.tables import models, months, namespaces, totals, usage
from blindai.errors import InvalidInput
from blindai.web.database import POSTGRESQL
from blindai.wire.cloud_api import UsageHour, UsageReport

if TYPE_CHECKING:
    from blindai.wire.cloud import UsageTotal

HOUR_SECONDS: Final = 3600

# What the page of an account shows, and all that is kept of single hours.
KEPT_HOURS: Final = 30 * 24

COUNTS: Final = ("queries", "failed", "limited", "uploads", "deletions")

_NOBODY: Final = ("", "")


def month_of(now: float) -> int:
    """The number of the month, in UTC, as `tables.months` has it."""
    date = datetime.fromtimestamp(now, UTC)
    return date.year * 12 + date.month - 1


def add(connection: sa.Connection, instance: str, reported: Iterable[UsageTotal], *, now: float) -> None:
    """Count what is above the totals that `instance`, whose row is locked, has reported before.

    What is said of accounts that do not exist is dropped.

    Raises:
        InvalidInput: `fleet.totals`, a total is smaller than the one before it, is given twice, or names an account
            without a key or a key without an account.
    """
    given = _by_holder(reported)
    known = {name for (name,) in connection.execute(sa.select(namespaces.c.name).where(_in({key[0] for key in given})))}
    # Sorted: transactions of several instances change the same rows in the same order, and none waits for ever.
    for holder in sorted(holder for holder in given if holder == _NOBODY or holder[0] in known):
        _count(connection, instance, holder, given[holder], now)


def forget(connection: sa.Connection, now: float) -> None:
    """Drop the hours that no page shows any more."""
    connection.execute(sa.delete(usage).where(usage.c.hour < _hour(now) - KEPT_HOURS))


def report(connection: sa.Connection, namespace: str, *, now: float) -> UsageReport:
    """What an account uses and may use.

    Raises:
        InvalidInput: `account.unknown`.
    """
    account = connection.execute(sa.select(namespaces).where(namespaces.c.name == namespace)).one_or_none()
    if account is None:
        raise InvalidInput("there is no such account", code="account.unknown")
    held = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(models.c.bytes), 0)).where(
            models.c.namespace == namespace
        )
    ).one()
    month = sa.select(months.c.queries).where(months.c.namespace == namespace, months.c.month == month_of(now))
    return UsageReport(
        namespace=namespace,
        models=int(held[0]),
        max_models=account.max_models,
        bytes=int(held[1]),
        max_bytes=account.max_bytes,
        per_minute=account.per_minute,
        month_queries=connection.execute(month).scalar_one_or_none() or 0,
        per_month=account.per_month,
        hours=tuple(_hours(connection, namespace, now)),
    )


def _hours(connection: sa.Connection, namespace: str, now: float) -> Iterable[UsageHour]:
    sums = [sa.func.sum(usage.c[name]).label(name) for name in COUNTS]
    query = (
        sa.select(usage.c.hour, *sums)
        .where(usage.c.namespace == namespace, usage.c.hour > _hour(now) - KEPT_HOURS)
        .group_by(usage.c.hour)
        .order_by(usage.c.hour)
    )
    for row in connection.execute(query):
        # Sums of PostgreSQL are Decimal.
        counts = {name: int(getattr(row, name)) for name in COUNTS}
        yield UsageHour(hour=datetime.fromtimestamp(row.hour * HOUR_SECONDS, UTC), **counts)


def _by_holder(reported: Iterable[UsageTotal]) -> dict[tuple[str, str], UsageTotal]:
    given: dict[tuple[str, str], UsageTotal] = {}
    for total in reported:
        holder = (total.namespace or "", total.key_id or "")
        if holder in given or (holder != _NOBODY and "" in holder):
            raise InvalidInput("a total names one key of one account, and is given once", code="fleet.totals")
        given[holder] = total
    return given


def _count(connection: sa.Connection, instance: str, holder: tuple[str, str], total: UsageTotal, now: float) -> None:
    row = {"instance": instance, "namespace": holder[0], "key_id": holder[1]}
    where = sa.and_(*(totals.c[name] == value for name, value in row.items()))
    before = connection.execute(sa.select(totals).where(where)).one_or_none()
    given = {name: getattr(total, name) for name in COUNTS}
    more = {name: value - (getattr(before, name) if before else 0) for name, value in given.items()}
    if min(more.values()) < 0:
        raise InvalidInput("a total is smaller than the one that was reported before", code="fleet.totals")
    if before is None:
        connection.execute(sa.insert(totals).values(row | given))
    elif any(more.values()):
        connection.execute(sa.update(totals).where(where).values(given))
    if any(more.values()):
        hour = {"namespace": holder[0], "key_id": holder[1], "hour": _hour(now)}
        _add(connection, usage, hour, more)
    if more["queries"] and holder != _NOBODY:
        _add(connection, months, {"namespace": holder[0], "month": month_of(now)}, {"queries": more["queries"]})


def _add(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    """Add to a row, which is made where there is none."""
    if connection.dialect.name == POSTGRESQL:
        insert = postgresql.insert(table).values(**key, **counts)
        changed = {name: table.c[name] + insert.excluded[name] for name in counts}
        connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=changed))
    else:
        made = sqlite.insert(table).values(**key, **counts)
        changed = {name: table.c[name] + made.excluded[name] for name in counts}
        connection.execute(made.on_conflict_do_update(index_elements=list(key), set_=changed))


def _in(names: set[str]) -> sa.ColumnElement[bool]:
    return namespaces.c.name.in_(sorted(names))


def _hour(now: float) -> int:
    return int(now) // HOUR_SECONDS
