"""What operators decide about a lease: to stop, pause and resume it, to raise a budget, to approve a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from blindai.custody.amounts import require_amount
from blindai.custody.ledger import accounts, requests
from blindai.custody.ledger.leases import Change
from blindai.custody.log import Kind
from blindai.errors import InvalidInput
from blindai.wire.custody import LeaseState, RequestState

# Decisions that give something away, and may need several operators.
RESUME: Final = "resume"
RAISE: Final = "raise"
APPROVE: Final = "approve"


def stop(change: Change, *, by: str, reason: str) -> None:
    """End all queries. A lease that is stopped already is stopped once more: each is an act of its own."""
    change.set(stop_epoch=change.lease.stop_epoch + 1)
    _switch(change, LeaseState.STOPPED, Kind.LEASE_STOPPED, agreed=(by,), reason=reason)


def pause(change: Change, *, by: str, reason: str) -> None:
    """Hold all queries back; models stay in memory until they expire.

    Raises:
        InvalidInput: `lease.state`, the lease is stopped, which is more.
    """
    if change.lease.state == LeaseState.STOPPED:
        raise InvalidInput("the lease is stopped already", code="lease.state")
    _switch(change, LeaseState.PAUSED, Kind.LEASE_PAUSED, agreed=(by,), reason=reason)


def require_possible(change: Change, action: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a decision that cannot be carried out.

    Raises:
        InvalidInput: `lease.state`, `lease.request`, `lease.request_state`, `lease.consumer`,
            `lease.account_budget` or `amount.*`.
    """
    if action == RESUME:
        if change.lease.state == LeaseState.ACTIVE:
            raise InvalidInput("the lease is neither stopped nor paused", code="lease.state")
        return
    require_amount(arguments["amount"])
    if action == APPROVE:
        requests.require_pending(requests.find(change.connection, arguments["request"]))
    elif arguments["consumer"] is not None:
        account = accounts.find(accounts.read(change.connection, change.lease.id), arguments["consumer"])
        accounts.require_own(account)


def carry_out(
    change: Change, action: str, arguments: Mapping[str, Any], *, agreed: tuple[str, ...], reason: str
) -> None:
    """Do what was decided and is possible.

    Args:
        agreed: who decided, the last one to agree at the end.
    """
    if action == RESUME:
        _switch(change, LeaseState.ACTIVE, Kind.LEASE_RESUMED, agreed=agreed, reason=reason)
    elif action == APPROVE:
        request = requests.find(change.connection, arguments["request"])
        requests.approve(change, request, arguments["amount"], agreed=agreed, reason=reason)
    else:
        _raise_budget(change, arguments["consumer"], arguments["amount"], agreed=agreed, reason=reason)


def void(change: Change, action: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an open proposal can never be carried out any more, because its request was decided."""
    if action != APPROVE:
        return False
    return requests.find(change.connection, arguments["request"]).state != RequestState.PENDING


def _switch(change: Change, state: LeaseState, kind: Kind, *, agreed: tuple[str, ...], reason: str) -> None:
    change.announce()
    change.set(
        state=state.value,
        reason="" if state is LeaseState.ACTIVE else reason,
        changed_version=change.lease.version,
        changed_at=change.at,
    )
    change.note(
        kind,
        {
            "version": change.lease.version,
            "stop_epoch": change.lease.stop_epoch,
            "agreed": list(agreed),
            "reason": reason,
        },
        by=agreed[-1],
    )


def _raise_budget(change: Change, consumer: str | None, amount: int, *, agreed: tuple[str, ...], reason: str) -> None:
    if consumer is None:
        accounts.raise_lease(change, amount)
    else:
        accounts.raise_own(change, accounts.find(accounts.read(change.connection, change.lease.id), consumer), amount)
    change.note(
        Kind.BUDGET_RAISED,
        {
            "consumer": consumer,
            "account_raised": 0 if consumer is None else amount,
            "lease_raised": amount if consumer is None else 0,
            "agreed": list(agreed),
            "reason": reason,
        },
        by=agreed[-1],
    )
    change.announce()
