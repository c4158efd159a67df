"""A lease lived once more, entry by entry, with everything that its log says held against everything before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindai.attestation.policy import Policy
from blindai.custody.audit import details
from blindai.custody.audit.books import Books
from blindai.custody.audit.decisions import Decisions
from blindai.custody.audit.findings import Fault
from blindai.custody.audit.instances import Instances
from blindai.custody.log import Entry, Kind
from blindai.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Lease:
    """A lease as its log tells it.

    Args:
        id: of the lease.
        custodian: whose signature grants must have.
        terms: of the first entry.
        fault: told of everything that is wrong.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - what the log calls it
        custodian: Ed25519PublicKey,
        terms: details.LeaseCreated,
        fault: Fault,
    ) -> None:
        self.terms = terms
        self.books = Books(terms.budget, terms.consumers, fault)
        self.decisions = Decisions(terms.approvals, self.books, fault)
        self.instances = Instances(id, custodian, terms, self._policy(terms, fault), fault)
        self._fault = fault

    @staticmethod
    def _policy(terms: details.LeaseCreated, fault: Fault) -> Policy | None:
        try:
            policy = Policy.parse(terms.policy, "the policy in the log")
        except ConfigurationError as error:
            fault("audit.policy", f"the policy cannot be read: {error.message} [{error.code}]")
            return None
        if policy.digest != terms.policy_digest:
            fault("audit.policy", f"the policy has the digest {policy.digest}, not {terms.policy_digest}")
        return policy

    def take(self, entry: Entry, detail: details.Detail) -> None:  # noqa: C901, PLR0912 - one case for each kind
        """The next entry."""
        self.decisions.expect(entry.kind)
        self.instances.expect(entry.kind)
        self._require_author(entry)
        match detail:
            case details.LeaseCreated():
                self._fault("audit.order", "the lease was made a second time")
            case details.ConsumerAdded():
                self._added(detail)
            case details.TokenEpoch():
                self._token(entry, detail)
            case details.InstanceAttested():
                self.instances.attested(detail)
            case details.InstanceClosed():
                self.instances.closed(detail, self.books)
            case details.InstanceQuarantined():
                self.instances.quarantined(detail)
            case details.GrantIssued():
                self.instances.granted(detail, self.books, self.decisions)
            case details.RecordAccepted():
                self.instances.recorded(detail, self.books, self.decisions)
            case details.RequestFiled():
                self.instances.filed(detail.instance)
                self.decisions.filed(detail)
            case details.RequestApproved():
                self.decisions.approved(entry, detail)
            case details.RequestDenied():
                self.decisions.denied(detail)
            case details.BudgetRaised():
                self.decisions.raised(entry, detail)
            case details.Switched():
                self.decisions.switched(entry, detail)
            case details.ProposalMade():
                self.decisions.proposed(entry, detail)
            case details.ProposalAgreed():
                self.decisions.agreed(entry, detail)
            case details.ProposalWithdrawn():
                self.decisions.withdrawn(detail)
            case details.StopAcknowledged():
                self.instances.acknowledged(detail, self.decisions)

    def end(self) -> None:
        """There are no more entries."""
        self.decisions.expect(None)
        self.instances.expect(None)

    def _added(self, detail: details.ConsumerAdded) -> None:
        if self.terms.approvals > 1 and detail.budget != 0:
            self._fault("audit.approvals", f"{detail.consumer} was given a budget by one operator")
        self.books.add(detail.consumer, detail.budget)

    def _token(self, entry: Entry, detail: details.TokenEpoch) -> None:
        account = self.books.account(detail.consumer)
        if account is None:
            return
        expected = account.token_epoch + (entry.kind is Kind.TOKENS_REVOKED)
        if detail.epoch != expected:
            self._fault("audit.consumer", f"the token epoch is {detail.epoch} where {expected} must be")
        account.token_epoch = detail.epoch

    def _require_author(self, entry: Entry) -> None:
        if (entry.kind in _BY_ENCLAVES) != (not entry.by):
            who = entry.by or "no operator"
            self._fault("audit.author", f"{entry.kind} is said to be by {who}")


_BY_ENCLAVES = frozenset(
    {
        Kind.INSTANCE_ATTESTED,
        Kind.INSTANCE_CLOSED,
        Kind.INSTANCE_QUARANTINED,
        Kind.GRANT_ISSUED,
        Kind.RECORD_ACCEPTED,
        Kind.REQUEST_FILED,
        Kind.STOP_ACKNOWLEDGED,
    }
)
