"""Requests for more budget: filed by an enclave for a consumer, decided by operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from blindai.custody import tables
from blindai.custody.ledger import accounts
from blindai.custody.ledger.accounts import AccountRow
from blindai.custody.ledger.identifiers import new_id
from blindai.custody.ledger.leases import Change, LeaseRow
from blindai.custody.ledger.rows import TableRow
from blindai.custody.log import Kind
from blindai.errors import InvalidInput
from blindai.wire.custody import BudgetRequest, RequestState, RequestStatus

_REQUESTS: Final = tables.requests


@dataclass(frozen=True, kw_only=True)
class RequestRow(TableRow):
    """A row of `tables.requests`.

    Attributes:
        circumstances: what the denial of the request rests on (`circumstances`); empty before.
    """

    number: int
    id: str
    lease: str
    consumer: str
    wanted: int
    state: str
    filed_at: str
    decided_at: str | None
    decided_by: str
    granted: int
    reason: str
    circumstances: str

    @property
    def status(self) -> RequestStatus:
        """As the consumer may see it."""
        return RequestStatus(
            id=self.id,
            consumer=self.consumer,
            state=RequestState(self.state),
            granted=self.granted,
            reason=self.reason,
        )


def read(connection: sa.Connection, query: sa.Select[Any]) -> list[RequestRow]:
    """The rows that `query`, a selection of `tables.requests`, gives."""
    return [RequestRow.of(row) for row in connection.execute(query)]


def find(connection: sa.Connection, request: str) -> RequestRow:
    """A request by its id.

    Raises:
        InvalidInput: `lease.request`.
    """
    rows = read(connection, sa.select(_REQUESTS).where(_REQUESTS.c.id == request))
    if not rows:
        raise InvalidInput("there is no such request", code="lease.request")
    return rows[0]


def latest(connection: sa.Connection, lease: str) -> dict[str, RequestRow]:
    """The latest request of each consumer that ever filed one."""
    newest = sa.select(sa.func.max(_REQUESTS.c.number)).where(_REQUESTS.c.lease == lease).group_by(_REQUESTS.c.consumer)
    rows = read(connection, sa.select(_REQUESTS).where(_REQUESTS.c.number.in_(newest)))
    return {row.consumer: row for row in rows}


def circumstances(lease: LeaseRow, account: AccountRow) -> str:
    """What a denial rests on. It stands until one of these is changed, and every one of them is a custodian's act.

    Were it not so, an enclave could file again for each query, and nobody would read the requests any more.
    """
    return f"budget {account.budget} of {lease.budget}, switched at {lease.changed_version}"


def file(change: Change, asked: BudgetRequest) -> RequestStatus:
    """File a request, or give the one that answers this already: undecided, approved and not used up, or denied.

    Raises:
        InvalidInput: `lease.consumer`.
    """
    account = accounts.find(accounts.read(change.connection, change.lease.id), asked.consumer)
    last = latest(change.connection, change.lease.id).get(asked.consumer)
    if last is not None and _answers(last, change.lease, account):
        return last.status
    request = new_id("request")
    change.connection.execute(
        sa.insert(_REQUESTS).values(
            id=request,
            lease=change.lease.id,
            consumer=asked.consumer,
            wanted=asked.wanted,
            state=RequestState.PENDING.value,
            filed_at=change.at,
            decided_by="",
            granted=0,
            reason="",
            circumstances="",
        )
    )
    change.note(
        Kind.REQUEST_FILED,
        {"request": request, "instance": asked.instance, "consumer": asked.consumer, "wanted": asked.wanted},
    )
    change.announce()
    return RequestStatus(id=request, consumer=asked.consumer, state=RequestState.PENDING)


def _answers(last: RequestRow, lease: LeaseRow, account: AccountRow) -> bool:
    if last.state == RequestState.PENDING:
        return True
    if last.state == RequestState.APPROVED:
        return account.available(lease.left) > 0
    return last.circumstances == circumstances(lease, account)


def require_pending(request: RequestRow) -> None:
    """Refuse what was decided.

    Raises:
        InvalidInput: `lease.request_state`.
    """
    if request.state != RequestState.PENDING:
        raise InvalidInput(f"this request was {request.state} by {request.decided_by}", code="lease.request_state")


def approve(change: Change, request: RequestRow, amount: int, *, agreed: tuple[str, ...], reason: str) -> None:
    """Give the consumer of `request` `amount` units more.

    What bounds the consumer is raised: its own budget by `amount`, and the lease's by as much of `amount` as the lease
    has not left; where it has no budget of its own, the lease's by `amount`.

    Raises:
        InvalidInput: `amount.too_large`, for the budgets that would come of it.
    """
    account = accounts.find(accounts.read(change.connection, change.lease.id), request.consumer)
    if account.budget is None:
        account_raised, lease_raised = 0, amount
    else:
        account_raised, lease_raised = amount, max(0, amount - change.lease.left)
        accounts.raise_own(change, account, account_raised)
    accounts.raise_lease(change, lease_raised)
    _decide(change, request, RequestState.APPROVED, by=agreed[-1], granted=amount, reason=reason)
    change.note(
        Kind.REQUEST_APPROVED,
        {
            "request": request.id,
            "consumer": request.consumer,
            "amount": amount,
            "account_raised": account_raised,
            "lease_raised": lease_raised,
            "agreed": list(agreed),
            "reason": reason,
        },
        by=agreed[-1],
    )
    change.announce()


def deny(change: Change, request: RequestRow, *, by: str, reason: str) -> None:
    """Refuse a request, in words that the consumer reads."""
    account = accounts.find(accounts.read(change.connection, change.lease.id), request.consumer)
    _decide(change, request, RequestState.DENIED, by=by, granted=0, reason=reason)
    change.connection.execute(
        sa.update(_REQUESTS)
        .where(_REQUESTS.c.id == request.id)
        .values(circumstances=circumstances(change.lease, account))
    )
    change.note(Kind.REQUEST_DENIED, {"request": request.id, "consumer": request.consumer, "reason": reason}, by=by)
    change.announce()


def _decide(change: Change, request: RequestRow, state: RequestState, *, by: str, granted: int, reason: str) -> None:
    change.connection.execute(
        sa.update(_REQUESTS)
        .where(_REQUESTS.c.id == request.id)
        .values(state=state.value, decided_at=change.at, decided_by=by, granted=granted, reason=reason)
    )
