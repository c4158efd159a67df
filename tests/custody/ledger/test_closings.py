"""Closings: what was not spent goes back once, and nothing comes after."""

from __future__ import annotations

import msgspec
import pytest

from blindai.errors import InvalidInput, LeaseStopped, PermissionDenied
from blindai.wire.custody import Usage
from lending import Custodian


def test_what_was_not_spent_goes_back(custodian: Custodian) -> None:
    lease = custodian.lend(consumers={"alice": 40, "bob": None})
    instance = custodian.instance(lease)
    instance.renew({"alice": 10, "bob": 5})
    instance.spend("alice", 3)
    instance.spend("bob", 5)
    assert instance.close().refunded == {"alice": 7}
    picture = custodian.ledger.lease(lease)
    assert (picture.granted, picture.spent) == (8, 8)
    assert [(account.granted, account.spent) for account in picture.accounts] == [(3, 3), (5, 5)]
    (closed,) = picture.instances
    assert (closed.state, closed.outstanding, closed.expires_by) == ("closed", {}, None)
    assert custodian.kinds(lease)[-2:] == ["record.accepted", "instance.closed"]
    # The whole budget can be had by the next one.
    assert custodian.instance(lease).renew({"alice": 99}).grant.quantities == {"alice": 37}


def test_what_an_instance_held_that_died_stays_debited(custodian: Custodian) -> None:
    """Nobody can tell one that died from one that goes on behind a cut line."""
    lease = custodian.lend(budget=10)
    custodian.instance(lease).renew({"alice": 7})
    custodian.clocks.sleep(3600)
    assert custodian.instance(lease).renew({"alice": 10}).grant.quantities == {"alice": 3}
    assert custodian.ledger.lease(lease).granted == 10


def test_the_same_closing_again_gets_the_same_answer_and_refunds_once(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    closing = instance.closing()
    first = custodian.ledger.close(closing)
    other = custodian.instance(lease)
    other.renew({"alice": 10})
    assert custodian.ledger.close(closing) == first
    assert custodian.ledger.lease(lease).granted == 10


def test_another_closing_of_a_closed_instance_is_refused(custodian: Custodian) -> None:
    instance = custodian.instance(custodian.lend())
    instance.renew({"alice": 10})
    instance.close()
    instance.record({}, final=True)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.close(instance.closing())
    assert refused.value.code == "lease.closed"


def test_an_instance_that_never_had_a_grant_can_close(custodian: Custodian) -> None:
    assert custodian.instance(custodian.lend()).close().refunded == {}


def test_a_grant_whose_answer_was_lost_goes_back_with_the_closing(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    custodian.ledger.renew(instance.next_renewal({"alice": 5}))
    assert instance.close().refunded == {"alice": 15}
    assert custodian.ledger.lease(lease).granted == 0


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_an_instance_can_close_while_its_lease_is_held(custodian: Custodian, state: str) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    {"paused": custodian.ledger.pause, "stopped": custodian.ledger.stop}[state](lease, by="ann", reason="")
    assert instance.close().refunded == {"alice": 10}


def test_an_instance_in_quarantine_gets_nothing_back_but_its_records_are_taken(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    forked = instance.next_renewal()
    instance.renew({"alice": 10})
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(forked)
    instance.spend("alice", 4)
    with pytest.raises(LeaseStopped) as refused:
        instance.close()
    assert refused.value.code == "lease.quarantined"
    picture = custodian.ledger.lease(lease)
    assert (picture.granted, picture.spent) == (10, 4)


def test_a_closing_that_spends_more_than_was_held_is_quarantined(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    instance.record({"alice": Usage(units=11, queries=11)}, final=True)
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.close(instance.closing())
    assert refused.value.code == "lease.overspent"
    assert custodian.ledger.lease(lease).granted == 10


def test_a_closing_that_names_a_grant_which_this_ledger_lost_refunds_nothing(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    instance.record({}, grant=2, final=True)
    with pytest.raises(LeaseStopped) as refused:
        custodian.ledger.close(instance.closing())
    assert refused.value.code == "lease.forked"
    assert custodian.ledger.lease(lease).granted == 10


def test_a_closing_with_a_gap_changes_nothing(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    instance.record({}, seq=3, final=True)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.close(instance.closing())
    assert refused.value.code == "lease.record_gap"
    assert custodian.ledger.lease(lease).instances[0].state == "active"


def test_nobody_closes_another_instance(custodian: Custodian) -> None:
    lease = custodian.lend()
    honest, other = custodian.instance(lease), custodian.unknown(lease)
    honest.renew({"alice": 10})
    with pytest.raises(PermissionDenied) as unknown:
        other.close()
    assert unknown.value.code == "lease.not_admitted"
    with pytest.raises(InvalidInput) as forged:
        custodian.ledger.close(msgspec.structs.replace(other.closing(), instance=honest.id))
    assert forged.value.code == "lease.record"


def test_others_hear_of_units_that_came_back(custodian: Custodian) -> None:
    lease = custodian.lend()
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    before = custodian.ledger.versions()[lease]
    instance.close()
    assert custodian.ledger.versions()[lease] > before
