"""Units in hand, and what became of them: integers in memory, touched by the event loop alone, which is their lock.

A unit is reserved before a query starts, and then either spent or released. How many units to ask the custodian for
follows the rate at which they are spent: a busy consumer costs one renewal in a few seconds, an idle one holds next to
nothing that others could use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from blindai.enclave.clock import NS_PER_SECOND
from blindai.wire.custody import RequestState, RequestStatus, Standing, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The first tranche, and the smallest: a few calls need not wait, and next to nothing is lost with the instance.
FIRST_TRANCHE: Final = 4

# A tranche lasts this long at the present rate. What is in hand is lost to the borrower if the enclave dies.
_TRANCHE_SECONDS: Final = 6

# More is asked for when this part of it is left, a second's worth or so: time enough for a renewal that has to be sent
# twice.
_LOW_SHARE: Final = 4

# No tranche is larger, whatever the rate.
MAX_TRANCHE: Final = 1_000_000

# How fast the estimate of a rate follows: this share of it is the newest window's.
_WEIGHT: Final = 0.5

# A shorter window says nothing of a rate but that it is high.
_MIN_WINDOW_NS: Final = 10_000_000

# A consumer whose request was denied may have another one filed after so long, and not with every query.
_DENIED_NS: Final = 60 * NS_PER_SECOND

_ASKED: Final = -1


@dataclass(slots=True)
class Account:
    """One consumer's units in this instance.

    Attributes:
        credit: granted, and neither spent nor reserved.
        low: more is asked for when credit has come down to it; `_ASKED` once that is done.
        received: granted since the instance began.
        dry: the custodian has no more.
        waiting: queries that wait for units.
        total, failed: queries that ran since the instance began, a unit each; how many of them failed.
        reported: units in records that were not acknowledged.
        standing: what the custodian said of it last.
        request: the latest request for more budget.
        filed_ns: when it was filed, by `clock.elapsed_ns`.
    """

    consumer: str
    credit: int = 0
    low: int = 0
    received: int = 0
    dry: bool = False
    waiting: int = 0
    total: int = 0
    failed: int = 0
    reported: int = 0
    standing: Standing | None = None
    request: RequestStatus | None = None
    filed_ns: int = 0
    tranche: int = FIRST_TRANCHE
    rate: float = 0.0
    _window_total: int = field(default=0, repr=False)
    _window_failed: int = field(default=0, repr=False)
    _learnt: int = field(default=0, repr=False)
    _learnt_ns: int = field(default=0, repr=False)

    @property
    def used(self) -> int:
        """Units spent by all instances, as far as this one knows."""
        return (self.standing.spent if self.standing else 0) + self.reported + self.total - self._window_total

    @property
    def held(self) -> int:
        """Units in hand, those among them that queries have reserved which have not come to their end."""
        return self.received - self.total

    @property
    def budget(self) -> int:
        """Units that may be spent, as the custodian said last."""
        return self.standing.budget if self.standing else 0

    def request_due(self, now_ns: int) -> bool:
        """Whether a request for more budget should be filed, now that nothing is left."""
        if self.request is None or self.request.state is RequestState.APPROVED:
            return True
        return self.request.state is RequestState.DENIED and now_ns - self.filed_ns >= _DENIED_NS

    def spend(self, *, failed: bool) -> None:
        """The unit that was reserved is spent."""
        self.total += 1
        if failed:
            self.failed += 1

    def release(self) -> None:
        """The unit that was reserved goes back."""
        self.credit += 1

    def close_window(self) -> Usage:
        """What was spent in the window that is open; the next one is empty."""
        usage = Usage(
            units=self.total - self._window_total,
            queries=self.total - self._window_total,
            failed=self.failed - self._window_failed,
        )
        self.reported += usage.units
        self._window_total, self._window_failed = self.total, self.failed
        return usage

    def lasting(self, now_ns: int) -> int:
        """Units for the next seconds, at the rate at which they were spent since the last time this was asked."""
        window = now_ns - self._learnt_ns
        if window < _MIN_WINDOW_NS:
            return MAX_TRANCHE
        if self._learnt_ns:
            rate = (self.total - self._learnt) * NS_PER_SECOND / window
            self.rate = self.rate + (rate - self.rate) * _WEIGHT if self.rate else rate
        self._learnt, self._learnt_ns = self.total, now_ns
        return int(self.rate * _TRANCHE_SECONDS)


class Meter:
    """All accounts of one instance.

    Args:
        ask: called when more units are wanted, at most once for each account until they have come.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._accounts: dict[str, Account] = {}
        self._wanting: set[str] = set()

    @property
    def spent(self) -> int:
        """Units spent by this instance, by all consumers."""
        return sum(account.total for account in self._accounts.values())

    def account(self, consumer: str) -> Account:
        """The account of `consumer`, which must be one that a grant names."""
        account = self._accounts.get(consumer)
        if account is None:
            account = self._accounts[consumer] = Account(consumer)
        return account

    def reserve(self, account: Account) -> bool:
        """Take one unit, if there is one. This is all the metering that a query waits for."""
        credit = account.credit
        if credit <= account.low:
            self.want(account)
        if credit <= 0:
            return False
        account.credit = credit - 1
        return True

    def want(self, account: Account) -> None:
        """Ask for more units of this account."""
        account.low = _ASKED
        self._wanting.add(account.consumer)
        self._ask()

    def wanted(self, now_ns: int) -> dict[str, int]:
        """What to ask for: enough for the next seconds at the present rate, for those who need it."""
        wanted = {}
        for consumer in sorted(self._wanting):
            account = self._accounts[consumer]
            # It doubles at most, so that a burst does not take the budget of others.
            most = min(account.tranche * 2, MAX_TRANCHE)
            account.tranche = min(max(account.lasting(now_ns), FIRST_TRANCHE), most)
            missing = max(account.tranche, account.waiting) - account.credit
            if missing > 0:
                wanted[consumer] = missing
            else:
                self._content(account)
        return wanted

    def credit(
        self, asked: Mapping[str, int], given: Mapping[str, int], standings: Mapping[str, Standing], *, settled: bool
    ) -> None:
        """Take the units of a grant.

        Args:
            asked: `wanted` of the renewal that it answers.
            given: its quantities.
            standings: what the custodian says of the accounts.
            settled: the custodian has all records that were made, so that `Standing.spent` holds what they report.
        """
        for consumer, units in given.items():
            account = self.account(consumer)
            account.credit += units
            account.received += units
        for consumer in asked:
            account = self.account(consumer)
            # While the instance holds some, it may be too many that it holds, and not that there are none.
            account.dry = not account.held
            if account.dry:
                account.low = _ASKED  # what asks again is time, or news of the lease
            else:
                self._content(account)
        if settled:
            for account in self._accounts.values():
                account.reported = 0
        for consumer, standing in standings.items():
            account = self.account(consumer)
            account.standing = standing
            if standing.request is not None:
                account.request = standing.request

    @property
    def unanswered(self) -> bool:
        """Whether somebody wants units whom the last answer said nothing of."""
        return any(not self._accounts[consumer].dry for consumer in self._wanting)

    def close_window(self) -> dict[str, Usage]:
        """The counts of the open window, by consumer, for a record; the next window is empty."""
        counts = {consumer: account.close_window() for consumer, account in self._accounts.items()}
        return {consumer: usage for consumer, usage in counts.items() if usage.queries}

    def _content(self, account: Account) -> None:
        """Nothing is to be asked for until most of what is in hand is gone."""
        account.low = account.credit // _LOW_SHARE
        self._wanting.discard(account.consumer)
