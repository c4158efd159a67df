"""Consumers of a lease and their tokens. A token is signed and handed out, and kept nowhere."""

from __future__ import annotations

from blindai.custody.amounts import require_amount
from blindai.custody.ledger import accounts
from blindai.custody.ledger.leases import Change
from blindai.custody.log import Kind
from blindai.custody.terms import require_consumer
from blindai.errors import InvalidInput
from blindai.wire.consumer_token import ConsumerToken
from blindai.wire.custody import ANYONE, MAX_CONSUMERS


def add(change: Change, consumer: str, budget: int | None, *, by: str) -> str:
    """Open an account, and return the first token for it.

    Raises:
        InvalidInput: `lease.consumers`, this is no name, or there are as many as there may be; `lease.consumer_exists`;
            `lease.open`; `amount.*`; `lease.consumer_budget`, several operators must agree to a raise, which this is.
    """
    require_consumer(consumer)
    _require_budget(change, budget)
    existing = accounts.read(change.connection, change.lease.id)
    _require_closed(existing)
    if consumer in existing:
        raise InvalidInput(f"this lease has a consumer {consumer} already", code="lease.consumer_exists")
    if len(existing) >= MAX_CONSUMERS:
        raise InvalidInput(f"a lease has at most {MAX_CONSUMERS} consumers", code="lease.consumers")
    accounts.add(change, consumer, budget)
    change.note(Kind.CONSUMER_ADDED, {"consumer": consumer, "budget": budget}, by=by)
    change.announce()
    return issue(change, consumer, by=by)


def issue(change: Change, consumer: str, *, by: str) -> str:
    """A token for a consumer. Those of before remain good.

    Raises:
        InvalidInput: `lease.consumer`, `lease.open`.
    """
    existing = accounts.read(change.connection, change.lease.id)
    _require_closed(existing)
    account = accounts.find(existing, consumer)
    token = ConsumerToken(lease=change.lease.id, consumer=consumer, epoch=account.token_epoch)
    change.note(Kind.TOKEN_ISSUED, {"consumer": consumer, "epoch": account.token_epoch}, by=by)
    return token.encode(change.keys.sign(token.message))


def revoke(change: Change, consumer: str, *, by: str) -> None:
    """Revoke all tokens of a consumer that were issued so far.

    Raises:
        InvalidInput: `lease.consumer`, `lease.open`.
    """
    existing = accounts.read(change.connection, change.lease.id)
    _require_closed(existing)
    epoch = accounts.find(existing, consumer).token_epoch + 1
    accounts.update(change, consumer, token_epoch=epoch)
    change.note(Kind.TOKENS_REVOKED, {"consumer": consumer, "epoch": epoch}, by=by)
    change.announce()


def _require_budget(change: Change, budget: int | None) -> None:
    """A new consumer draws on the lease, as a raise does: where that takes several operators, it begins with none."""
    if change.lease.approvals > 1:
        if budget != 0:
            raise InvalidInput(
                "several operators must agree to a raise here, so that a new consumer begins with a budget of 0",
                code="lease.consumer_budget",
                hint="add it with the budget 0, then propose to raise that",
            )
    elif budget is not None:
        require_amount(budget)


def _require_closed(existing: dict[str, accounts.AccountRow]) -> None:
    if ANYONE in existing:
        raise InvalidInput("this lease is open to anyone, and has no consumers", code="lease.open")
