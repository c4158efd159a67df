"""Who asks: a key that the control plane vouches for, or somebody without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blindai.wire.cloud import Scope

if TYPE_CHECKING:
    from blindai.enclave.cloud.queries import Query
    from blindai.enclave.cloud.quotas import Account
    from blindai.enclave.cloud.usage import Count
    from blindai.wire.cloud import Assertion

FOREVER_NS: Final = 1 << 63
"""Later than every moment of `clock.elapsed_ns`."""

# Addresses that one caller's permission is remembered for. Most have a model or two; beyond it that starts afresh.
_MAX_QUERIES: Final = 64


class Principal:
    """A key in force, or all callers without one.

    Attributes:
        count: what was done with it.
        account: whose it is.
        namespace: the account's name; None without a key.
        digest: of the key; empty without one.
        scopes: what it is good for.
        asked_ns: when the question was asked whose answer it is, by `clock.elapsed_ns`.
        until_ns: it is in force until then; 0 once it was revoked or replaced.
        used: a request was made with it since that question.
        header: the value of the header Authorization under which it is looked up, while it is.
        queries: by address, what answers queries of it; only for as long as nothing has changed (`Query.current`).
    """

    __slots__ = (
        "account",
        "asked_ns",
        "count",
        "digest",
        "header",
        "namespace",
        "queries",
        "scopes",
        "until_ns",
        "used",
    )

    def __init__(
        self, count: Count, digest: str, scopes: frozenset[Scope], *, asked_ns: int = 0, until_ns: int = FOREVER_NS
    ) -> None:
        self.count = count
        self.account: Account = count.account
        self.namespace = count.account.namespace
        self.digest = digest
        self.scopes = scopes
        self.asked_ns = asked_ns
        self.until_ns = until_ns
        self.used = False
        self.header: bytes | None = None
        self.queries: dict[bytes, Query] = {}

    def says(self, assertion: Assertion) -> bool:
        """Whether it is what an assertion says of the same key, but for times and quotas."""
        return (
            self.namespace == assertion.namespace
            and self.count.key_id == assertion.key_id
            and self.scopes == frozenset(assertion.scopes)
        )

    def remember(self, path: bytes, query: Query) -> None:
        """Answer queries to `path` with `query` from now on."""
        if len(self.queries) >= _MAX_QUERIES:
            self.queries.clear()
        self.queries[path] = query


def anonymous(count: Count) -> Principal:
    """All callers without a key, who may query what is public."""
    return Principal(count, "", frozenset({Scope.QUERY}))
