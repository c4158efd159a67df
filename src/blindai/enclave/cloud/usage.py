"""What was done with each key since the instance began: numbers, and nothing of what was asked or answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.enclave.cloud.quotas import Account
from blindai.errors import Unavailable
from blindai.wire.cloud import UsageTotal

if TYPE_CHECKING:
    from collections.abc import Iterable

# Keys that one instance counts for. Totals are totals only while none is forgotten, so the next key is refused: this
# many take some 50 MB, and only a control plane that invents keys comes near.
MAX_COUNTED: Final = 100_000


class Count:
    """What was done with one key. As `wire.cloud.UsageTotal`."""

    __slots__ = ("account", "deletions", "failed", "key_id", "limited", "queries", "reported", "uploads")

    def __init__(self, account: Account, key_id: str | None) -> None:
        self.account = account
        self.key_id = key_id
        self.queries = self.failed = self.limited = self.uploads = self.deletions = 0
        self.reported = 0  # of the queries

    @property
    def total(self) -> UsageTotal:
        """As it is reported."""
        return UsageTotal(
            namespace=self.account.namespace,
            key_id=self.key_id,
            queries=self.queries,
            failed=self.failed,
            limited=self.limited,
            uploads=self.uploads,
            deletions=self.deletions,
        )


class Usage:
    """The counts of one instance.

    Args:
        anonymous_per_minute: requests of all who have no key.

    Attributes:
        anonymous: the count of those.
        touched: counts that may have changed since they were acknowledged.
    """

    def __init__(self, anonymous_per_minute: int) -> None:
        self.anonymous = Count(Account(None, anonymous_per_minute), None)
        self.touched: set[Count] = set()
        self._accounts: dict[str, Account] = {}
        self._counts: dict[tuple[str, str], Count] = {}

    def count(self, namespace: str, key_id: str) -> Count:
        """The count of a key, from 0 where it was not seen before.

        Raises:
            Unavailable: `busy`, as many keys were seen as can be counted.
        """
        found = self._counts.get((namespace, key_id))
        if found is None:
            if len(self._counts) >= MAX_COUNTED:
                raise Unavailable("the enclave has seen as many keys as it can count for", code="busy")
            account = self._accounts.setdefault(namespace, Account(namespace, 0))
            found = self._counts[namespace, key_id] = Count(account, key_id)
        return found

    def acknowledged(self, totals: Iterable[UsageTotal], now_ns: int) -> None:
        """The control plane knows these totals, by `now_ns` of `clock.elapsed_ns`."""
        news: dict[Account, int] = {}
        for total in totals:
            count = self.anonymous
            if total.namespace is not None and total.key_id is not None:
                count = self._counts[total.namespace, total.key_id]
            news[count.account] = news.get(count.account, 0) + total.queries - count.reported
            count.reported = total.queries
            if count.total == total:
                self.touched.discard(count)
        for account, queries in news.items():
            account.acknowledge(queries, now_ns)
