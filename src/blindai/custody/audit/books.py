"""The books of a lease, kept once more by whoever reads its log: 0 <= spent <= granted <= budget after every entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from blindai.custody.audit.findings import Fault


@dataclass
class Account:
    """One consumer's. `budget`: None where only the lease's bounds it."""

    budget: int | None
    granted: int = 0
    spent: int = 0
    token_epoch: int = 0


@dataclass
class Holding:
    """What one instance was given, and what it has spent of it, by consumer."""

    granted: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)

    def outstanding(self, consumer: str) -> int:
        return self.granted[consumer] - self.spent[consumer]


class Books:
    """Budget, grants and spending of one lease.

    Args:
        budget: units of the whole lease.
        accounts: the budget of each consumer, or None.
        fault: told of every rule that is broken.
    """

    def __init__(self, budget: int, accounts: Mapping[str, int | None], fault: Fault) -> None:
        self.budget = budget
        self.accounts = {consumer: Account(own) for consumer, own in accounts.items()}
        self.holdings: dict[str, Holding] = {}
        self._fault = fault

    @property
    def granted(self) -> int:
        return sum(account.granted for account in self.accounts.values())

    @property
    def spent(self) -> int:
        return sum(account.spent for account in self.accounts.values())

    def add(self, consumer: str, budget: int | None) -> None:
        """A consumer joins."""
        if consumer in self.accounts:
            self._fault("audit.consumer", f"{consumer!r} is on the lease already")
            return
        self.accounts[consumer] = Account(budget)

    def account(self, consumer: str) -> Account | None:
        """The account of `consumer`; None, and a fault, where there is none."""
        account = self.accounts.get(consumer)
        if account is None:
            self._fault("audit.consumer", f"{consumer!r} is not on the lease")
        return account

    def raise_account(self, consumer: str, amount: int) -> None:
        """A consumer's own budget grows."""
        account = self.account(consumer)
        if account is None:
            return
        if account.budget is None:
            self._fault("audit.money", f"{consumer!r} has no budget of its own that could be raised")
        else:
            account.budget += amount

    def raise_lease(self, amount: int) -> None:
        """The lease's budget grows."""
        self.budget += amount

    def debit(self, instance: str, quantities: Mapping[str, int]) -> None:
        """Units go into the hands of an instance."""
        holding = self.holdings.setdefault(instance, Holding())
        for consumer, units in quantities.items():
            account = self.account(consumer)
            if account is None:
                continue
            account.granted += units
            holding.granted[consumer] += units
            if account.budget is not None and account.granted > account.budget:
                self._fault(
                    "audit.money", f"{consumer!r} was granted {account.granted} units of a budget of {account.budget}"
                )
        if self.granted > self.budget:
            self._fault("audit.money", f"{self.granted} units were granted of a budget of {self.budget}")

    def spend(self, instance: str, units: Mapping[str, int]) -> None:
        """An instance says what it has spent."""
        holding = self.holdings.setdefault(instance, Holding())
        for consumer, spent in units.items():
            account = self.account(consumer)
            if account is None:
                continue
            if spent > holding.outstanding(consumer):
                self._fault(
                    "audit.money",
                    f"{spent} units of {consumer!r} were spent where {holding.outstanding(consumer)} were held",
                )
            account.spent += spent
            holding.spent[consumer] += spent

    def refund(self, instance: str, units: Mapping[str, int]) -> None:
        """An instance has closed: what it did not spend goes back."""
        holding = self.holdings.setdefault(instance, Holding())
        unspent = {name: left for name in holding.granted if (left := holding.outstanding(name))}
        if units != unspent:
            self._fault("audit.money", f"{dict(units)} went back where {unspent} were left")
        for consumer, left in unspent.items():
            self.accounts[consumer].granted -= left
            holding.granted[consumer] -= left
