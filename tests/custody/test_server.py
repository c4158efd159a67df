"""A custodian at work: enclaves at one port, operators at the other, and everything that can go wrong in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blindai.errors import LeaseStopped
from blindai.wire.custody import LeaseState
from custodian import OPERATOR, CallingInstance, CustodianProcess, Loan, RunningCustodian

Borrow = Callable[[Loan, str], CallingInstance]
Start = Callable[..., CustodianProcess]


def test_a_lease_from_the_first_grant_to_the_closing(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend(b"the weights" * 1000)
    instance = borrow(loan, running.enclaves)
    answer = instance.renew({"clinic": 10}, key=True)
    assert instance.key_of(answer) == loan.key
    assert answer.grant.quantities == {"clinic": 10}
    size = loan.artefact.stat().st_size
    assert instance.part(0, size) == loan.artefact.read_bytes()
    assert instance.part(size - 10, 1000) == loan.artefact.read_bytes()[-10:]
    assert instance.part(size, 1000) == b""
    instance.spend("clinic", 4)
    assert instance.renew().grant.record_seq == 1
    assert instance.close().refunded == {"clinic": 6}
    lease = running.custodian.ledger.lease(loan.lease)
    assert (lease.spent, lease.granted) == (4, 4)


def test_a_stop_answers_the_watch_at_once(running: RunningCustodian, borrow: Borrow) -> None:
    loan = running.lend()
    instance = borrow(loan, running.enclaves)
    version = instance.renew({"clinic": 1}).version
    running.custodian.ledger.stop(loan.lease, by=OPERATOR, reason="no more")
    status = instance.watch(known=version, wait_ms=60_000)
    assert (status.state, status.stop_epoch, status.reason) == (LeaseState.STOPPED, 1, "no more")
    with pytest.raises(LeaseStopped) as caught:
        instance.renew()
    assert caught.value.code == "lease.stopped"
    instance.watch(applied=status.version)
    (shown,) = running.custodian.ledger.lease(loan.lease).instances
    assert shown.acknowledged_version == status.version
