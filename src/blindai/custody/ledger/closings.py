"""Closings: an instance ends in good order, and what it has not spent goes back."""

from __future__ import annotations

import json

from blindai.custody.ledger import accounts, instances, records
from blindai.custody.ledger.leases import Change
from blindai.custody.log import Kind
from blindai.errors import BlindAIError
from blindai.wire.custody import Closed, Closing


def close(change: Change, closing: Closing) -> Closed | BlindAIError:
    """Take the final record of an instance. A refusal that is returned is given once all else is written.

    The same closing again gets the same answer. An instance in quarantine gets nothing back: of two enclaves with the
    same keys, one may close while the other goes on.

    Raises:
        BlindAIError: a refusal with which nothing is written.
    """
    instance = instances.find(change.connection, change.lease.id, closing.instance)
    barred = instance.refusal()
    if barred is not None and instance.state == instances.CLOSED:
        if closing.records[-1].record.digest == instance.record_head and instance.refunded is not None:
            return Closed(json.loads(instance.refunded))
        return barred
    intake = records.receive(change, instance, closing.records, closing=True, doubtful=barred is not None)
    if barred is not None:
        return barred
    if intake.fault is not None:
        return instances.quarantine(change, instance.id, intake.fault)
    refunded = accounts.refund(change, instance.id)
    instances.update(
        change, instance.id, state=instances.CLOSED, running=False, last_seen=change.at, refunded=json.dumps(refunded)
    )
    change.note(Kind.INSTANCE_CLOSED, {"instance": instance.id, "refunded": refunded})
    # Units are there again for others, who may have been told that there were none.
    change.announce()
    return Closed(refunded)
