"""What operators decided: whether as many agreed as the lease asks for, and on what they agreed."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from blindai.custody.audit.books import Books
from blindai.custody.audit.details import (
    ApproveArguments,
    BudgetRaised,
    Detail,
    ProposalAgreed,
    ProposalMade,
    ProposalWithdrawn,
    RaiseArguments,
    RequestApproved,
    RequestDenied,
    RequestFiled,
    ResumeArguments,
    Switched,
)
from blindai.custody.audit.findings import Fault
from blindai.custody.log import Entry, Kind
from blindai.wire.custody import LeaseState, RequestState

_ARGUMENTS: dict[str, type[Detail]] = {
    "resume": ResumeArguments,
    "raise": RaiseArguments,
    "approve": ApproveArguments,
}


@dataclass
class Proposal:
    """A decision that waits. `agreed`: operators, the proposer first."""

    arguments: Detail
    reason: str
    agreed: list[str] = field(default_factory=list)


@dataclass
class Request:
    """A consumer's request for more budget."""

    consumer: str
    state: RequestState = RequestState.PENDING


class Decisions:
    """State of the lease, its proposals and its requests.

    Args:
        approvals: operators who must agree to a resume, a raise or an approval.

    Attributes:
        state, stop_epoch: of the lease.
        proposals: the open ones, by id.
        requests: all of them, by id.
    """

    def __init__(self, approvals: int, books: Books, fault: Fault) -> None:
        self.state = LeaseState.ACTIVE
        self.stop_epoch = 0
        self.proposals: dict[str, Proposal] = {}
        self.requests: dict[str, Request] = {}
        self._approvals = approvals
        self._books = books
        self._fault = fault
        self._version = 0
        # Everybody has agreed to it: the next entry must carry it out.
        self._due: Proposal | None = None
        self._closed: set[str] = set()

    def expect(self, kind: Kind | None) -> None:
        """Look at the kind of the next entry, if there is one: what was agreed on is carried out at once."""
        if self._due is not None and kind not in _CARRYING:
            self._fault("audit.approvals", "what everybody has agreed to was not carried out")
            self._due = None

    def switched(self, entry: Entry, detail: Switched) -> None:
        """Paused, stopped or resumed."""
        before, self.state = self.state, _STATES[entry.kind]
        if entry.kind is Kind.LEASE_RESUMED:
            if before is LeaseState.ACTIVE:
                self._fault("audit.state", "the lease was resumed while it was active")
            self._require_agreement(entry, detail.agreed, detail.reason, ResumeArguments())
        else:
            if entry.kind is Kind.LEASE_PAUSED and before is LeaseState.STOPPED:
                self._fault("audit.state", "the lease was paused while it was stopped")
            if detail.agreed != [entry.by]:
                self._fault("audit.approvals", f"{entry.by} alone has switched it, not {detail.agreed}")
        expected = self.stop_epoch + (entry.kind is Kind.LEASE_STOPPED)
        if detail.stop_epoch != expected:
            self._fault("audit.state", f"the stop epoch is {detail.stop_epoch} where {expected} must be")
        if detail.version <= self._version:
            self._fault("audit.state", f"version {detail.version} is not above {self._version}")
        self.stop_epoch, self._version = detail.stop_epoch, detail.version

    def raised(self, entry: Entry, detail: BudgetRaised) -> None:
        """A budget was raised."""
        amount = detail.lease_raised if detail.consumer is None else detail.account_raised
        other = detail.account_raised if detail.consumer is None else detail.lease_raised
        if not amount or other:
            self._fault("audit.money", "a raise of one budget has raised another")
        arguments = RaiseArguments(consumer=detail.consumer, amount=amount)
        self._require_agreement(entry, detail.agreed, detail.reason, arguments)
        self._raise(detail.consumer, detail.account_raised, detail.lease_raised)

    def filed(self, detail: RequestFiled) -> None:
        """A consumer asks for more."""
        if detail.request in self.requests:
            self._fault("audit.request", f"{detail.request} was filed already")
        self._books.account(detail.consumer)
        self.requests[detail.request] = Request(detail.consumer)

    def approved(self, entry: Entry, detail: RequestApproved) -> None:
        """A consumer gets more."""
        self._decide(detail.request, detail.consumer, RequestState.APPROVED)
        arguments = ApproveArguments(request=detail.request, amount=detail.amount)
        self._require_agreement(entry, detail.agreed, detail.reason, arguments)
        if max(detail.account_raised, detail.lease_raised) > detail.amount:
            self._fault("audit.money", f"an approval of {detail.amount} units has raised a budget by more")
        self._raise(detail.consumer, detail.account_raised, detail.lease_raised)

    def denied(self, detail: RequestDenied) -> None:
        """A consumer gets nothing."""
        self._decide(detail.request, detail.consumer, RequestState.DENIED)

    def proposed(self, entry: Entry, detail: ProposalMade) -> None:
        """An operator proposes, and agrees thereby."""
        try:
            arguments = msgspec.json.decode(detail.arguments, type=_ARGUMENTS[detail.action])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._fault("audit.detail", f"the arguments of {detail.proposal} are wrong: {error}")
            return
        if detail.proposal in self.proposals or detail.proposal in self._closed:
            self._fault("audit.approvals", f"{detail.proposal} was made already")
        if detail.needed != self._approvals:
            self._fault("audit.approvals", f"{detail.needed} must agree where the lease asks for {self._approvals}")
        self.proposals[detail.proposal] = Proposal(arguments, detail.reason, [entry.by])

    def agreed(self, entry: Entry, detail: ProposalAgreed) -> None:
        """Another operator agrees."""
        proposal = self._open(detail.proposal)
        if proposal is None:
            return
        if entry.by in proposal.agreed:
            self._fault("audit.approvals", f"{entry.by} has agreed to {detail.proposal} already")
            return
        proposal.agreed.append(entry.by)
        if len(proposal.agreed) == self._approvals:
            self._close(detail.proposal)
            self._due = proposal

    def withdrawn(self, detail: ProposalWithdrawn) -> None:
        """A proposal is dropped."""
        if self._open(detail.proposal) is not None:
            self._close(detail.proposal)

    def _require_agreement(self, entry: Entry, agreed: list[str], reason: str, arguments: Detail) -> None:
        """As many operators as the lease asks for have agreed to this, and to nothing else."""
        due, self._due = self._due, None
        if entry.by != (agreed[-1] if agreed else ""):
            self._fault("audit.approvals", f"{entry.by} has decided, and {agreed} are said to have agreed")
        if len(set(agreed)) < self._approvals:
            self._fault("audit.approvals", f"{len(set(agreed))} have agreed where {self._approvals} must")
        if self._approvals == 1 and due is None:
            return
        if due is None or (due.arguments, due.reason, due.agreed) != (arguments, reason, agreed):
            self._fault("audit.approvals", "this is not what the operators have agreed to")

    def _raise(self, consumer: str | None, account_raised: int, lease_raised: int) -> None:
        if consumer is not None and account_raised:
            self._books.raise_account(consumer, account_raised)
        self._books.raise_lease(lease_raised)

    def _decide(self, name: str, consumer: str, state: RequestState) -> None:
        request = self.requests.get(name)
        if request is None or request.consumer != consumer:
            self._fault("audit.request", f"{consumer!r} has not filed {name}")
            return
        if request.state is not RequestState.PENDING:
            self._fault("audit.request", f"{name} was {request.state} already")
        request.state = state

    def _open(self, name: str) -> Proposal | None:
        proposal = self.proposals.get(name)
        if proposal is None:
            self._fault("audit.approvals", f"{name} is no open proposal")
        return proposal

    def _close(self, name: str) -> None:
        del self.proposals[name]
        self._closed.add(name)


_STATES = {
    Kind.LEASE_PAUSED: LeaseState.PAUSED,
    Kind.LEASE_STOPPED: LeaseState.STOPPED,
    Kind.LEASE_RESUMED: LeaseState.ACTIVE,
}

_CARRYING = frozenset({Kind.LEASE_RESUMED, Kind.BUDGET_RAISED, Kind.REQUEST_APPROVED})
