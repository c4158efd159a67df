"""Decisions that need several operators: proposed by one, carried out once enough of them agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from blindai.custody import log, tables
from blindai.custody.ledger import decisions
from blindai.custody.ledger.identifiers import new_id
from blindai.custody.ledger.leases import Change
from blindai.custody.ledger.rows import TableRow
from blindai.custody.log import Kind
from blindai.custody.views import ProposalState
from blindai.errors import InvalidInput

_PROPOSALS: Final = tables.proposals
_AGREEMENTS: Final = tables.agreements


@dataclass(frozen=True, kw_only=True)
class ProposalRow(TableRow):
    """A row of `tables.proposals`."""

    number: int
    id: str
    lease: str
    action: str
    arguments: str
    reason: str
    state: str
    proposed_at: str

    @property
    def values(self) -> dict[str, Any]:
        """`arguments`, read."""
        values: dict[str, Any] = json.loads(self.arguments)
        return values


def read(connection: sa.Connection, query: sa.Select[Any]) -> list[ProposalRow]:
    """The rows that `query`, a selection of `tables.proposals`, gives."""
    return [ProposalRow.of(row) for row in connection.execute(query)]


def find(connection: sa.Connection, proposal: str) -> ProposalRow:
    """A proposal by its id.

    Raises:
        InvalidInput: `lease.proposal`.
    """
    rows = read(connection, sa.select(_PROPOSALS).where(_PROPOSALS.c.id == proposal))
    if not rows:
        raise InvalidInput("there is no such proposal", code="lease.proposal")
    return rows[0]


def agreed(connection: sa.Connection, proposal: str) -> tuple[str, ...]:
    """The operators who agree, the proposer first."""
    rows = connection.execute(
        sa.select(_AGREEMENTS.c.operator).where(_AGREEMENTS.c.proposal == proposal).order_by(_AGREEMENTS.c.number)
    )
    return tuple(row.operator for row in rows)


def decide(change: Change, action: str, arguments: Mapping[str, Any], *, by: str, reason: str) -> str | None:
    """Carry out a decision, or propose it where others must agree. An equal proposal that is open is agreed to.

    Returns:
        The id of the proposal that waits; None if the decision is carried out.

    Raises:
        InvalidInput: the decision cannot be carried out now; nothing is written.
    """
    decisions.require_possible(change, action, arguments)
    if change.lease.approvals == 1:
        decisions.carry_out(change, action, arguments, agreed=(by,), reason=reason)
        return None
    text = log.detail(arguments)
    for proposal in _open(change):
        if (proposal.action, proposal.arguments) == (action, text):
            return None if agree(change, proposal, by=by) else proposal.id
    proposal_id = new_id("proposal")
    change.connection.execute(
        sa.insert(_PROPOSALS).values(
            id=proposal_id,
            lease=change.lease.id,
            action=action,
            arguments=text,
            reason=reason,
            state=ProposalState.OPEN.value,
            proposed_at=change.at,
        )
    )
    change.note(
        Kind.PROPOSAL_MADE,
        {
            "proposal": proposal_id,
            "action": action,
            "arguments": dict(arguments),
            "reason": reason,
            "needed": change.lease.approvals,
        },
        by=by,
    )
    _sign(change, proposal_id, by, number=1)
    return proposal_id


def agree(change: Change, proposal: ProposalRow, *, by: str) -> bool:
    """Agree to a proposal. The same operator a second time changes nothing. Returns whether it is carried out by this.

    Raises:
        InvalidInput: `lease.proposal_state`; or the decision cannot be carried out any more.
    """
    require_open(proposal)
    before = agreed(change.connection, proposal.id)
    if by in before:
        return False
    _sign(change, proposal.id, by, number=len(before) + 1)
    change.note(Kind.PROPOSAL_AGREED, {"proposal": proposal.id}, by=by)
    everyone = (*before, by)
    if len(everyone) < change.lease.approvals:
        return False
    _close(change, proposal.id, ProposalState.CARRIED)
    decisions.require_possible(change, proposal.action, proposal.values)
    decisions.carry_out(change, proposal.action, proposal.values, agreed=everyone, reason=proposal.reason)
    drop_void(change, by=by)
    return True


def withdraw(change: Change, proposal: ProposalRow, *, by: str, reason: str) -> None:
    """Drop a proposal. Any operator may: it leaves things as they are, as one operator alone may see to.

    Raises:
        InvalidInput: `lease.proposal_state`.
    """
    require_open(proposal)
    _close(change, proposal.id, ProposalState.WITHDRAWN)
    change.note(Kind.PROPOSAL_WITHDRAWN, {"proposal": proposal.id, "reason": reason}, by=by)


def drop_void(change: Change, *, by: str) -> None:
    """Withdraw the open proposals that an operator's act has made void."""
    for proposal in _open(change):
        if decisions.void(change, proposal.action, proposal.values):
            withdraw(change, proposal, by=by, reason="another decision was made")


def drop_resumes(change: Change, *, by: str) -> None:
    """Withdraw what was agreed before a stop or a pause: nobody has agreed to end this one."""
    for proposal in _open(change):
        if proposal.action == decisions.RESUME:
            withdraw(change, proposal, by=by, reason="the lease was stopped or paused again")


def require_open(proposal: ProposalRow) -> None:
    """Refuse what was carried out or withdrawn.

    Raises:
        InvalidInput: `lease.proposal_state`.
    """
    if proposal.state != ProposalState.OPEN:
        raise InvalidInput(f"this proposal was {proposal.state}", code="lease.proposal_state")


def _open(change: Change) -> list[ProposalRow]:
    return read(
        change.connection,
        sa.select(_PROPOSALS)
        .where(_PROPOSALS.c.lease == change.lease.id, _PROPOSALS.c.state == ProposalState.OPEN.value)
        .order_by(_PROPOSALS.c.number),
    )


def _sign(change: Change, proposal: str, by: str, *, number: int) -> None:
    change.connection.execute(sa.insert(_AGREEMENTS).values(proposal=proposal, operator=by, number=number))


def _close(change: Change, proposal: str, state: ProposalState) -> None:
    change.connection.execute(sa.update(_PROPOSALS).where(_PROPOSALS.c.id == proposal).values(state=state.value))
