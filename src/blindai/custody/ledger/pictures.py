"""Pictures of leases for people (`custody.views`), from the rows of one moment."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from blindai.custody import tables, views
from blindai.custody.clock import Deadlines
from blindai.custody.ledger import accounts as account_rows
from blindai.custody.ledger import instances as instance_rows
from blindai.custody.ledger import proposals as proposal_rows
from blindai.custody.ledger import requests as request_rows
from blindai.custody.ledger.instances import CLOSED, QUARANTINED, InstanceRow
from blindai.custody.ledger.leases import LeaseRow
from blindai.custody.ledger.proposals import ProposalRow
from blindai.custody.ledger.requests import RequestRow
from blindai.custody.log import parse_moment
from blindai.wire.custody import LeaseState, RequestState, Unit

# On a page. Whatever still matters is always shown: grants that run, and what waits for a decision.
SHOWN_INSTANCES: Final = 100
SHOWN_REQUESTS: Final = 100
SHOWN_PROPOSALS: Final = 50

# In a list of leases.
LISTED_INSTANCES: Final = 10


def leases(connection: sa.Connection, deadlines: Deadlines) -> tuple[views.Lease, ...]:
    """All leases, the newest first."""
    table = tables.leases
    rows = connection.execute(sa.select(table).order_by(table.c.created_at.desc(), table.c.id)).all()
    return tuple(lease(connection, LeaseRow.of(row), deadlines, instances=LISTED_INSTANCES) for row in rows)


def request(row: RequestRow) -> views.Request:
    """A request."""
    return views.Request(
        id=row.id,
        lease=row.lease,
        consumer=row.consumer,
        wanted=row.wanted,
        state=RequestState(row.state),
        filed_at=parse_moment(row.filed_at),
        decided_at=_moment(row.decided_at),
        decided_by=row.decided_by,
        granted=row.granted,
        reason=row.reason,
    )


def proposals(connection: sa.Connection, rows: Sequence[ProposalRow], *, needed: int) -> tuple[views.Proposal, ...]:
    """Proposals of one lease, with the operators who agree."""
    table = tables.agreements
    agreed: dict[str, list[str]] = defaultdict(list)
    for row in connection.execute(
        sa.select(table.c.proposal, table.c.operator)
        .where(table.c.proposal.in_([row.id for row in rows]))
        .order_by(table.c.number)
    ):
        agreed[row.proposal].append(row.operator)
    return tuple(
        views.Proposal(
            id=row.id,
            lease=row.lease,
            action=row.action,
            detail=row.values | {"reason": row.reason},
            agreed=tuple(agreed[row.id]),
            needed=needed,
            state=views.ProposalState(row.state),
            proposed_at=parse_moment(row.proposed_at),
        )
        for row in rows
    )


def lease(
    connection: sa.Connection, row: LeaseRow, deadlines: Deadlines, *, instances: int | None = None
) -> views.Lease:
    """A lease with its accounts, and its latest instances, requests and proposals.

    Args:
        instances: how many of them, beside those that may serve.
    """
    return views.Lease(
        id=row.id,
        name=row.name,
        borrower=row.borrower,
        model_id=row.model_id,
        model_digest=row.model_digest,
        unit=Unit(row.unit),
        state=LeaseState(row.state),
        reason=row.reason,
        budget=row.budget,
        granted=row.granted,
        spent=row.spent,
        soft_ms=row.soft_ms,
        ttl_ms=row.ttl_ms,
        max_instances=row.max_instances,
        approvals=row.approvals,
        policy=row.policy,
        policy_digest=row.policy_digest,
        stop_epoch=row.stop_epoch,
        version=row.version,
        changed_version=row.changed_version,
        changed_at=parse_moment(row.changed_at),
        created_at=parse_moment(row.created_at),
        accounts=_accounts(connection, row.id),
        instances=_instances(connection, row.id, deadlines, SHOWN_INSTANCES if instances is None else instances),
        requests=_requests(connection, row.id),
        proposals=_proposals(connection, row),
    )


def _accounts(connection: sa.Connection, lease: str) -> tuple[views.Account, ...]:
    return tuple(
        views.Account(
            consumer=account.consumer,
            budget=account.budget,
            granted=account.granted,
            spent=account.spent,
            token_epoch=account.token_epoch,
        )
        for account in account_rows.read(connection, lease).values()
    )


def _instances(connection: sa.Connection, lease: str, deadlines: Deadlines, most: int) -> tuple[views.Instance, ...]:
    """The latest, and all whose grants run; the one seen last comes first."""
    table = tables.instances
    of_lease = sa.select(table).where(table.c.lease == lease).order_by(table.c.last_seen.desc(), table.c.id)
    shown = instance_rows.read(connection, of_lease.limit(most))
    shown += instance_rows.read(connection, of_lease.where(table.c.running.is_(True), table.c.id.not_in(_ids(shown))))
    unspent: dict[str, dict[str, int]] = defaultdict(dict)
    holdings = tables.holdings
    for row in connection.execute(
        sa.select(holdings).where(
            holdings.c.lease == lease,
            holdings.c.instance.in_(_ids(shown)),
            holdings.c.granted > holdings.c.spent,
        )
    ):
        unspent[row.instance][row.consumer] = row.granted - row.spent
    return tuple(_instance(row, unspent[row.id], deadlines) for row in shown)


def _requests(connection: sa.Connection, lease: str) -> tuple[views.Request, ...]:
    """The latest, and all that wait; the newest comes first."""
    table = tables.requests
    of_lease = sa.select(table).where(table.c.lease == lease).order_by(table.c.number.desc())
    shown = request_rows.read(connection, of_lease.limit(SHOWN_REQUESTS))
    waiting = of_lease.where(table.c.state == RequestState.PENDING.value, table.c.id.not_in(_ids(shown)))
    return tuple(request(row) for row in shown + request_rows.read(connection, waiting))


def _proposals(connection: sa.Connection, lease: LeaseRow) -> tuple[views.Proposal, ...]:
    """The latest, and all that wait; the newest comes first."""
    table = tables.proposals
    of_lease = sa.select(table).where(table.c.lease == lease.id).order_by(table.c.number.desc())
    shown = proposal_rows.read(connection, of_lease.limit(SHOWN_PROPOSALS))
    waiting = of_lease.where(table.c.state == views.ProposalState.OPEN.value, table.c.id.not_in(_ids(shown)))
    return proposals(connection, shown + proposal_rows.read(connection, waiting), needed=lease.approvals)


def _ids(rows: Iterable[InstanceRow | RequestRow | ProposalRow]) -> list[str]:
    return [row.id for row in rows]


def _instance(row: InstanceRow, outstanding: dict[str, int], deadlines: Deadlines) -> views.Instance:
    return views.Instance(
        id=row.id,
        lease=row.lease,
        state=_state(row, deadlines),
        simulated=row.simulated,
        first_seen=parse_moment(row.first_seen),
        last_seen=parse_moment(row.last_seen),
        verdict=json.loads(row.verdict),
        grant_seq=row.grant_seq,
        record_seq=row.record_seq,
        outstanding=outstanding,
        expires_by=_expires_by(row, deadlines),
        acknowledged_version=row.acknowledged_version,
        acknowledged_at=_moment(row.acknowledged_at),
        reason=row.reason,
    )


def _state(row: InstanceRow, deadlines: Deadlines) -> views.InstanceState:
    if row.state == CLOSED:
        return views.InstanceState.CLOSED
    if row.state == QUARANTINED:
        return views.InstanceState.QUARANTINED
    return views.InstanceState.ACTIVE if row.holds_grant(deadlines) else views.InstanceState.SILENT


def _expires_by(row: InstanceRow, deadlines: Deadlines) -> datetime | None:
    """When the latest grant has run out for certain; in the past, the time at which it should have.

    Before that the time counts down by the clock that decides. Afterwards it is what the wall clock said at the grant.
    """
    if row.state == CLOSED or row.deadline is None or row.granted_at is None:
        return None
    should = parse_moment(row.granted_at) + timedelta(milliseconds=row.deadline.length_ms)
    by = deadlines.by(row.deadline)
    return min(should, by) if deadlines.passed(row.deadline) else by


def event(row: sa.Row[Any]) -> views.Event:
    """An entry of the log, from its row."""
    return views.Event(
        lease=row.lease,
        seq=row.seq,
        at=parse_moment(row.at),
        kind=row.kind,
        by=row.by,
        detail=json.loads(row.detail),
        digest=row.digest,
    )


def usage(connection: sa.Connection, lease: str, limit: int) -> list[views.UsagePoint]:
    """The latest `limit` points, oldest first."""
    table = tables.usage
    query = sa.select(table).where(table.c.lease == lease).order_by(table.c.id.desc()).limit(limit)
    rows = connection.execute(query).all()
    return [views.UsagePoint(at=parse_moment(row.at), consumer=row.consumer, units=row.units) for row in reversed(rows)]


def _moment(at: str | None) -> datetime | None:
    return None if at is None else parse_moment(at)
