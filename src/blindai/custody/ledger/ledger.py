"""The ledger: what was lent to whom, what was granted and spent, and what the custodian has decided about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from blindai.attestation.policy import Policy
from blindai.attestation.result import AttestationResult
from blindai.channel.transcript import Transcript
from blindai.custody import log, tables, views
from blindai.custody.clock import SYSTEM_LEDGER_CLOCK, Deadlines, LedgerClock
from blindai.custody.ledger import (
    closings,
    decisions,
    entries,
    grants,
    instances,
    leases,
    opening,
    pictures,
    proposals,
    requests,
    tokens,
)
from blindai.custody.ledger.leases import Change, LeaseRow, require_operator, require_reason
from blindai.custody.ledger.proposals import ProposalRow
from blindai.custody.ledger.requests import RequestRow
from blindai.custody.log import SignedEntry
from blindai.custody.terms import Terms
from blindai.errors import BlindAIError, InvalidInput
from blindai.web.database import Database, retrying
from blindai.wire.custody import (
    BudgetRequest,
    Closed,
    Closing,
    GrantAnswer,
    LeaseState,
    LeaseStatus,
    Renewal,
    RequestStatus,
)

if TYPE_CHECKING:
    from blindai.custody.keys import CustodianKeys

T = TypeVar("T")

# Of the log, read at once. An export reads page after page.
PAGE_EVENTS: Final = 500

# The curve of consumption: the latest records, one point for each consumer in each.
MAX_USAGE_POINTS: Final = 10_000


class Ledger:
    """All leases of one custodian, in one database. Thread-safe; any number of processes may share the database.

    Every method is one transaction, or reads. What it returns is on the disk.

    Args:
        database: with the tables of `custody.tables`.
        keys: the custodian's.
        clock: decides when grants have run out.

    Raises:
        BlindAIError: from every method: `lease.unknown` for a lease that is not here, and `unavailable.*` if the
            database does not answer.
    """

    def __init__(self, database: Database, keys: CustodianKeys, *, clock: LedgerClock = SYSTEM_LEDGER_CLOCK) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._deadlines = Deadlines(clock)

    # What operators set up.

    @retrying
    def create(self, terms: Terms, *, model_key: bytes, by: str) -> views.Lease:
        """Lend a model.

        Args:
            model_key: opens the sealed model, 32 bytes. It is kept wrapped, and leaves in grants only.
            by: the operator.

        Raises:
            ConfigurationError: `lease.artefact`, `lease.model_key`.
            InvalidInput: `lease.operator`.
        """
        require_operator(by)
        with self._database.write() as connection:
            change = opening.open_lease(connection, self._keys, terms, model_key=model_key, by=by, at=self._clock.now())
            change.flush()
        return self.lease(change.lease.id)

    @retrying
    def add_consumer(self, lease: str, name: str, budget: int | None, *, by: str) -> str:
        """Open an account for a consumer, and return a token for it.

        Raises:
            InvalidInput: `lease.consumers`, `lease.consumer_exists`, `lease.consumer_budget`, `lease.open`, `amount.*`,
                `lease.operator`.
        """
        with self._change(lease, by) as change:
            return tokens.add(change, name, budget, by=by)

    @retrying
    def issue_token(self, lease: str, name: str, *, by: str) -> str:
        """A token for a consumer, which is kept nowhere. Those of before remain good.

        Raises:
            InvalidInput: `lease.consumer`, `lease.open`, `lease.operator`.
        """
        with self._change(lease, by) as change:
            return tokens.issue(change, name, by=by)

    @retrying
    def revoke_tokens(self, lease: str, name: str, *, by: str) -> None:
        """Revoke all tokens of a consumer; enclaves hear of it with their next grant.

        Raises:
            InvalidInput: `lease.consumer`, `lease.open`, `lease.operator`.
        """
        with self._change(lease, by) as change:
            tokens.revoke(change, name, by=by)

    # What enclaves ask for.

    def policy(self, lease: str) -> Policy:
        """The policy by which enclaves are appraised."""
        row = self._row(lease)
        return Policy.parse(row.policy, f"the policy of {row.id}")

    def artefact(self, lease: str) -> Path:
        """The file of the sealed model."""
        return Path(self._row(lease).artefact)

    @retrying
    def admit(self, lease: str, transcript: Transcript, result: AttestationResult) -> None:
        """Note that an enclave has attested itself: the first time with all of its evidence.

        Raises:
            PermissionDenied: `lease.config`, its configuration names another custodian or lease; `lease.keyset`;
                `lease.attestation`.
            LeaseStopped: `lease.quarantined`.
            InvalidInput: `lease.closed`.
            QuotaExceeded: `lease.admissions`.
        """
        with self._change(lease) as change:
            instances.admit(change, transcript, result)

    @retrying
    def renew(self, renewal: Renewal) -> GrantAnswer:
        """Debit units and give them, with time and, if asked for, the model's key, to an instance.

        The very same renewal gets the very same answer, as long as the lease is active. One whose fate the instance
        does not know must be repeated until it is granted: a refusal in between says nothing of an earlier try.

        Raises:
            PermissionDenied: `lease.not_admitted`.
            LeaseStopped: `lease.paused`, `lease.stopped`; `lease.forked`, `lease.overspent`, and from then on
                `lease.quarantined`: this instance gets nothing any more.
            Unavailable: `lease.instances`, as many as may hold grants.
            InvalidInput: `lease.closed`, `lease.consumer`, `lease.record`, `lease.record_gap`, `lease.superseded`.
        """
        with self._change(renewal.lease) as change:
            answer = grants.renew(change, renewal, self._deadlines)
        return _given(answer)

    def status(self, lease: str, instance: str) -> LeaseStatus:
        """What an instance should know of the lease.

        Raises:
            PermissionDenied: `lease.not_admitted`.
        """
        with self._database.read() as connection:
            row = leases.read(connection, lease)
            known = instances.find(connection, lease, instance)
        return LeaseStatus(
            version=row.version,
            state=LeaseState(row.state),
            stop_epoch=row.stop_epoch,
            reason=row.reason,
            quarantined=known.state == instances.QUARANTINED,
        )

    @retrying
    def acknowledge(self, lease: str, instance: str, version: int) -> None:
        """Note that an instance acts upon `version` of the lease. The first word of a stop or pause goes into the log.

        Raises:
            PermissionDenied: `lease.not_admitted`.
            InvalidInput: `lease.version`: there was no such version.
        """
        # Every watch comes by here, and few have news: those need no lock.
        with self._database.read() as connection:
            if version <= instances.find(connection, lease, instance).acknowledged_version:
                return
        with self._change(lease) as change:
            instances.acknowledge(change, instance, version)

    @retrying
    def request_budget(self, asked: BudgetRequest) -> RequestStatus:
        """File a consumer's request for more. While it waits, or a denial stands, asking again gives the same one.

        A denial stands until the custodian raises the consumer's budget or the lease's, or stops, pauses or resumes the
        lease.

        Raises:
            PermissionDenied: `lease.not_admitted`.
            LeaseStopped: `lease.quarantined`.
            InvalidInput: `lease.closed`, `lease.consumer`.
        """
        with self._change(asked.lease) as change:
            refusal = instances.find(change.connection, asked.lease, asked.instance).refusal()
            if refusal is not None:
                raise refusal
            return requests.file(change, asked)

    @retrying
    def close(self, closing: Closing) -> Closed:
        """Take an instance's final record, and give back to the budget what it has not spent.

        The same closing again gets the same answer.

        Raises:
            PermissionDenied: `lease.not_admitted`.
            LeaseStopped: `lease.forked`, `lease.overspent`, `lease.quarantined`.
            InvalidInput: `lease.closed`, `lease.record`, `lease.record_gap`.
        """
        with self._change(closing.lease) as change:
            answer = closings.close(change, closing)
        return _given(answer)

    # What operators decide.

    @retrying
    def stop(self, lease: str, *, by: str, reason: str = "") -> views.Lease:
        """End all queries; enclaves wipe the model.

        Raises:
            InvalidInput: `lease.operator`, `lease.reason`.
        """
        with self._change(lease, by, reason) as change:
            decisions.stop(change, by=by, reason=reason)
            proposals.drop_resumes(change, by=by)
        return self.lease(lease)

    @retrying
    def pause(self, lease: str, *, by: str, reason: str = "") -> views.Lease:
        """Hold all queries back; enclaves keep the model until their grants run out.

        Raises:
            InvalidInput: `lease.state`, `lease.operator`, `lease.reason`.
        """
        with self._change(lease, by, reason) as change:
            decisions.pause(change, by=by, reason=reason)
            proposals.drop_resumes(change, by=by)
        return self.lease(lease)

    def resume(self, lease: str, *, by: str, reason: str = "") -> views.Proposal | None:
        """Let a lease go on that is paused or stopped. None: done; else what waits for other operators.

        Raises:
            InvalidInput: `lease.state`, `lease.operator`, `lease.reason`.
        """
        return self._decide(lease, decisions.RESUME, {}, by=by, reason=reason)

    def raise_budget(
        self, lease: str, *, consumer: str | None, amount: int, by: str, reason: str = ""
    ) -> views.Proposal | None:
        """Raise the budget of a consumer, or, with None, the lease's. None: done.

        Raises:
            InvalidInput: `amount.*`, `lease.consumer`, `lease.account_budget`, `lease.operator`, `lease.reason`.
        """
        return self._decide(lease, decisions.RAISE, {"consumer": consumer, "amount": amount}, by=by, reason=reason)

    def approve(self, request: str, *, amount: int | None = None, by: str, reason: str = "") -> views.Proposal | None:
        """Approve a request, for as much as it wants or another amount. None: done.

        Raises:
            InvalidInput: `lease.request`, `lease.request_state`, `amount.*`, `lease.operator`, `lease.reason`.
        """
        with self._database.read() as connection:
            row = requests.find(connection, request)
        given = row.wanted if amount is None else amount
        return self._decide(row.lease, decisions.APPROVE, {"request": request, "amount": given}, by=by, reason=reason)

    @retrying
    def deny(self, request: str, *, by: str, reason: str) -> views.Request:
        """Deny a request, with a reason that the consumer reads.

        Raises:
            InvalidInput: `lease.request`, `lease.request_state`, `lease.operator`, `lease.reason`.
        """
        if not reason:
            raise InvalidInput("a denial needs a reason", code="lease.reason")
        with self._change(self._lease_of(requests.find, request), by, reason) as change:
            row = requests.find(change.connection, request)
            requests.require_pending(row)
            requests.deny(change, row, by=by, reason=reason)
            proposals.drop_void(change, by=by)
            return pictures.request(requests.find(change.connection, request))

    @retrying
    def agree(self, proposal: str, *, by: str) -> views.Proposal:
        """Agree to a proposal, which is carried out once enough operators do.

        Raises:
            InvalidInput: `lease.proposal`, `lease.proposal_state`, `lease.operator`; or what stands in the way of it.
        """
        with self._change(self._lease_of(proposals.find, proposal), by) as change:
            proposals.agree(change, proposals.find(change.connection, proposal), by=by)
            return _proposal(change, proposal)

    @retrying
    def withdraw(self, proposal: str, *, by: str) -> views.Proposal:
        """Drop a proposal. Any operator may: things stay as they are.

        Raises:
            InvalidInput: `lease.proposal`, `lease.proposal_state`, `lease.operator`.
        """
        with self._change(self._lease_of(proposals.find, proposal), by) as change:
            proposals.withdraw(change, proposals.find(change.connection, proposal), by=by, reason="")
            return _proposal(change, proposal)

    # What people look at.

    def leases(self) -> tuple[views.Lease, ...]:
        """All leases, the newest first; of their instances the latest few, and all that may serve."""
        with self._database.read() as connection:
            return pictures.leases(connection, self._deadlines)

    def lease(self, lease: str) -> views.Lease:
        """One lease."""
        with self._database.read() as connection:
            return pictures.lease(connection, leases.read(connection, lease), self._deadlines)

    def versions(self) -> dict[str, int]:
        """The version of each lease: it grows with what enclaves and operators must hear of. Cheap."""
        return self._column(tables.leases.c.version)

    def entries(self) -> dict[str, int]:
        """How many entries the log of each lease has: it grows with everything that happens. Cheap."""
        return self._column(tables.leases.c.log_count)

    def events(self, lease: str, *, after: int = 0, limit: int | None = None) -> list[views.Event]:
        """Entries of the log with numbers above `after`, oldest first; at most `limit`."""
        with self._database.read() as connection:
            leases.read(connection, lease)
            return [pictures.event(row) for row in entries.rows(connection, lease, after=after, limit=limit)]

    def usage(self, lease: str) -> list[views.UsagePoint]:
        """Units spent over time, oldest first; of a long life the latest `MAX_USAGE_POINTS`."""
        with self._database.read() as connection:
            leases.read(connection, lease)
            return pictures.usage(connection, lease, MAX_USAGE_POINTS)

    def export(self, lease: str) -> Iterator[str]:
        """The log as lines of JSON for `blindai custodian audit`, as long as it is at this moment."""
        row = self._row(lease)
        return log.exported(
            self._keys.sign,
            custodian=self._keys.public_key,
            lease=lease,
            entries=self._pages(lease, row.log_count),
            at=self._clock.now(),
        )

    @contextmanager
    def _change(self, lease: str, by: str | None = None, reason: str = "") -> Iterator[Change]:
        """A transaction with `lease` locked; `by` and `reason` are checked where an operator acts."""
        if by is not None:
            require_operator(by)
            require_reason(reason)
        with self._database.write() as connection:
            row = leases.read(connection, lease, lock=True)
            # Read once the lock is held: entries of the log come in the order of their times.
            change = Change(connection, self._keys, row, self._clock.now())
            yield change
            change.flush()

    @retrying
    def _decide(
        self, lease: str, action: str, arguments: Mapping[str, Any], *, by: str, reason: str
    ) -> views.Proposal | None:
        with self._change(lease, by, reason) as change:
            waiting = proposals.decide(change, action, arguments, by=by, reason=reason)
            return None if waiting is None else _proposal(change, waiting)

    def _row(self, lease: str) -> LeaseRow:
        with self._database.read() as connection:
            return leases.read(connection, lease)

    def _lease_of(self, find: Callable[[sa.Connection, str], RequestRow | ProposalRow], identifier: str) -> str:
        with self._database.read() as connection:
            return find(connection, identifier).lease

    def _column(self, column: sa.Column[int]) -> dict[str, int]:
        with self._database.read() as connection:
            return {row.id: row[1] for row in connection.execute(sa.select(tables.leases.c.id, column))}

    def _pages(self, lease: str, count: int) -> Iterator[SignedEntry]:
        """The first `count` entries of the log."""
        for after in range(0, count, PAGE_EVENTS):
            with self._database.read() as connection:
                page = entries.signed(connection, lease, after=after, limit=min(PAGE_EVENTS, count - after))
            yield from page


def _proposal(change: Change, proposal: str) -> views.Proposal:
    row = proposals.find(change.connection, proposal)
    (picture,) = pictures.proposals(change.connection, [row], needed=change.lease.approvals)
    return picture


def _given(answer: T | BlindAIError) -> T:
    """The answer; a refusal is raised, now that all that came with it is written."""
    if isinstance(answer, BlindAIError):
        raise answer
    return answer
