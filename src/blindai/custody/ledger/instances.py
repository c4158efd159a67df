"""Instances: admitted by their attestation, counted while their grants run, barred when they show that they forked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.attestation.result import AttestationResult, Status
from blindai.channel.keyset import Keyset
from blindai.channel.transcript import Transcript
from blindai.crypto import hpke
from blindai.custody import tables
from blindai.custody.clock import Deadline, Deadlines
from blindai.custody.ledger.leases import Change
from blindai.custody.ledger.rows import TableRow
from blindai.custody.log import Kind
from blindai.errors import InvalidInput, LeaseStopped, PermissionDenied, QuotaExceeded, Unavailable
from blindai.wire.custody import FIRST, LeaseState

if TYPE_CHECKING:
    from collections.abc import Sequence

_INSTANCES: Final = tables.instances

ADMITTED: Final = "admitted"
CLOSED: Final = "closed"
QUARANTINED: Final = "quarantined"

# Each leaves its evidence in the log, some 50 KB. Whoever restarts an enclave in a loop fills 500 MB and no more; one
# restart in an hour goes on for more than a year.
MAX_ADMISSIONS: Final = 10_000


@dataclass(frozen=True)
class Fault:
    """Why an instance is quarantined."""

    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class InstanceRow(TableRow):
    """A row of `tables.instances`."""

    lease: str
    id: str
    keyset: str
    state: str
    reason: str
    simulated: bool
    verdict: str
    first_seen: str
    last_seen: str
    grant_seq: int
    grant_head: str
    record_seq: int
    record_head: str
    record_closed_ms: int
    running: bool
    granted_at: str | None
    deadline_boot: str | None
    deadline_at_ms: int | None
    deadline_length_ms: int | None
    acknowledged_version: int
    acknowledged_at: str | None
    refunded: str | None

    @property
    def keys(self) -> Keyset:
        """Its public keys."""
        return msgspec.json.decode(self.keyset, type=Keyset)

    @property
    def deadline(self) -> Deadline | None:
        """When its latest grant has run out; None before the first."""
        if self.deadline_boot is None or self.deadline_at_ms is None or self.deadline_length_ms is None:
            return None
        return Deadline(self.deadline_boot, self.deadline_at_ms, self.deadline_length_ms)

    def holds_grant(self, deadlines: Deadlines) -> bool:
        """Whether it may be serving: it has a grant that has not run out, and has not closed.

        One in quarantine may be: nobody can be sure that it has heard of it.
        """
        return self.running and self.deadline is not None and not deadlines.passed(self.deadline)

    def refusal(self) -> InvalidInput | LeaseStopped | None:
        """Why this instance gets nothing any more; None as long as it may."""
        if self.state == CLOSED:
            return InvalidInput("this instance has sent its final record", code="lease.closed")
        if self.state == QUARANTINED:
            return LeaseStopped(
                f"this instance is in quarantine: {self.reason}",
                code="lease.quarantined",
                hint="start the enclave again; the custodian sees why on the dashboard",
            )
        return None


def find(connection: sa.Connection, lease: str, instance: str) -> InstanceRow:
    """The row of an instance.

    Raises:
        PermissionDenied: `lease.not_admitted`.
    """
    row = connection.execute(
        sa.select(_INSTANCES).where(_INSTANCES.c.lease == lease, _INSTANCES.c.id == instance)
    ).one_or_none()
    if row is None:
        raise PermissionDenied("this instance has not attested itself for this lease", code="lease.not_admitted")
    return InstanceRow.of(row)


def read(connection: sa.Connection, query: sa.Select[Any]) -> list[InstanceRow]:
    """The rows that `query`, a selection of `tables.instances`, gives."""
    return [InstanceRow.of(row) for row in connection.execute(query)]


def update(change: Change, instance: str, **values: Any) -> None:
    """Set columns of an instance's row."""
    change.connection.execute(
        sa.update(_INSTANCES).where(_INSTANCES.c.lease == change.lease.id, _INSTANCES.c.id == instance).values(values)
    )


def admit(change: Change, transcript: Transcript, result: AttestationResult) -> None:
    """Note that an enclave has attested itself: the first time with all of its evidence.

    Raises:
        PermissionDenied: `lease.config`, its configuration names another custodian or lease; `lease.keyset`, its keys
            are not those of its first contact, or no keys; `lease.attestation`, `result` is no acceptance of it.
        LeaseStopped, InvalidInput: `lease.quarantined`, `lease.closed`.
        QuotaExceeded: `lease.admissions`.
    """
    instance = _attested(transcript, result)
    _require_config(transcript.config, change)
    keyset = msgspec.json.encode(transcript.keyset).decode()
    verdict = result.to_json().decode()
    row = change.connection.execute(
        sa.select(_INSTANCES).where(_INSTANCES.c.lease == change.lease.id, _INSTANCES.c.id == instance)
    ).one_or_none()
    if row is not None:
        known = InstanceRow.of(row)
        if refusal := known.refusal():
            raise refusal
        if known.keyset != keyset:
            raise PermissionDenied("these are not the keys of this instance's first contact", code="lease.keyset")
        update(change, instance, verdict=verdict, simulated=result.simulated, last_seen=change.at)
        return
    _require_usable(transcript.keyset)
    _require_room(change)
    change.connection.execute(
        sa.insert(_INSTANCES).values(
            lease=change.lease.id,
            id=instance,
            keyset=keyset,
            state=ADMITTED,
            reason="",
            simulated=result.simulated,
            verdict=verdict,
            first_seen=change.at,
            last_seen=change.at,
            grant_seq=0,
            grant_head=FIRST,
            record_seq=0,
            record_head=FIRST,
            record_closed_ms=0,
            running=False,
            acknowledged_version=0,
        )
    )
    change.note(
        Kind.INSTANCE_ATTESTED,
        {"instance": instance, "transcript": json.loads(msgspec.json.encode(transcript))},
    )


def quarantine(change: Change, instance: str, fault: Fault) -> LeaseStopped:
    """Bar an instance for good. Returns what to tell it, once that is written."""
    update(change, instance, state=QUARANTINED, reason=fault.reason, last_seen=change.at)
    change.note(Kind.INSTANCE_QUARANTINED, {"instance": instance, "code": fault.code, "reason": fault.reason})
    change.announce()
    return LeaseStopped(
        f"this instance is in quarantine: {fault.reason}",
        code=fault.code,
        hint="start the enclave again; the custodian sees why on the dashboard",
    )


def acknowledge(change: Change, instance: str, version: int) -> None:
    """Note that an instance acts upon `version` of the lease, and log its first word of a stop or a pause.

    Raises:
        PermissionDenied: `lease.not_admitted`.
        InvalidInput: `lease.version`.
    """
    lease = change.lease
    before = find(change.connection, lease.id, instance).acknowledged_version
    if version > lease.version:
        raise InvalidInput(
            f"version {version} is acknowledged; the latest in this ledger is {lease.version}", code="lease.version"
        )
    if version <= before:
        return
    update(change, instance, acknowledged_version=version, acknowledged_at=change.at, last_seen=change.at)
    if before < lease.changed_version <= version and lease.state != LeaseState.ACTIVE:
        change.note(Kind.STOP_ACKNOWLEDGED, {"instance": instance, "version": version})


def holders(change: Change, deadlines: Deadlines) -> list[InstanceRow]:
    """The instances that hold a grant which has not run out."""
    rows = read(
        change.connection,
        sa.select(_INSTANCES).where(_INSTANCES.c.lease == change.lease.id, _INSTANCES.c.running.is_(True)),
    )
    holding = [row for row in rows if row.holds_grant(deadlines)]
    for row in rows:
        if row not in holding:
            update(change, row.id, running=False)
    return holding


def no_place(change: Change, instance: str, holding: Sequence[InstanceRow], deadlines: Deadlines) -> Unavailable | None:
    """Why there is no place for an instance beside `holding`, those with grants that run; None if there is one."""
    if len(holding) < change.lease.max_instances or any(row.id == instance for row in holding):
        return None
    waits = [deadlines.left_ms(row.deadline) for row in holding if row.deadline is not None]
    seconds = -(-min(waits) // 1000)
    return Unavailable(
        f"this lease lets {change.lease.max_instances} serve at once, and as many do",
        code="lease.instances",
        hint=f"try again in {seconds} s, when the grant of one may have run out, or stop one",
    )


def _attested(transcript: Transcript, result: AttestationResult) -> str:
    instance = transcript.keyset.digest
    if result.status is not Status.AFFIRMING or result.keyset_digest != instance:
        raise PermissionDenied("the attestation is not an acceptance of this instance", code="lease.attestation")
    return instance


def _require_config(config: Mapping[str, Any], change: Change) -> None:
    custody = config.get("custody")
    named = (custody.get("public_key"), custody.get("lease")) if isinstance(custody, dict) else (None, None)
    if named != (change.keys.public_key, change.lease.id):
        raise PermissionDenied(
            "the enclave's measured configuration names another custodian or another lease",
            code="lease.config",
            hint="the table [custody] of its configuration must name this custodian's key and this lease",
        )


def _require_usable(keyset: Keyset) -> None:
    """Refuse keys that would fail later, when a grant is debited already."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(keyset.receipt_key))
        hpke.seal(bytes.fromhex(keyset.hpke_public_key), b"", b"")
    except ValueError as error:
        raise PermissionDenied("the enclave's keyset holds what is no key", code="lease.keyset") from error


def _require_room(change: Change) -> None:
    count = change.connection.execute(
        sa.select(sa.func.count()).select_from(_INSTANCES).where(_INSTANCES.c.lease == change.lease.id)
    ).scalar_one()
    if count >= MAX_ADMISSIONS:
        raise QuotaExceeded(
            f"{MAX_ADMISSIONS} instances have been admitted to this lease, and no more will be",
            code="lease.admissions",
            hint="make a new lease, and find out why the enclave is started again and again",
        )
