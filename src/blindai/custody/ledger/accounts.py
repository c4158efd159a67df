"""Accounts, and how units move between a lease, its accounts and the instances that hold them.

Every move is made in all three places in one transaction, so that at any moment and for every lease

    sum of what instances were granted = sum of the accounts' granted = the lease's granted

and the same for what was spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from blindai.custody import tables
from blindai.custody.amounts import require_total
from blindai.custody.ledger.leases import Change
from blindai.custody.ledger.rows import TableRow
from blindai.errors import InvalidInput
from blindai.wire.custody import ANYONE

_ACCOUNTS: Final = tables.accounts
_HOLDINGS: Final = tables.holdings


@dataclass(frozen=True, kw_only=True)
class AccountRow(TableRow):
    """A row of `tables.accounts`."""

    lease: str
    consumer: str
    budget: int | None
    granted: int
    spent: int
    token_epoch: int

    @property
    def left(self) -> int | None:
        """Units of its own budget that can still be granted; None where only the lease's bounds it."""
        return None if self.budget is None else self.budget - self.granted

    def available(self, lease_left: int) -> int:
        """Units that can still be granted."""
        return lease_left if self.left is None else min(lease_left, self.left)


@dataclass(frozen=True)
class Holding:
    """What one instance has been granted of one account, and what it has reported as spent."""

    granted: int = 0
    spent: int = 0

    @property
    def outstanding(self) -> int:
        return self.granted - self.spent


def read(connection: sa.Connection, lease: str) -> dict[str, AccountRow]:
    """The accounts of a lease, by consumer, in the order of their names."""
    rows = connection.execute(sa.select(_ACCOUNTS).where(_ACCOUNTS.c.lease == lease).order_by(_ACCOUNTS.c.consumer))
    return {row.consumer: AccountRow.of(row) for row in rows}


def missing(accounts: Mapping[str, AccountRow], consumer: str) -> InvalidInput | None:
    """The refusal of a consumer who is not among `accounts`."""
    if consumer in accounts:
        return None
    name = "an account that is open to anyone" if consumer == ANYONE else f"a consumer {consumer}"
    return InvalidInput(f"this lease does not have {name}", code="lease.consumer")


def find(accounts: Mapping[str, AccountRow], consumer: str) -> AccountRow:
    """The account of `consumer`.

    Raises:
        InvalidInput: `lease.consumer`.
    """
    refusal = missing(accounts, consumer)
    if refusal is not None:
        raise refusal
    return accounts[consumer]


def add(change: Change, consumer: str, budget: int | None) -> None:
    """Open an account."""
    change.connection.execute(
        sa.insert(_ACCOUNTS).values(
            lease=change.lease.id, consumer=consumer, budget=budget, granted=0, spent=0, token_epoch=0
        )
    )


def update(change: Change, consumer: str, **values: Any) -> None:
    """Set columns of an account."""
    change.connection.execute(
        sa.update(_ACCOUNTS)
        .where(_ACCOUNTS.c.lease == change.lease.id, _ACCOUNTS.c.consumer == consumer)
        .values(values)
    )


def raise_own(change: Change, account: AccountRow, amount: int) -> None:
    """Raise the budget of an account that has one.

    Raises:
        InvalidInput: `amount.too_large`, `lease.account_budget`.
    """
    update(change, account.consumer, budget=require_total(require_own(account) + amount))


def require_own(account: AccountRow) -> int:
    """The account's own budget.

    Raises:
        InvalidInput: `lease.account_budget`, it has none.
    """
    if account.budget is None:
        raise InvalidInput(
            f"{account.consumer or 'the open account'} has no budget of its own",
            code="lease.account_budget",
            hint="raise the lease's",
        )
    return account.budget


def raise_lease(change: Change, amount: int) -> None:
    """Raise the budget of the lease.

    Raises:
        InvalidInput: `amount.too_large`.
    """
    change.set(budget=require_total(change.lease.budget + amount))


def holdings(connection: sa.Connection, lease: str, instance: str) -> dict[str, Holding]:
    """What `instance` holds, by consumer."""
    rows = connection.execute(sa.select(_HOLDINGS).where(_HOLDINGS.c.lease == lease, _HOLDINGS.c.instance == instance))
    return {row.consumer: Holding(row.granted, row.spent) for row in rows}


def debit(change: Change, instance: str, quantities: Mapping[str, int], held: Mapping[str, Holding]) -> None:
    """Move units into the hands of `instance`; `held` is what it has already."""
    given = {consumer: units for consumer, units in quantities.items() if units}
    if not given:
        return
    new = [consumer for consumer in given if consumer not in held]
    if new:
        change.connection.execute(
            sa.insert(_HOLDINGS),
            [
                {"lease": change.lease.id, "instance": instance, "consumer": consumer, "granted": 0, "spent": 0}
                for consumer in new
            ],
        )
    _move(change, instance, {consumer: (units, 0) for consumer, units in given.items()})


def spend(change: Change, instance: str, units: Mapping[str, int]) -> None:
    """Note units that `instance` held as spent."""
    _move(change, instance, {consumer: (0, spent) for consumer, spent in units.items() if spent})


def refund(change: Change, instance: str) -> dict[str, int]:
    """Take back what `instance` holds and has not spent. Returns it, by consumer."""
    held = holdings(change.connection, change.lease.id, instance)
    unspent = {consumer: holding.outstanding for consumer, holding in held.items() if holding.outstanding}
    _move(change, instance, {consumer: (-units, 0) for consumer, units in unspent.items()})
    return unspent


def _move(change: Change, instance: str, moves: Mapping[str, tuple[int, int]]) -> None:
    """Add to granted and spent, by consumer, of the instance, of the accounts and of the lease."""
    if not moves:
        return
    rows = [
        {"of": consumer, "by_granted": granted, "by_spent": spent}
        # In one order: two transactions that wait for each other's rows would be a deadlock.
        for consumer, (granted, spent) in sorted(moves.items())
    ]
    for table, where in (
        (_HOLDINGS, (_HOLDINGS.c.lease == change.lease.id, _HOLDINGS.c.instance == instance)),
        (_ACCOUNTS, (_ACCOUNTS.c.lease == change.lease.id,)),
    ):
        change.connection.execute(
            sa.update(table)
            .where(*where, table.c.consumer == sa.bindparam("of"))
            .values(
                granted=table.c.granted + sa.bindparam("by_granted"), spent=table.c.spent + sa.bindparam("by_spent")
            ),
            rows,
        )
    change.set(
        granted=change.lease.granted + sum(granted for granted, _ in moves.values()),
        spent=change.lease.spent + sum(spent for _, spent in moves.values()),
    )
