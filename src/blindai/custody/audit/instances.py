"""Instances, their evidence, their grants and their records: every signature and every link between them once more."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.policy import Policy
from blindai.channel.statement import Role
from blindai.custody.audit.books import Books
from blindai.custody.audit.decisions import Decisions
from blindai.custody.audit.details import (
    GrantIssued,
    InstanceAttested,
    InstanceClosed,
    InstanceQuarantined,
    LeaseCreated,
    RecordAccepted,
    StopAcknowledged,
)
from blindai.custody.audit.findings import Fault
from blindai.custody.log import Kind
from blindai.errors import AttestationError
from blindai.wire.custody import FIRST, Grant, LeaseState, Record


class State(StrEnum):
    """Where an instance was at the end of the log."""

    ADMITTED = "admitted"
    CLOSED = "closed"
    QUARANTINED = "quarantined"


@dataclass
class Instance:
    """One run of one enclave.

    Attributes:
        receipt_key: signs its records; None where its evidence names no key.
        grants, records: how many.
        grant_head, record_head: digests of the last ones.
        final: its last record has come.
    """

    receipt_key: Ed25519PublicKey | None
    simulated: bool
    state: State = State.ADMITTED
    grants: int = 0
    grant_head: str = FIRST
    records: int = 0
    record_head: str = FIRST
    closed_ms: int = 0
    final: bool = False
    acknowledged: int = field(default=-1)


class Instances:
    """All instances of a lease.

    Args:
        lease: its id.
        custodian: whose signature grants must have.
        terms: of the lease.
    """

    def __init__(
        self, lease: str, custodian: Ed25519PublicKey, terms: LeaseCreated, policy: Policy | None, fault: Fault
    ) -> None:
        self.by_id: dict[str, Instance] = {}
        self._lease = lease
        self._custodian = custodian
        self._terms = terms
        self._policy = policy
        self._fault = fault
        # Its final record has come: the next entry must close it.
        self._closing: str | None = None

    def expect(self, kind: Kind | None) -> None:
        """Look at the kind of the next entry, if there is one: whoever has sent its final record is closed at once."""
        if self._closing is not None and kind is not Kind.INSTANCE_CLOSED:
            if self.by_id[self._closing].state is State.ADMITTED:
                self._fault("audit.instance", "an instance has sent its final record and was not closed")
            self._closing = None

    def attested(self, detail: InstanceAttested) -> None:
        """An enclave has attested itself: repeat the verdict on its evidence, as of that moment."""
        transcript = detail.transcript
        if detail.instance in self.by_id:
            self._fault("audit.instance", "this instance has attested itself already")
            return
        simulated = False
        try:
            if transcript.keyset.digest != detail.instance:
                self._fault("audit.attestation", "the evidence is that of another instance")
            if self._policy is not None:
                simulated = transcript.appraise(self._policy, now=transcript.at).simulated
        except AttestationError as error:
            self._fault("audit.attestation", f"the evidence is refused: {error.message} [{error.code}]")
        except (ValueError, OverflowError, OSError) as error:
            self._fault("audit.attestation", f"the evidence is about nothing that can be: {error}")
        if transcript.statement.role is not Role.CLIENT:
            self._fault("audit.attestation", "the evidence was made for a connection of another kind")
        custody = transcript.config.get("custody")
        named = (custody.get("public_key"), custody.get("lease")) if isinstance(custody, dict) else (None, None)
        if named != (self._custodian.public_bytes_raw().hex(), self._lease):
            self._fault("audit.attestation", "the enclave's configuration names another custodian or another lease")
        self.by_id[detail.instance] = Instance(self._receipt_key(transcript.keyset.receipt_key), simulated)

    def granted(self, detail: GrantIssued, books: Books, decisions: Decisions) -> None:
        """An instance was granted units and time."""
        grant = detail.grant
        if decisions.state is not LeaseState.ACTIVE:
            self._fault("audit.state", f"a grant was given while the lease was {decisions.state}")
        instance = self._serving(grant.instance)
        books.debit(grant.instance, grant.quantities)
        if instance is None:
            return
        try:
            self._custodian.verify(bytes.fromhex(detail.signature), grant.message)
        except (InvalidSignature, ValueError):
            self._fault("audit.grant", "the grant is not signed by the custodian")
        for what, is_, must in self._grant_terms(grant, instance, books, decisions):
            if is_ != must:
                self._fault("audit.grant", f"{what} of the grant is {is_} where {must} must be")
        held = books.holdings[grant.instance]
        for consumer in grant.quantities:
            if held.outstanding(consumer) > self._terms.tranche_max:
                self._fault("audit.grant", f"the instance holds {held.outstanding(consumer)} units of {consumer!r}")
        instance.grants, instance.grant_head = grant.seq, grant.digest

    def recorded(self, detail: RecordAccepted, books: Books, decisions: Decisions) -> None:
        """An instance says what was used."""
        record = detail.record
        instance = self._known(record.instance)
        books.spend(record.instance, {consumer: usage.units for consumer, usage in record.counts.items()})
        if instance is None:
            return
        if instance.state is State.CLOSED or instance.final:
            self._fault("audit.record", "a record came after the final one")
        if instance.receipt_key is None:
            return
        try:
            instance.receipt_key.verify(bytes.fromhex(detail.signature), record.message)
        except (InvalidSignature, ValueError):
            self._fault("audit.record", "the record is not signed by its instance")
        for what, is_, must in self._record_terms(record, instance):
            # Before its first grant an instance does not know what it serves.
            if is_ != must and not (what.endswith("digest") and record.grant == 0 and is_ == FIRST):
                self._fault("audit.record", f"{what} of the record is {is_} where {must} must be")
        if record.grant > instance.grants:
            self._fault("audit.record", f"the record names grant {record.grant}, which was not given")
        if record.stop_epoch > decisions.stop_epoch:
            self._fault("audit.record", f"the record names stop {record.stop_epoch}, which was not made")
        if not instance.closed_ms <= record.opened_ms <= record.closed_ms:
            self._fault("audit.record", "the windows of two records overlap")
        if any(usage.failed > usage.queries for usage in record.counts.values()):
            self._fault("audit.record", "the record counts more failures than queries")
        instance.records, instance.record_head = record.seq, record.digest
        instance.closed_ms, instance.final = record.closed_ms, record.final
        if record.final:
            self._closing = record.instance

    def closed(self, detail: InstanceClosed, books: Books) -> None:
        """An instance has ended in good order."""
        if self._closing != detail.instance:
            self._fault("audit.instance", "an instance was closed without its final record")
        self._closing = None
        instance = self._serving(detail.instance)
        books.refund(detail.instance, detail.refunded)
        if instance is not None:
            instance.state = State.CLOSED

    def quarantined(self, detail: InstanceQuarantined) -> None:
        """An instance gets nothing any more."""
        self._closing = None
        instance = self._serving(detail.instance)
        if instance is not None:
            instance.state = State.QUARANTINED

    def acknowledged(self, detail: StopAcknowledged, decisions: Decisions) -> None:
        """An instance says that it acts upon a stop or a pause."""
        if decisions.state is LeaseState.ACTIVE:
            self._fault("audit.state", "a stop is acknowledged, and the lease was active")
        instance = self._known(detail.instance)
        if instance is None:
            return
        if detail.version <= instance.acknowledged:
            self._fault("audit.instance", f"the instance has acknowledged version {instance.acknowledged} already")
        instance.acknowledged = detail.version

    def filed(self, instance: str) -> None:
        """An instance has filed a request."""
        self._serving(instance)

    def _grant_terms(
        self, grant: Grant, instance: Instance, books: Books, decisions: Decisions
    ) -> tuple[tuple[str, object, object], ...]:
        terms = self._terms
        epochs = {consumer: account.token_epoch for consumer, account in books.accounts.items()}
        return (
            ("lease", grant.lease, self._lease),
            ("seq", grant.seq, instance.grants + 1),
            ("prev", grant.prev, instance.grant_head),
            ("unit", grant.unit, terms.unit),
            ("consumers", grant.consumers, epochs),
            ("soft_ms", grant.soft_ms, terms.soft_ms),
            ("ttl_ms", grant.ttl_ms, terms.ttl_ms),
            ("model_digest", grant.model_digest, terms.model_digest),
            ("policy_digest", grant.policy_digest, terms.policy_digest),
            ("stop_epoch", grant.stop_epoch, decisions.stop_epoch),
            ("record_seq", grant.record_seq, instance.records),
            ("record_head", grant.record_head, instance.record_head),
        )

    def _record_terms(self, record: Record, instance: Instance) -> tuple[tuple[str, object, object], ...]:
        return (
            ("lease", record.lease, self._lease),
            ("seq", record.seq, instance.records + 1),
            ("prev", record.prev, instance.record_head),
            ("model_digest", record.model_digest, self._terms.model_digest),
            ("policy_digest", record.policy_digest, self._terms.policy_digest),
        )

    def _known(self, name: str) -> Instance | None:
        instance = self.by_id.get(name)
        if instance is None:
            self._fault("audit.instance", "this instance has not attested itself")
        return instance

    def _serving(self, name: str) -> Instance | None:
        instance = self._known(name)
        if instance is not None and instance.state is not State.ADMITTED:
            self._fault("audit.instance", f"this instance was {instance.state} before")
        return instance

    def _receipt_key(self, key: str) -> Ed25519PublicKey | None:
        try:
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        except ValueError:
            self._fault("audit.attestation", "the instance's receipt key is no key")
            return None
