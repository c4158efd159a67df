"""Records of an instance: which of those that it sends are taken, and what they say was spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from blindai.custody import tables
from blindai.custody.ledger import accounts, instances
from blindai.custody.ledger.accounts import Holding
from blindai.custody.ledger.instances import Fault, InstanceRow
from blindai.custody.ledger.leases import Change
from blindai.custody.log import Kind
from blindai.errors import InvalidInput
from blindai.wire.custody import FIRST, Record, SignedRecord


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What is known of an instance before its records are looked at.

    Attributes:
        lease, instance: whose records these must be.
        receipt_key: signs them; Ed25519 in hex.
        seq, head: of the last record that was taken.
        closed_ms: the end of its window.
        grant_seq: of the latest grant that was given.
        stop_epoch: of the lease.
        known: digests of records that were taken, by number; those at least whose numbers come again.
        outstanding: units that the instance holds, by consumer, for every consumer of the lease.
        model_digest, policy_digest: of the lease.
    """

    lease: str
    instance: str
    receipt_key: str
    seq: int
    head: str
    closed_ms: int
    grant_seq: int
    stop_epoch: int
    known: Mapping[int, str]
    outstanding: Mapping[str, int]
    model_digest: str
    policy_digest: str


@dataclass(frozen=True)
class Intake:
    """What is taken of the records that came: all that are new, up to the one at fault."""

    taken: tuple[SignedRecord, ...]
    fault: Fault | None = None


def examine(records: Sequence[SignedRecord], chain: Chain, *, closing: bool) -> Intake:
    """Judge `records`, oldest first.

    A record that was taken before is passed over. What an honest instance cannot send is a fault: another record with a
    number that was taken, one that names a grant which was never given, more units than the instance holds.

    Args:
        closing: the last one must be final, and only then may it be.

    Raises:
        InvalidInput: nothing is taken. `lease.record`: a record is not this instance's or not of this lease, is not
            signed, or is final in the wrong place; `lease.record_gap`: one is missing.
    """
    for position, signed in enumerate(records):
        _require_own(signed, chain)
        if signed.record.final != (closing and position == len(records) - 1):
            raise _refused("the final record is the last of a closing, and stands nowhere else")
    left = dict(chain.outstanding)
    seq, head, closed_ms = chain.seq, chain.head, chain.closed_ms
    taken: list[SignedRecord] = []
    for signed in records:
        record, digest = signed.record, signed.record.digest
        if record.seq <= chain.seq:
            if chain.known.get(record.seq) != digest:
                return Intake(tuple(taken), _forked(f"record {record.seq} came a second time, with other content"))
            continue
        if record.seq != seq + 1:
            raise InvalidInput(
                f"record {record.seq} came after record {seq}: those between are missing", code="lease.record_gap"
            )
        fault = _fault(record, chain, head) or _overspent(record, left)
        if fault is not None:
            return Intake(tuple(taken), fault)
        if not closed_ms <= record.opened_ms <= record.closed_ms:
            raise _refused("its window overlaps with the one before")
        for consumer, count in record.counts.items():
            left[consumer] -= count.units
        seq, head, closed_ms = record.seq, digest, record.closed_ms
        taken.append(signed)
    return Intake(tuple(taken))


def _fault(record: Record, chain: Chain, head: str) -> Fault | None:
    """What shows that the chain of records, or this ledger, has two ends."""
    if record.prev != head:
        return _forked(f"record {record.seq} does not follow the one that was taken before it")
    if record.grant > chain.grant_seq:
        words = f"record {record.seq} names grant {record.grant}; the latest in this ledger is {chain.grant_seq}"
        return _forked(f"{words}: the ledger has lost what it had promised")
    if record.stop_epoch > chain.stop_epoch:
        words = f"record {record.seq} names stop {record.stop_epoch}; the latest in this ledger is {chain.stop_epoch}"
        return _forked(f"{words}: the ledger has lost what was decided")
    return None


def _overspent(record: Record, left: Mapping[str, int]) -> Fault | None:
    for consumer, count in sorted(record.counts.items()):
        if count.units > left[consumer]:
            words = f"record {record.seq} counts {count.units} units where {left[consumer]} were held"
            return Fault("lease.overspent", words)
    return None


def receive(
    change: Change, instance: InstanceRow, sent: Sequence[SignedRecord], *, closing: bool, doubtful: bool = False
) -> Intake:
    """Store those of `sent` that `examine` lets pass: what they spent, and an entry of the log for each.

    Args:
        closing: as in `examine`.
        doubtful: the instance is at fault anyway. What would be refused of an honest one is then left out.

    Raises:
        InvalidInput: as `examine`.
    """
    if not sent:
        return Intake(())
    lease, connection = change.lease, change.connection
    held = accounts.holdings(connection, lease.id, instance.id)
    chain = Chain(
        lease=lease.id,
        instance=instance.id,
        receipt_key=instance.keys.receipt_key,
        seq=instance.record_seq,
        head=instance.record_head,
        closed_ms=instance.record_closed_ms,
        grant_seq=instance.grant_seq,
        stop_epoch=lease.stop_epoch,
        known=_known(connection, instance, sent),
        outstanding={
            consumer: held.get(consumer, Holding()).outstanding for consumer in accounts.read(connection, lease.id)
        },
        model_digest=lease.model_digest,
        policy_digest=lease.policy_digest,
    )
    try:
        intake = examine(sent, chain, closing=closing)
    except InvalidInput:
        if not doubtful:
            raise
        return Intake(())
    for signed in intake.taken:
        _take(change, instance.id, signed)
    return intake


def _known(connection: sa.Connection, instance: InstanceRow, sent: Sequence[SignedRecord]) -> dict[int, str]:
    """The digests of the records that were taken under the numbers of `sent`."""
    table = tables.records
    numbers = [signed.record.seq for signed in sent if signed.record.seq <= instance.record_seq]
    if not numbers:
        return {}
    rows = connection.execute(
        sa.select(table.c.seq, table.c.digest).where(
            table.c.lease == instance.lease, table.c.instance == instance.id, table.c.seq.in_(numbers)
        )
    )
    return {row.seq: row.digest for row in rows}


def _take(change: Change, instance: str, signed: SignedRecord) -> None:
    record, digest = signed.record, signed.record.digest
    change.connection.execute(
        sa.insert(tables.records).values(lease=record.lease, instance=instance, seq=record.seq, digest=digest)
    )
    instances.update(
        change,
        instance,
        record_seq=record.seq,
        record_head=digest,
        record_closed_ms=record.closed_ms,
        last_seen=change.at,
    )
    spent = {consumer: count.units for consumer, count in record.counts.items() if count.units}
    if spent:
        accounts.spend(change, instance, spent)
        change.connection.execute(
            sa.insert(tables.usage),
            [
                {"lease": record.lease, "at": change.at, "consumer": consumer, "units": units}
                for consumer, units in spent.items()
            ],
        )
    change.note(Kind.RECORD_ACCEPTED, {"record": msgspec.to_builtins(record), "signature": signed.signature})


def _require_own(signed: SignedRecord, chain: Chain) -> None:
    record = signed.record
    if (record.lease, record.instance) != (chain.lease, chain.instance):
        raise _refused("it is of another lease or instance")
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(chain.receipt_key)).verify(
            bytes.fromhex(signed.signature), record.message
        )
    except InvalidSignature as error:
        raise _refused("it is not signed by this instance") from error
    # Before its first grant an instance does not know what it serves.
    blank = record.grant == 0
    if record.model_digest != (FIRST if blank else chain.model_digest):
        raise _refused("it is about another model")
    if record.policy_digest != (FIRST if blank else chain.policy_digest):
        raise _refused("it names another policy")
    if strangers := record.counts.keys() - chain.outstanding.keys():
        raise _refused(f"it counts for {min(strangers)!r}, who is not on the lease")
    if any(count.failed > count.queries for count in record.counts.values()):
        raise _refused("it counts more failures than queries")


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"a record is refused: {why}", code="lease.record")


def _forked(words: str) -> Fault:
    return Fault("lease.forked", words)
