"""Renewals: an instance asks for units and time, and gets a grant, the grant of before, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import sqlalchemy as sa

from blindai.crypto import hpke
from blindai.crypto.digests import tagged_sha256
from blindai.custody import tables
from blindai.custody.clock import Deadlines
from blindai.custody.ledger import accounts, instances, records, requests
from blindai.custody.ledger.accounts import AccountRow
from blindai.custody.ledger.instances import Fault, InstanceRow
from blindai.custody.ledger.leases import Change, LeaseRow
from blindai.custody.ledger.tranches import Supply, tranches
from blindai.custody.log import Kind
from blindai.errors import BlindAIError, InvalidInput
from blindai.wire.custody import Grant, GrantAnswer, Renewal, Standing, Unit

RENEWAL_DOMAIN: Final = "blindai/renewal/v1"

_GRANTS: Final = tables.grants
_HOLDINGS: Final = tables.holdings


@dataclass(frozen=True)
class Answered:
    """A renewal that was answered before: its digest, and the answer as long as it is kept."""

    renewal_digest: str
    answer: bytes | None


def renewal_digest(renewal: Renewal) -> str:
    """What tells one renewal from another."""
    return tagged_sha256(RENEWAL_DOMAIN, msgspec.to_builtins(renewal))


def fork(renewal: Renewal, *, grant_seq: int, grant_head: str, answered: Answered | None) -> Fault | None:
    """Why `renewal` shows that two enclaves hold the same keys, or that this ledger lost what it had promised.

    Args:
        grant_seq, grant_head: number and digest of the latest grant to the instance.
        answered: the renewal that was answered under the number of this one.

    Returns:
        None for the renewal that comes next, and for one that was answered before.
    """
    if answered is not None:
        if answered.renewal_digest == renewal_digest(renewal):
            return None
        return Fault("lease.forked", f"renewal {renewal.seq} came a second time, with other content")
    if renewal.seq != grant_seq + 1:
        return Fault(
            "lease.forked",
            f"renewal {renewal.seq} came where {grant_seq + 1} is next: the ledger has lost what it had promised",
        )
    if renewal.prev != grant_head:
        return Fault(
            "lease.forked",
            f"renewal {renewal.seq} follows a grant that is not in this ledger: two enclaves hold the same keys, "
            "or the ledger has lost what it had promised",
        )
    return None


def renew(change: Change, renewal: Renewal, deadlines: Deadlines) -> GrantAnswer | BlindAIError:
    """Answer a renewal. A refusal that is returned is given once all that came with it is written.

    Raises:
        BlindAIError: a refusal with which nothing is written.
    """
    instance = instances.find(change.connection, change.lease.id, renewal.instance)
    barred = instance.refusal()
    if barred is not None and instance.state == instances.CLOSED:
        return barred
    answered = _answered(change, renewal)
    fault = fork(renewal, grant_seq=instance.grant_seq, grant_head=instance.grant_head, answered=answered)
    doubtful = fault is not None or barred is not None
    intake = records.receive(change, instance, renewal.records, closing=False, doubtful=doubtful)
    if barred is not None:
        return barred
    fault = fault or intake.fault
    if fault is not None:
        return instances.quarantine(change, instance.id, fault)
    stopped = change.lease.refusal()
    if stopped is not None:
        return stopped
    if answered is not None:
        return _again(answered, renewal)
    return _granted(change, renewal, deadlines)


def _answered(change: Change, renewal: Renewal) -> Answered | None:
    row = change.connection.execute(
        sa.select(_GRANTS.c.renewal_digest, _GRANTS.c.answer).where(
            _GRANTS.c.lease == change.lease.id,
            _GRANTS.c.instance == renewal.instance,
            _GRANTS.c.seq == renewal.seq,
        )
    ).one_or_none()
    return None if row is None else Answered(row.renewal_digest, row.answer)


def _again(answered: Answered, renewal: Renewal) -> GrantAnswer | BlindAIError:
    """The answer of before: its units are debited already."""
    if answered.answer is None:
        return InvalidInput(f"renewal {renewal.seq} was answered, and so was one after it", code="lease.superseded")
    return msgspec.json.decode(answered.answer, type=GrantAnswer)


def _granted(change: Change, renewal: Renewal, deadlines: Deadlines) -> GrantAnswer | BlindAIError:
    lease, connection = change.lease, change.connection
    before = accounts.read(connection, lease.id)
    for consumer in renewal.wanted:
        stranger = accounts.missing(before, consumer)
        if stranger is not None:
            return stranger
    holding = instances.holders(change, deadlines)
    too_many = instances.no_place(change, renewal.instance, holding, deadlines)
    if too_many is not None:
        return too_many
    # Read again: its records have moved both.
    instance = instances.find(connection, lease.id, renewal.instance)
    held = accounts.holdings(connection, lease.id, instance.id)
    others = {row.id for row in holding} | {instance.id}
    wanted = {consumer: units for consumer, units in renewal.wanted.items() if units}
    quantities = tranches(
        wanted,
        Supply(
            lease_left=lease.left,
            account_left={consumer: account.left for consumer, account in before.items()},
            outstanding={consumer: holding.outstanding for consumer, holding in held.items()},
            tranche_max=lease.tranche_max,
            instances=len(others),
            consumers=len(wanted.keys() | _in_hands(change, others)),
        ),
    )
    accounts.debit(change, instance.id, quantities, held)
    grant = Grant(
        lease=lease.id,
        instance=instance.id,
        seq=renewal.seq,
        prev=renewal.prev,
        challenge=renewal.challenge,
        unit=Unit(lease.unit),
        quantities=quantities,
        consumers={consumer: account.token_epoch for consumer, account in before.items()},
        soft_ms=lease.soft_ms,
        ttl_ms=lease.ttl_ms,
        model_digest=lease.model_digest,
        policy_digest=lease.policy_digest,
        stop_epoch=lease.stop_epoch,
        record_seq=instance.record_seq,
        record_head=instance.record_head,
    )
    answer = GrantAnswer(
        grant=grant,
        signature=change.keys.sign(grant.message).hex(),
        key=_sealed_key(change, instance, grant) if renewal.key else None,
        version=lease.version,
        standings=_standings(change, before),
    )
    _store(change, renewal, answer, deadlines)
    return answer


def _in_hands(change: Change, holders: set[str]) -> set[str]:
    """The consumers whose units `holders` have and have not spent."""
    rows = change.connection.execute(
        sa.select(_HOLDINGS.c.consumer)
        .distinct()
        .where(
            _HOLDINGS.c.lease == change.lease.id,
            _HOLDINGS.c.instance.in_(sorted(holders)),
            _HOLDINGS.c.granted > _HOLDINGS.c.spent,
        )
    )
    return {row.consumer for row in rows}


def _sealed_key(change: Change, instance: InstanceRow, grant: Grant) -> bytes:
    """The model's key, for this instance, with this grant."""
    key = change.keys.unwrap(change.lease.model_key, LeaseRow.context_of(change.lease.id))
    return hpke.seal(bytes.fromhex(instance.keys.hpke_public_key), key, grant.key_info)


def _standings(change: Change, of: Mapping[str, AccountRow]) -> dict[str, Standing]:
    latest = requests.latest(change.connection, change.lease.id)
    return {
        consumer: Standing(
            spent=account.spent,
            budget=change.lease.budget if account.budget is None else account.budget,
            request=latest[consumer].status if consumer in latest else None,
        )
        for consumer, account in of.items()
    }


def _store(change: Change, renewal: Renewal, answer: GrantAnswer, deadlines: Deadlines) -> None:
    grant, digest = answer.grant, answer.grant.digest
    where = (_GRANTS.c.lease == grant.lease, _GRANTS.c.instance == grant.instance)
    # An answer holds the model's key, if only for the instance: it is kept as long as it may have to be repeated.
    change.connection.execute(sa.update(_GRANTS).where(*where, _GRANTS.c.seq == grant.seq - 1).values(answer=None))
    change.connection.execute(
        sa.insert(_GRANTS).values(
            lease=grant.lease,
            instance=grant.instance,
            seq=grant.seq,
            renewal_digest=renewal_digest(renewal),
            digest=digest,
            answer=msgspec.json.encode(answer),
        )
    )
    deadline = deadlines.after(grant.ttl_ms)
    instances.update(
        change,
        grant.instance,
        grant_seq=grant.seq,
        grant_head=digest,
        running=True,
        granted_at=change.at,
        last_seen=change.at,
        deadline_boot=deadline.boot,
        deadline_at_ms=deadline.at_ms,
        deadline_length_ms=deadline.length_ms,
    )
    change.note(Kind.GRANT_ISSUED, {"grant": msgspec.to_builtins(grant), "signature": answer.signature})
