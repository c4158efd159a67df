"""What the entries of a log hold, by kind. Read strictly: a field too many, too few or of another type is wrong."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec

from blindai.channel.transcript import Transcript
from blindai.custody.log import Entry, Kind
from blindai.wire.custody import MAX_AMOUNT, Amount, Consumer, Grant, Hex32, Hex64, Record, RequestId, Unit

D = TypeVar("D", bound="Detail")

ProposalId = Annotated[str, msgspec.Meta(pattern=r"\Aproposal-[a-z2-7]{16}\Z")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]


class Detail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The detail of an entry."""


class LeaseCreated(Detail, frozen=True):
    """The terms. `consumers`: the budget of each account, None where only the lease's bounds it."""

    name: str
    borrower: str
    model_id: str
    model_digest: Hex32
    policy: str
    policy_digest: Hex32
    unit: Unit
    budget: Positive
    consumers: dict[Consumer, Positive | None]
    soft_ms: Positive
    ttl_ms: Positive
    tranche_max: Positive
    max_instances: Positive
    approvals: Positive


class ConsumerAdded(Detail, frozen=True):
    """An account was opened."""

    consumer: Consumer
    budget: Amount | None


class TokenEpoch(Detail, frozen=True):
    """A token was issued with this epoch, or all below it are revoked."""

    consumer: Consumer
    epoch: Amount


class InstanceAttested(Detail, frozen=True):
    """An enclave's first contact, with all of its evidence."""

    instance: Hex32
    transcript: Transcript


class InstanceClosed(Detail, frozen=True):
    """An instance has ended in good order. `refunded`: units that went back, by consumer."""

    instance: Hex32
    refunded: dict[Consumer, Positive]


class InstanceQuarantined(Detail, frozen=True):
    """An instance gets nothing any more."""

    instance: Hex32
    code: str
    reason: str


class GrantIssued(Detail, frozen=True):
    """A grant, with the custodian's signature."""

    grant: Grant
    signature: Hex64


class RecordAccepted(Detail, frozen=True):
    """A record, with the instance's signature."""

    record: Record
    signature: Hex64


class RequestFiled(Detail, frozen=True):
    """A consumer wants more."""

    request: RequestId
    instance: Hex32
    consumer: Consumer
    wanted: Positive


class RequestApproved(Detail, frozen=True):
    """A consumer gets `amount` more, for which budgets were raised."""

    request: RequestId
    consumer: Consumer
    amount: Positive
    account_raised: Amount
    lease_raised: Amount
    agreed: list[str]
    reason: str


class RequestDenied(Detail, frozen=True):
    """A consumer gets nothing."""

    request: RequestId
    consumer: Consumer
    reason: str


class BudgetRaised(Detail, frozen=True):
    """`consumer`: whose own budget; None for the lease's."""

    consumer: Consumer | None
    account_raised: Amount
    lease_raised: Amount
    agreed: list[str]
    reason: str


class Switched(Detail, frozen=True):
    """Paused, stopped or resumed."""

    version: Amount
    stop_epoch: Amount
    agreed: list[str]
    reason: str


class ResumeArguments(Detail, frozen=True):
    """Of a proposal to resume."""


class RaiseArguments(Detail, frozen=True):
    """Of a proposal to raise the budget of a consumer, or, with None, the lease's."""

    consumer: Consumer | None
    amount: Positive


class ApproveArguments(Detail, frozen=True):
    """Of a proposal to approve a request."""

    request: RequestId
    amount: Positive


class ProposalMade(Detail, frozen=True):
    """A decision that needs several operators. `arguments`: as `action` has them."""

    proposal: ProposalId
    action: Literal["resume", "raise", "approve"]
    arguments: msgspec.Raw
    reason: str
    needed: Positive


class ProposalAgreed(Detail, frozen=True):
    """Another operator agrees."""

    proposal: ProposalId


class ProposalWithdrawn(Detail, frozen=True):
    """A proposal was dropped."""

    proposal: ProposalId
    reason: str


class StopAcknowledged(Detail, frozen=True):
    """An instance says that it acts upon a stop or a pause."""

    instance: Hex32
    version: Amount


FORMS: Final[dict[Kind, type[Detail]]] = {
    Kind.LEASE_CREATED: LeaseCreated,
    Kind.CONSUMER_ADDED: ConsumerAdded,
    Kind.TOKEN_ISSUED: TokenEpoch,
    Kind.TOKENS_REVOKED: TokenEpoch,
    Kind.INSTANCE_ATTESTED: InstanceAttested,
    Kind.INSTANCE_CLOSED: InstanceClosed,
    Kind.INSTANCE_QUARANTINED: InstanceQuarantined,
    Kind.GRANT_ISSUED: GrantIssued,
    Kind.RECORD_ACCEPTED: RecordAccepted,
    Kind.REQUEST_FILED: RequestFiled,
    Kind.REQUEST_APPROVED: RequestApproved,
    Kind.REQUEST_DENIED: RequestDenied,
    Kind.BUDGET_RAISED: BudgetRaised,
    Kind.LEASE_PAUSED: Switched,
    Kind.LEASE_STOPPED: Switched,
    Kind.LEASE_RESUMED: Switched,
    Kind.PROPOSAL_MADE: ProposalMade,
    Kind.PROPOSAL_AGREED: ProposalAgreed,
    Kind.PROPOSAL_WITHDRAWN: ProposalWithdrawn,
    Kind.STOP_ACKNOWLEDGED: StopAcknowledged,
}


def read(entry: Entry) -> Detail:
    """The detail of `entry`.

    Raises:
        ValueError: it is not of the form of its kind.
    """
    try:
        return msgspec.json.decode(entry.detail, type=FORMS[entry.kind])
    except RecursionError as error:
        raise ValueError("it is too deep") from error
