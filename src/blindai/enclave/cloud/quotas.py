"""How much an account may do: requests in a minute and in a month. Refusals say when to come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.enclave.clock import NS_PER_SECOND
from blindai.errors import QuotaExceeded

if TYPE_CHECKING:
    from blindai.wire.cloud import Quotas

_MINUTE_NS: Final = 60 * NS_PER_SECOND

# When the month ends, the control plane knows; an enclave has no date that it could believe.
_MONTH_RETRY_SECONDS: Final = 3600

# Somebody has to delete a model first.
_ROOM_RETRY_SECONDS: Final = 60


class Limited(QuotaExceeded):
    """An account has used up what it may have.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, *, code: str, retry_after: int, hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after = retry_after


class Pace:
    """So many requests in a minute, as a token bucket that holds those of one minute.

    It is kept as the moment in which the bucket will be full again (the generic cell rate algorithm, ITU-T I.371).
    """

    __slots__ = ("_full_ns", "_interval_ns", "per_minute")

    def __init__(self, per_minute: int) -> None:
        self._full_ns = 0
        self.set(per_minute)

    def set(self, per_minute: int) -> None:
        """Let so many through from now on; 0 lets nothing through."""
        self.per_minute = per_minute
        self._interval_ns = _MINUTE_NS // per_minute if per_minute else 0

    def take(self, now_ns: int) -> None:
        """Count one request at `now_ns` of `clock.elapsed_ns`.

        Raises:
            Limited: `quota.requests_per_minute`; it was not counted.
        """
        full_ns = max(self._full_ns, now_ns) + self._interval_ns
        late_ns = full_ns - now_ns - _MINUTE_NS
        if late_ns > 0 or not self.per_minute:
            raise Limited(
                f"{self.per_minute} requests per minute were made on this endpoint, as many as may",
                code="quota.requests_per_minute",
                retry_after=min(60, -(-late_ns // NS_PER_SECOND)) if self.per_minute else 60,
            )
        self._full_ns = full_ns


class Account:
    """One namespace: what it may do here, and what of it was done.

    Attributes:
        namespace: its name; None for all who have no key.
        quotas: by the newest assertion; None for those without a key.
        queries: that were let through since the instance began.
    """

    __slots__ = (
        "_acknowledged",
        "_asked_ns",
        "_before",
        "_limit",
        "_pace",
        "_since_ns",
        "namespace",
        "queries",
        "quotas",
    )

    def __init__(self, namespace: str | None, per_minute: int) -> None:
        self.namespace = namespace
        self.quotas: Quotas | None = None
        self.queries = 0
        self._pace = Pace(per_minute)
        self._limit: int | None = None  # of `queries`
        self._asked_ns = -1
        # Of `queries`, what the control plane knows of, since when, and what it knew before.
        self._acknowledged = self._before = 0
        self._since_ns = 0

    def grant(self, quotas: Quotas, asked_ns: int) -> None:
        """Take the quotas of an assertion that was asked for at `asked_ns`; older ones than the present are nothing."""
        if asked_ns <= self._asked_ns:
            return
        self._asked_ns = asked_ns
        if self.quotas is None or quotas.requests_per_minute != self._pace.per_minute:
            self._pace.set(quotas.requests_per_minute)
        self.quotas = quotas
        left = quotas.requests_left
        # What was reported before the question was known when it was answered. The rest may not have been.
        known = self._acknowledged if self._since_ns <= asked_ns else self._before
        self._limit = None if left is None else known + left

    def acknowledge(self, queries: int, now_ns: int) -> None:
        """The control plane knows of so many queries more."""
        self._before = self._acknowledged
        self._acknowledged += queries
        self._since_ns = now_ns

    def take_request(self, now_ns: int) -> None:
        """Count a request that is no query.

        Raises:
            Limited: `quota.requests_per_minute`.
        """
        self._pace.take(now_ns)

    def take_query(self, now_ns: int) -> None:
        """Count a query.

        Raises:
            Limited: `quota.requests_per_minute`, `quota.requests_per_month`.
        """
        if self._limit is not None and self.queries >= self._limit:
            raise Limited(
                "the account has made as many queries as it may in this month",
                code="quota.requests_per_month",
                retry_after=_MONTH_RETRY_SECONDS,
                hint="the cloud's console shows what was used; the operator can raise the limit",
            )
        self._pace.take(now_ns)
        self.queries += 1


def no_models_left(limit: int) -> Limited:
    """The refusal of an upload to an account that has its models."""
    return Limited(
        f"the account may have {limit} versions of models, and has them",
        code="quota.account_models",
        retry_after=_ROOM_RETRY_SECONDS,
        hint="delete a model first",
    )


def no_bytes_left(wanted: int, free: int) -> Limited:
    """The refusal of an upload that an account has no room for."""
    return Limited(
        f"the account has {max(0, free)} bytes left for models, and this needs {wanted}",
        code="quota.account_bytes",
        retry_after=_ROOM_RETRY_SECONDS,
        hint="delete a model first",
    )
