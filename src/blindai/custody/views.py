"""What the ledger tells of leases: values for the dashboard and the command line, each a picture of one moment.

Times are those of the custodian's wall clock, in UTC, for people to read. Nothing is decided by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from blindai.wire.custody import LeaseState, RequestState, Unit


class InstanceState(StrEnum):
    """Where an instance is in its life."""

    ACTIVE = "active"  # it has a grant that has not run out
    SILENT = "silent"  # its last grant has run out, and it did not close
    CLOSED = "closed"
    QUARANTINED = "quarantined"


class ProposalState(StrEnum):
    """Where a decision that needs several operators is."""

    OPEN = "open"
    CARRIED = "carried"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, kw_only=True)
class Account:
    """One consumer of a lease; the name "" stands for anyone.

    Attributes:
        budget: units of its own; None where only the lease's budget bounds it.
        granted: units handed to instances and not given back. Never above the budget.
        spent: units in records. Never above `granted`.
        token_epoch: tokens below it are revoked.
    """

    consumer: str
    budget: int | None
    granted: int
    spent: int
    token_epoch: int


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One run of one enclave.

    Attributes:
        id: digest of its keyset, in hex.
        verdict: the attestation result of its latest contact, as JSON (`AttestationResult`).
        grant_seq: of its latest grant.
        outstanding: units that it was granted and has not reported as spent, by consumer.
        expires_by: when its latest grant has run out for certain; None once closed.
        acknowledged_version: the version of the lease that it said it acts upon, and when it said so.
        reason: why it is quarantined.
    """

    id: str
    lease: str
    state: InstanceState
    simulated: bool
    first_seen: datetime
    last_seen: datetime
    verdict: Mapping[str, Any]
    grant_seq: int
    record_seq: int
    outstanding: Mapping[str, int]
    expires_by: datetime | None
    acknowledged_version: int
    acknowledged_at: datetime | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A consumer's request for more budget."""

    id: str
    lease: str
    consumer: str
    wanted: int
    state: RequestState
    filed_at: datetime
    decided_at: datetime | None
    decided_by: str
    granted: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A decision that waits for the agreement of other operators.

    Attributes:
        action: `resume`, `raise` or `approve`.
        detail: its arguments.
        agreed: operators who agree, the proposer first.
        needed: how many must.
    """

    id: str
    lease: str
    action: str
    detail: Mapping[str, Any]
    agreed: tuple[str, ...]
    needed: int
    state: ProposalState
    proposed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One lease.

    Attributes:
        budget, granted, spent: units of the whole lease; spent <= granted <= budget.
        version: grows with every change that enclaves must hear of.
        changed_version, changed_at: of the latest stop, pause or resume.
        policy: the manifest by which enclaves are appraised.
        approvals: how many operators must agree to a resume or a raise.
    """

    id: str
    name: str
    borrower: str
    model_id: str
    model_digest: str
    unit: Unit
    state: LeaseState
    reason: str
    budget: int
    granted: int
    spent: int
    soft_ms: int
    ttl_ms: int
    max_instances: int
    approvals: int
    policy: str
    policy_digest: str
    stop_epoch: int
    version: int
    changed_version: int
    changed_at: datetime
    created_at: datetime
    accounts: tuple[Account, ...]
    instances: tuple[Instance, ...]
    requests: tuple[Request, ...]
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a lease's log.

    Attributes:
        by: the operator, or "" for what an enclave did.
        detail: canonical JSON values.
        digest: of this entry, over the one before.
    """

    lease: str
    seq: int
    at: datetime
    kind: str
    by: str
    detail: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, kw_only=True)
class UsagePoint:
    """Units that one consumer spent in one record."""

    at: datetime
    consumer: str
    units: int
