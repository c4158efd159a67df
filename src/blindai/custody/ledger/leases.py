"""A lease's row, and a change of it: the lock under which everything about a lease is decided."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from blindai.custody import log, tables
from blindai.custody.ledger.rows import TableRow
from blindai.custody.log import Entry, Kind
from blindai.errors import InvalidInput, LeaseStopped
from blindai.wire.custody import LeaseState

if TYPE_CHECKING:
    from blindai.custody.keys import CustodianKeys

# What an operator writes to consumers and colleagues: a sentence or two.
MAX_REASON_CHARACTERS: Final = 500

MAX_OPERATOR_CHARACTERS: Final = 100


@dataclass(frozen=True, kw_only=True)
class LeaseRow(TableRow):
    """A row of `tables.leases`."""

    id: str
    name: str
    borrower: str
    model_id: str
    model_digest: str
    model_key: bytes
    artefact: str
    policy: str
    policy_digest: str
    unit: str
    soft_ms: int
    ttl_ms: int
    tranche_max: int
    max_instances: int
    approvals: int
    state: str
    reason: str
    budget: int
    granted: int
    spent: int
    stop_epoch: int
    version: int
    changed_version: int
    changed_at: str
    created_at: str
    log_count: int
    log_head: str

    @property
    def left(self) -> int:
        """Units that can still be granted."""
        return self.budget - self.granted

    @property
    def columns(self) -> dict[str, Any]:
        """Values by column."""
        return asdict(self)

    @staticmethod
    def context_of(lease: str) -> str:
        """What the model's key of `lease` is wrapped for."""
        return f"model key of {lease}"

    def refusal(self) -> LeaseStopped | None:
        """Why nothing is granted while the lease is in this state; None while it is active."""
        if self.state == LeaseState.ACTIVE:
            return None
        words = f"the custodian has {self.state} this lease" + (f": {self.reason}" if self.reason else "")
        return LeaseStopped(words, code=f"lease.{self.state}", hint="ask the custodian")


class Change:
    """One lease, locked until the end of the transaction.

    What is written to the lease's own row is gathered in `lease` and written once, by `flush`.

    Attributes:
        lease: the row as it will be.
        at: the moment of everything that is written, by the wall clock.
    """

    def __init__(self, connection: sa.Connection, keys: CustodianKeys, lease: LeaseRow, at: datetime) -> None:
        self.connection = connection
        self.keys = keys
        self.lease = lease
        self.at = log.moment(at)
        self._read = lease

    def set(self, **values: Any) -> None:
        """Set columns of the lease's row."""
        self.lease = replace(self.lease, **values)

    def announce(self) -> None:
        """Note that enclaves must hear of this: the lease has a new version."""
        self.set(version=self.lease.version + 1)

    def note(self, kind: Kind, detail: dict[str, Any], *, by: str = "") -> None:
        """Write an entry of the lease's log."""
        entry = Entry(
            lease=self.lease.id,
            seq=self.lease.log_count + 1,
            at=self.at,
            kind=kind,
            by=by,
            detail=log.detail(detail),
            prev=self.lease.log_head,
        )
        signed = log.sealed(self.keys.sign, entry)
        digest = entry.digest
        self.connection.execute(
            sa.insert(tables.events).values(
                lease=entry.lease,
                seq=entry.seq,
                at=entry.at,
                kind=entry.kind.value,
                by=entry.by,
                detail=entry.detail,
                prev=entry.prev,
                digest=digest,
                signature=signed.signature,
            )
        )
        self.set(log_count=entry.seq, log_head=digest)

    def flush(self) -> None:
        """Write what was set. The last thing that a transaction does."""
        before, after = self._read.columns, self.lease.columns
        changed = {name: value for name, value in after.items() if value != before[name]}
        if changed:
            self.connection.execute(sa.update(tables.leases).where(tables.leases.c.id == self.lease.id).values(changed))


def read(connection: sa.Connection, lease: str, *, lock: bool = False) -> LeaseRow:
    """The row of `lease`; with `lock`, nobody else changes it until the end of the transaction.

    Raises:
        InvalidInput: `lease.unknown`.
    """
    query = sa.select(tables.leases).where(tables.leases.c.id == lease)
    # SQLite has no such clause and needs none: there, a writing transaction is alone from its beginning on.
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise InvalidInput("there is no such lease here", code="lease.unknown", hint="blindai custodian lease list")
    return LeaseRow.of(row)


def require_reason(reason: str) -> str:
    """`reason`, if people can read it.

    Raises:
        InvalidInput: `lease.reason`.
    """
    if type(reason) is not str or len(reason) > MAX_REASON_CHARACTERS or not reason.isprintable():
        raise InvalidInput(
            f"a reason is one line of at most {MAX_REASON_CHARACTERS} printable characters", code="lease.reason"
        )
    return reason


def require_operator(by: str) -> str:
    """`by`, if it can be the name of an operator.

    Raises:
        InvalidInput: `lease.operator`.
    """
    good = type(by) is str and 0 < len(by) <= MAX_OPERATOR_CHARACTERS and by.isascii() and by.isprintable()
    if not good:
        raise InvalidInput(
            f"an operator's name is 1 to {MAX_OPERATOR_CHARACTERS} characters of ASCII", code="lease.operator"
        )
    return by
