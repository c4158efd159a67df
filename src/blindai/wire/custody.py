"""What an enclave and its custodian say to each other about a lease. No byte of a model's input or output is in it.

    POST /v1/renewals          Renewal        -> GrantAnswer    more units, more time, the model's key
    POST /v1/watches           Watch          -> LeaseStatus    answered when something has changed, or after a while
    POST /v1/budget-requests   BudgetRequest  -> RequestStatus  a consumer has nothing left
    POST /v1/closings          Closing        -> Closed         the last record; what was not spent goes back
    POST /v1/artefacts         ArtefactRange  -> bytes          a part of the sealed model

All of it travels on a connection in which the custodian has proved its key and the enclave has attested itself in the
role `client`. Grants are signed by the custodian, records by the instance, so that both can be shown to others later.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from blindai.crypto.digests import tagged, tagged_sha256

VERSION: Final = 1

GRANT_DOMAIN: Final = "blindai/grant/v1"
RECORD_DOMAIN: Final = "blindai/record/v1"
MODEL_KEY_DOMAIN: Final = "blindai/model-key/v1"

RENEWALS: Final = "/v1/renewals"
WATCHES: Final = "/v1/watches"
BUDGET_REQUESTS: Final = "/v1/budget-requests"
CLOSINGS: Final = "/v1/closings"
ARTEFACTS: Final = "/v1/artefacts"

# Sums of a thousand accounts stay below 2**53, the largest integer of the canonical encoding.
MAX_AMOUNT: Final = 10**12

# What a renewal carries is what was not acknowledged: a handful of records, unless the line was cut for long. The
# enclave joins what it has counted into one record until the last one is acknowledged, so that there are never more.
MAX_RECORDS: Final = 4

# Consumers of one lease. Each has an account, and a line in every grant.
MAX_CONSUMERS: Final = 1000

# One message with `MAX_CONSUMERS` in each of its tables.
MAX_MESSAGE_BYTES: Final = 1 << 20

# One part of a sealed model: large enough for the speed of the disk, small enough for many at once.
MAX_ARTEFACT_BYTES: Final = 8 << 20

# The digest before the first of a chain.
FIRST: Final = "0" * 64

# The account of a lease that names no consumers.
ANYONE: Final = ""

Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]
Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
LeaseId = Annotated[str, msgspec.Meta(pattern=r"\Alease-[a-z2-7]{16}\Z")]
RequestId = Annotated[str, msgspec.Meta(pattern=r"\Arequest-[a-z2-7]{16}\Z")]
Consumer = Annotated[str, msgspec.Meta(pattern=r"\A(?:[a-z0-9][a-z0-9._-]{0,62})?\Z")]
"""A consumer's name; the empty one is `ANYONE`."""


class Unit(StrEnum):
    """What a lease counts. This release meters queries; the others are reserved."""

    QUERIES = "queries"
    TOKENS = "tokens"
    SECONDS = "seconds"
    EPOCHS = "epochs"


class LeaseState(StrEnum):
    """What the custodian says of a lease as a whole."""

    ACTIVE = "active"
    PAUSED = "paused"
    STOPPED = "stopped"


class RequestState(StrEnum):
    """Where a request for more budget is."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one consumer used in one window.

    Attributes:
        units: spent, in the lease's unit.
        queries: that ran, whether they succeeded or not.
        failed: of these.
    """

    units: Amount = 0
    queries: Amount = 0
    failed: Amount = 0


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Telemetry of one window of one instance: counts, and nothing of what was asked or answered.

    Attributes:
        seq: from 1, without gaps.
        prev: digest of the record before, `FIRST` for the first.
        grant: `seq` of the newest grant that was in force; 0 before the first.
        opened_ms, closed_ms: the window, in milliseconds since the instance began, by its monotonic clock.
        counts: by consumer.
        policy_digest: as in the grant.
        stop_epoch: the latest that the instance had applied.
        final: the last record of the instance; nothing runs after it.
    """

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    seq: Amount
    prev: Hex32
    grant: Amount
    opened_ms: Amount
    closed_ms: Amount
    counts: dict[Consumer, Usage]
    model_digest: Hex32
    policy_digest: Hex32
    stop_epoch: Amount
    final: bool = False

    @property
    def message(self) -> bytes:
        """What the instance's receipt key signs."""
        return tagged(RECORD_DOMAIN, msgspec.to_builtins(self))

    @property
    def digest(self) -> str:
        """`prev` of the next record."""
        return tagged_sha256(RECORD_DOMAIN, msgspec.to_builtins(self))


class SignedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A record with the signature of the instance's receipt key (Ed25519)."""

    record: Record
    signature: Hex64


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enclave asks for a grant. It repeats the very same message until it has an answer.

    Attributes:
        instance: digest of its keyset, the one that it attested with.
        seq: of the grant it asks for: 1 for the first.
        prev: digest of the grant before; `FIRST` for the first.
        challenge: 32 random bytes, used once; the grant's time runs from the moment they were drawn.
        wanted: units on top of what it has, by consumer; without any, it asks for time alone.
        key: whether it needs the model's key.
        records: those not acknowledged yet, oldest first.
    """

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]
    prev: Hex32
    challenge: Hex32
    wanted: Annotated[dict[Consumer, Amount], msgspec.Meta(max_length=MAX_CONSUMERS)] = {}
    key: bool = False
    records: Annotated[tuple[SignedRecord, ...], msgspec.Meta(max_length=MAX_RECORDS)] = ()


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The custodian's word, debited before it was given. Valid for one instance, which answers for all of it.

    Attributes:
        seq, prev, challenge: as the renewal had them.
        quantities: units on top of what the instance holds, by consumer.
        consumers: who may query, with the lowest epoch of their tokens that counts; `ANYONE` alone for an open lease.
        soft_ms: from the challenge on, after which no new query starts.
        ttl_ms: from the challenge on, after which key and weights are wiped.
        record_seq, record_head: the last record that the custodian has, which it acknowledges hereby.
    """

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]
    prev: Hex32
    challenge: Hex32
    unit: Unit
    quantities: dict[Consumer, Amount]
    consumers: dict[Consumer, Amount]
    soft_ms: Amount
    ttl_ms: Amount
    model_digest: Hex32
    policy_digest: Hex32
    stop_epoch: Amount
    record_seq: Amount
    record_head: Hex32

    @property
    def message(self) -> bytes:
        """What the custodian signs."""
        return tagged(GRANT_DOMAIN, msgspec.to_builtins(self))

    @property
    def digest(self) -> str:
        """`prev` of the next renewal."""
        return tagged_sha256(GRANT_DOMAIN, msgspec.to_builtins(self))

    @property
    def key_info(self) -> bytes:
        """HPKE's `info` for the model's key that travels with this grant: it opens with this grant alone."""
        return tagged(MODEL_KEY_DOMAIN, {"grant": self.digest})


class RequestStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for more budget, as the consumer may see it.

    Attributes:
        granted: units that were approved.
        reason: the custodian's words to the consumer.
    """

    id: RequestId
    consumer: Consumer
    state: RequestState
    granted: Amount = 0
    reason: str = ""


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A consumer's account over all instances.

    Attributes:
        spent: units, as far as records have come in.
        budget: units that it may spend: its own budget, or the lease's where it has none.
        request: the latest one.
    """

    spent: Amount
    budget: Amount
    request: RequestStatus | None = None


class GrantAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to a renewal.

    Attributes:
        signature: of the grant, by the custodian (Ed25519).
        key: the model's key, sealed to the instance's HPKE key with `Grant.key_info`; where it was asked for.
        version: of the lease; what `Watch.known` starts from.
        standings: by consumer.
    """

    grant: Grant
    signature: Hex64
    key: bytes | None = None
    version: Amount
    standings: dict[Consumer, Standing]


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enclave asks to be told of changes.

    Attributes:
        known: version of the lease that it has seen; the answer waits until there is a later one.
        applied: version that it has acted upon: its acknowledgement of a stop.
        wait_ms: the longest wait.
    """

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    known: Amount
    applied: Amount
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 20_000


class LeaseStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the custodian says of a lease.

    Attributes:
        version: grows with every change.
        stop_epoch: grows with every stop.
        reason: the custodian's words, for consumers.
        quarantined: this instance gets nothing any more.
    """

    version: Amount
    state: LeaseState
    stop_epoch: Amount
    reason: str = ""
    quarantined: bool = False


class BudgetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enclave asks on behalf of a consumer that has nothing left. Asking twice gives the same request."""

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    consumer: Consumer
    wanted: Annotated[int, msgspec.Meta(ge=1, le=MAX_AMOUNT)]


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An instance ends in good order: its last records, of which the very last is final."""

    v: int = VERSION
    lease: LeaseId
    instance: Hex32
    records: Annotated[tuple[SignedRecord, ...], msgspec.Meta(min_length=1, max_length=MAX_RECORDS)]


class Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The custodian has the final record. `refunded`: units that went back, by consumer."""

    refunded: dict[Consumer, Amount]


class ArtefactRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the sealed model: `length` bytes from `offset`, fewer at its end, none behind it."""

    v: int = VERSION
    lease: LeaseId
    offset: Amount
    length: Annotated[int, msgspec.Meta(ge=1, le=MAX_ARTEFACT_BYTES)]
