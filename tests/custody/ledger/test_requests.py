"""Requests for more budget: one at a time, decided once, and denied until something has changed."""

from __future__ import annotations

from typing import Any

import pytest

from blindai.errors import InvalidInput, LeaseStopped
from blindai.wire.custody import MAX_AMOUNT
from lending import Custodian, Instance


def exhausted(custodian: Custodian, **changes: Any) -> tuple[str, Instance]:
    """A lease of ten units, all of which `alice` has spent."""
    lease = custodian.lend(**({"budget": 10} | changes))
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    instance.spend("alice", 10)
    assert instance.renew({"alice": 1}).grant.quantities == {}
    return lease, instance


def test_a_request_is_filed_once_and_shown_to_whoever_asks(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    filed = instance.request("alice", 25)
    assert (filed.consumer, filed.state, filed.granted, filed.reason) == ("alice", "pending", 0, "")
    assert instance.request("alice", 40) == filed
    (picture,) = custodian.ledger.lease(lease).requests
    assert (picture.id, picture.wanted, picture.decided_at) == (filed.id, 25, None)
    assert custodian.kinds(lease).count("request.filed") == 1
    assert custodian.last(lease).detail == {
        "request": filed.id,
        "instance": instance.id,
        "consumer": "alice",
        "wanted": 25,
    }
    assert instance.renew().standings["alice"].request == filed


def test_another_instance_finds_the_same_request(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian, max_instances=2)
    assert custodian.instance(lease).request("alice") == instance.request("alice")


def test_a_stranger_cannot_ask(custodian: Custodian) -> None:
    _, instance = exhausted(custodian)
    with pytest.raises(InvalidInput) as refused:
        instance.request("mallory")
    assert refused.value.code == "lease.consumer"


def test_who_gets_nothing_any_more_cannot_ask(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    instance.close()
    with pytest.raises(InvalidInput) as closed:
        instance.request("alice")
    assert closed.value.code == "lease.closed"
    custodian.clocks.sleep(61)
    other = custodian.instance(lease)
    forked = other.next_renewal()
    other.renew()
    with pytest.raises(LeaseStopped):
        custodian.ledger.renew(forked)
    with pytest.raises(LeaseStopped) as barred:
        other.request("alice")
    assert barred.value.code == "lease.quarantined"


def test_an_approval_reaches_the_next_renewal_without_a_restart(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 25)
    version = custodian.ledger.versions()[lease]
    assert custodian.ledger.approve(request.id, by="ann", reason="fine") is None
    assert custodian.ledger.versions()[lease] > version
    answer = instance.renew({"alice": 100})
    assert answer.grant.quantities == {"alice": 25}
    standing = answer.standings["alice"]
    assert (standing.spent, standing.budget) == (10, 35)
    assert standing.request is not None
    assert (standing.request.state, standing.request.granted, standing.request.reason) == ("approved", 25, "fine")


@pytest.mark.parametrize(
    ("budget", "own", "account_raised", "lease_raised"),
    [
        # The lease is what bounds the consumer.
        (10, None, 0, 6),
        # The consumer's own budget is, and the lease has enough.
        (100, 10, 6, 0),
        # Both are: the lease has four left.
        (14, 10, 6, 2),
        (10, 10, 6, 6),
    ],
)
def test_an_approval_raises_what_is_short_and_says_so(
    custodian: Custodian, budget: int, own: int | None, account_raised: int, lease_raised: int
) -> None:
    lease, instance = exhausted(custodian, budget=budget, consumers={"alice": own})
    request = instance.request("alice", 25)
    custodian.ledger.approve(request.id, amount=6, by="ann", reason="")
    assert custodian.last(lease).detail == {
        "request": request.id,
        "consumer": "alice",
        "amount": 6,
        "account_raised": account_raised,
        "lease_raised": lease_raised,
        "agreed": ["ann"],
        "reason": "",
    }
    picture = custodian.ledger.lease(lease)
    assert picture.budget == budget + lease_raised
    assert picture.accounts[0].budget == (None if own is None else own + account_raised)
    assert instance.renew({"alice": 100}).grant.quantities == {"alice": 6}


def test_a_denial_is_told_with_its_reason_and_stands(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice")
    decided = custodian.ledger.deny(request.id, by="ann", reason="too much for this year")
    assert (decided.state, decided.decided_by, decided.reason) == ("denied", "ann", "too much for this year")
    told = instance.renew({"alice": 1}).standings["alice"].request
    assert told is not None
    assert (told.state, told.reason) == ("denied", "too much for this year")
    assert instance.request("alice") == told
    assert custodian.last(lease).kind == "grant.issued"
    custodian.ledger.pause(lease, by="ann", reason="")
    custodian.ledger.resume(lease, by="ann", reason="")
    assert instance.request("alice").state == "pending"


def test_a_raise_ends_a_denial(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    custodian.ledger.deny(instance.request("alice").id, by="ann", reason="no")
    custodian.ledger.raise_budget(lease, consumer=None, amount=1, by="ann", reason="")
    assert instance.request("alice").state == "pending"


def test_the_denial_of_one_consumer_is_not_that_of_another(custodian: Custodian) -> None:
    _, instance = exhausted(custodian, consumers={"alice": None, "bob": None})
    custodian.ledger.deny(instance.request("alice").id, by="ann", reason="no")
    assert instance.request("bob").state == "pending"


def test_an_approval_that_is_not_used_up_answers_the_next_request(custodian: Custodian) -> None:
    """An enclave with several consumers' queries under way may ask once more before it has heard of the approval."""
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 2)
    custodian.ledger.approve(request.id, by="ann", reason="")
    assert instance.request("alice", 2).id == request.id
    instance.renew({"alice": 2})
    instance.spend("alice", 2)
    later = instance.request("alice", 2)
    assert (later.id == request.id, later.state) == (False, "pending")
    assert [request.state for request in custodian.ledger.lease(lease).requests] == ["pending", "approved"]


@pytest.mark.parametrize("decide", ["approve", "deny"])
def test_what_was_decided_is_not_decided_again(custodian: Custodian, decide: str) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 5)
    custodian.ledger.approve(request.id, by="ann", reason="")
    with pytest.raises(InvalidInput, match="approved by ann") as refused:
        getattr(custodian.ledger, decide)(request.id, by="ben", reason="again")
    assert refused.value.code == "lease.request_state"
    assert custodian.ledger.lease(lease).budget == 15


@pytest.mark.parametrize("decide", ["approve", "deny"])
def test_a_request_that_is_not_there_is_not_decided(custodian: Custodian, decide: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        getattr(custodian.ledger, decide)("request-aaaaaaaaaaaaaaaa", by="ann", reason="why")
    assert refused.value.code == "lease.request"


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        (0, "amount.zero"),
        (-1, "amount.negative"),
        (MAX_AMOUNT + 1, "amount.too_large"),
        (MAX_AMOUNT, "amount.too_large"),
        (10**400, "amount.too_large"),
        (1.5, "amount.type"),
        (float("nan"), "amount.type"),
        ("10", "amount.type"),
        (True, "amount.type"),
    ],
)
def test_an_amount_that_is_none_is_refused(custodian: Custodian, amount: Any, code: str) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.approve(request.id, amount=amount, by="ann", reason="")
    assert refused.value.code == code
    picture = custodian.ledger.lease(lease)
    assert (picture.budget, picture.requests[0].state) == (10, "pending")


def test_a_denial_needs_a_reason(custodian: Custodian) -> None:
    _, instance = exhausted(custodian)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.deny(instance.request("alice").id, by="ann", reason="")
    assert refused.value.code == "lease.reason"
