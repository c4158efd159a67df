"""The opening of a lease."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from blindai.custody import log, tables
from blindai.custody.ledger import accounts
from blindai.custody.ledger.identifiers import new_id
from blindai.custody.ledger.leases import Change, LeaseRow
from blindai.custody.log import Kind
from blindai.custody.terms import MODEL_KEY_BYTES, Terms
from blindai.errors import ConfigurationError
from blindai.wire.custody import FIRST, LeaseState

if TYPE_CHECKING:
    from blindai.custody.keys import CustodianKeys


def open_lease(
    connection: sa.Connection, keys: CustodianKeys, terms: Terms, *, model_key: bytes, by: str, at: datetime
) -> Change:
    """Write a new lease with its accounts; the caller flushes the change.

    Raises:
        ConfigurationError: `lease.artefact`, there is no such file; `lease.model_key`, this is no key.
    """
    if not terms.artefact.is_file():
        raise ConfigurationError(f"there is no sealed model at {terms.artefact}", code="lease.artefact")
    if len(model_key) != MODEL_KEY_BYTES:
        raise ConfigurationError(f"the key of a sealed model has {MODEL_KEY_BYTES} bytes", code="lease.model_key")
    lease = new_id("lease")
    row = LeaseRow(
        id=lease,
        name=terms.name,
        borrower=terms.borrower,
        model_id=terms.model_id,
        model_digest=terms.model_digest,
        model_key=keys.wrap(model_key, LeaseRow.context_of(lease)),
        artefact=str(terms.artefact.resolve()),
        policy=terms.policy,
        policy_digest=terms.appraisal_policy().digest,
        unit=terms.unit.value,
        soft_ms=terms.soft_ms,
        ttl_ms=terms.ttl_ms,
        tranche_max=terms.tranche_max,
        max_instances=terms.max_instances,
        approvals=terms.approvals,
        state=LeaseState.ACTIVE.value,
        reason="",
        budget=terms.budget,
        granted=0,
        spent=0,
        stop_epoch=0,
        version=1,
        changed_version=1,
        changed_at=log.moment(at),
        created_at=log.moment(at),
        log_count=0,
        log_head=FIRST,
    )
    connection.execute(sa.insert(tables.leases).values(row.columns))
    change = Change(connection, keys, row, at)
    for consumer, budget in terms.accounts.items():
        accounts.add(change, consumer, budget)
    change.note(
        Kind.LEASE_CREATED,
        {
            "name": row.name,
            "borrower": row.borrower,
            "model_id": row.model_id,
            "model_digest": row.model_digest,
            "unit": row.unit,
            "budget": row.budget,
            "consumers": terms.accounts,
            "soft_ms": row.soft_ms,
            "ttl_ms": row.ttl_ms,
            "tranche_max": row.tranche_max,
            "max_instances": row.max_instances,
            "approvals": row.approvals,
            "policy": row.policy,
            "policy_digest": row.policy_digest,
        },
        by=by,
    )
    return change
