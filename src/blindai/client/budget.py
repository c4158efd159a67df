"""Waiting for a custodian who has been asked for more budget. No I/O: `Connection` and `AsyncConnection` share it."""

from __future__ import annotations

from typing import Final

from blindai.errors import BudgetExhausted, ConfigurationError
from blindai.wire.lease import ModelLease

# Between two looks at the lease. A person decides; a look costs the enclave less than a tenth of a millisecond.
_POLL_SECONDS: Final = 0.25

DENIED: Final = "denied"


class BudgetWait:
    """One wait.

    Args:
        refusal: of the query that there was no unit for.
        seconds: how long to wait.
        now: by a monotonic clock, as all times here.

    Raises:
        BudgetExhausted: the request was denied already.
        ConfigurationError: `configuration.timeout`, no time to wait.
    """

    def __init__(self, refusal: BudgetExhausted, seconds: float, now: float) -> None:
        if not seconds > 0:
            raise ConfigurationError(
                f"{seconds} seconds leave no time to wait for a budget",
                code="configuration.timeout",
                hint="give `wait_for_budget` a number of seconds above 0, or leave it out",
            )
        self._deadline = now + seconds
        self.refused(refusal)

    @property
    def words(self) -> str:
        """What is waited for."""
        request = self._refusal.request_id
        return f"waiting for the custodian to decide on {request}" if request else "waiting for the custodian"

    def refused(self, refusal: BudgetExhausted) -> None:
        """The query was refused once more.

        Raises:
            BudgetExhausted: the request was denied.
        """
        if refusal.state == DENIED:
            raise refusal
        self._refusal = refusal

    def pause(self, now: float) -> float:
        """Seconds until the next look at the lease.

        Raises:
            BudgetExhausted: the time is over.
        """
        left = self._deadline - now
        if left <= 0:
            raise self._refusal
        return min(left, _POLL_SECONDS)

    def look(self, lease: ModelLease) -> bool:
        """Whether to send the query again: there are units, or it will be told why not.

        Raises:
            BudgetExhausted: the request was denied.
        """
        request = lease.request
        if request is not None and request.state == DENIED:
            raise BudgetExhausted(
                "the custodian gives no more budget for this model" + (f": {request.reason}" if request.reason else ""),
                used=lease.used,
                granted=lease.budget,
                request_id=request.id,
                state=request.state,
                reason=request.reason,
                hint="talk to the custodian",
            )
        if lease.state == "waiting":
            return False
        return lease.state != "serving" or lease.left > 0
