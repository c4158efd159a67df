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
from blindai.wire.custody import FIRST, SignedRecord


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What is known of an instance before its records are looked at.

    Attributes:
        lease, instance: whose records these must be.
        receipt_key: signs them; Ed25519 in hex.
        seq, head: of the last record that was taken.
        grant_seq: of the latest grant that was given.
        known: digests of records that were taken, by number; those at least whose numbers come again.
        outstanding: units that the instance holds, by consumer, for every consumer of the lease.
        model_digest, policy_digest: of the lease.
    """

    lease: str
    instance: str
    receipt_key: str
    seq: int
    head: str
    grant_seq: int
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
    seq, head = chain.seq, chain.head
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
        if record.prev != head:
            return Intake(
                tuple(taken), _forked(f"record {record.seq} does not follow the one that was taken before it")
            )
        if record.grant > chain.grant_seq:
            words = f"record {record.seq} names grant {record.grant}; the latest in this ledger is {chain.grant_seq}"
            return Intake(tuple(taken), _forked(f"{words}: the ledger has lost what it had promised"))
        for consumer, count in record.counts.items():
            if count.units > left[consumer]:
                words = f"record {record.seq} counts {count.units} units where {left[consumer]} were held"
                return Intake(tuple(taken), Fault("lease.overspent", words))
            left[consumer] -= count.units
        seq, head = record.seq, digest
        taken.append(signed)
    return Intake(tuple(taken))


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
    lease, connection = change.lease, change.connection
    held = accounts.holdings(connection, lease.id, instance.id)
    chain = Chain(
        lease=lease.id,
        instance=instance.id,
        receipt_key=instance.keys.receipt_key,
        seq=instance.record_seq,
        head=instance.record_head,
        grant_seq=instance.grant_seq,
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
    instances.update(change, instance, record_seq=record.seq, record_head=digest, last_seen=change.at)
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
    expected = {chain.model_digest, FIRST} if record.grant == 0 else {chain.model_digest}
    if record.model_digest not in expected:
        raise _refused("it is about another model")
    expected = {chain.policy_digest, FIRST} if record.grant == 0 else {chain.policy_digest}
    if record.policy_digest not in expected:
        raise _refused("it names another policy")
    if strangers := record.counts.keys() - chain.outstanding.keys():
        raise _refused(f"it counts for {min(strangers)!r}, who is not on the lease")


def _refused(why: str) -> InvalidInput:
    return InvalidInput(f"a record is refused: {why}", code="lease.record")


def _forked(words: str) -> Fault:
    return Fault("lease.forked", words)
