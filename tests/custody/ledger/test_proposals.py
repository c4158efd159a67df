"""Decisions that need several operators: k different people, once, about what they have read."""

from __future__ import annotations

import pytest

from blindai.custody.views import Proposal, ProposalState
from blindai.errors import InvalidInput
from blindai.wire.custody import MAX_AMOUNT
from lending import Custodian, Instance


def stopped(custodian: Custodian, approvals: int = 2) -> str:
    lease = custodian.lend(approvals=approvals)
    custodian.ledger.stop(lease, by="zoe", reason="an incident")
    return lease


def proposed(proposal: Proposal | None) -> Proposal:
    assert proposal is not None
    return proposal


def exhausted(custodian: Custodian, approvals: int = 2) -> tuple[str, Instance]:
    lease = custodian.lend(budget=10, approvals=approvals)
    instance = custodian.instance(lease)
    instance.renew({"alice": 10})
    return lease, instance


def test_a_resume_waits_for_as_many_operators_as_the_lease_says(custodian: Custodian) -> None:
    lease = stopped(custodian, approvals=3)
    proposal = proposed(custodian.ledger.resume(lease, by="ann", reason="all clear"))
    assert (proposal.action, proposal.agreed, proposal.needed, proposal.state) == ("resume", ("ann",), 3, "open")
    assert proposal.detail == {"reason": "all clear"}
    assert custodian.ledger.agree(proposal.id, by="ben").state == "open"
    assert custodian.ledger.lease(lease).state == "stopped"
    carried = custodian.ledger.agree(proposal.id, by="cat")
    assert (carried.state, carried.agreed) == ("carried", ("ann", "ben", "cat"))
    picture = custodian.ledger.lease(lease)
    assert (picture.state, picture.proposals) == ("active", (carried,))
    assert custodian.kinds(lease)[1:] == [
        "proposal.made",
        "proposal.agreed",
        "proposal.agreed",
        "lease.resumed",
    ]
    assert custodian.last(lease).by == "cat"
    assert custodian.last(lease).detail["agreed"] == ["ann", "ben", "cat"]


def test_the_same_operator_twice_counts_once(custodian: Custodian) -> None:
    lease = stopped(custodian)
    proposal = proposed(custodian.ledger.resume(lease, by="ann", reason=""))
    for _ in range(3):
        assert custodian.ledger.agree(proposal.id, by="ann").agreed == ("ann",)
        assert proposed(custodian.ledger.resume(lease, by="ann", reason="")).id == proposal.id
    assert custodian.ledger.lease(lease).state == "stopped"
    assert custodian.kinds(lease)[1:] == ["proposal.made"]


def test_the_same_decision_by_another_operator_is_an_agreement(custodian: Custodian) -> None:
    lease = stopped(custodian)
    custodian.ledger.resume(lease, by="ann", reason="one")
    assert custodian.ledger.resume(lease, by="ben", reason="two") is None
    assert custodian.ledger.lease(lease).state == "active"
    assert custodian.kinds(lease)[1:] == ["proposal.made", "proposal.agreed", "lease.resumed"]


def test_another_amount_is_another_decision(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=2)
    one = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=5, by="ann", reason=""))
    two = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=6, by="ben", reason=""))
    assert one.id != two.id
    assert custodian.ledger.lease(lease).budget == 100
    custodian.ledger.agree(one.id, by="ben")
    custodian.ledger.agree(two.id, by="ann")
    assert custodian.ledger.lease(lease).budget == 111


def test_a_proposal_is_not_carried_twice(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=2)
    proposal = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=5, by="ann", reason=""))
    custodian.ledger.agree(proposal.id, by="ben")
    for by in ("ann", "ben", "cat"):
        with pytest.raises(InvalidInput) as refused:
            custodian.ledger.agree(proposal.id, by=by)
        assert refused.value.code == "lease.proposal_state"
    assert custodian.ledger.lease(lease).budget == 105


def test_a_proposal_that_was_withdrawn_is_over(custodian: Custodian) -> None:
    lease = stopped(custodian)
    proposal = proposed(custodian.ledger.resume(lease, by="ann", reason=""))
    assert custodian.ledger.withdraw(proposal.id, by="ben").state is ProposalState.WITHDRAWN
    for act in (custodian.ledger.agree, custodian.ledger.withdraw):
        with pytest.raises(InvalidInput, match="withdrawn") as refused:
            act(proposal.id, by="cat")
        assert refused.value.code == "lease.proposal_state"
    again = proposed(custodian.ledger.resume(lease, by="ben", reason=""))
    assert again.agreed == ("ben",)


def test_what_was_agreed_before_a_stop_does_not_end_it(custodian: Custodian) -> None:
    lease = stopped(custodian)
    proposal = proposed(custodian.ledger.resume(lease, by="ann", reason=""))
    other = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=5, by="ann", reason=""))
    custodian.ledger.stop(lease, by="zoe", reason="once more")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.agree(proposal.id, by="ben")
    assert refused.value.code == "lease.proposal_state"
    assert custodian.ledger.lease(lease).state == "stopped"
    assert {item.id: item.state for item in custodian.ledger.lease(lease).proposals} == {
        proposal.id: "withdrawn",
        other.id: "open",
    }


def test_an_approval_waits_too(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 5)
    proposal = proposed(custodian.ledger.approve(request.id, by="ann", reason="fine"))
    assert proposal.detail == {"request": request.id, "amount": 5, "reason": "fine"}
    assert instance.renew({"alice": 5}).grant.quantities == {}
    custodian.ledger.agree(proposal.id, by="ben")
    assert instance.renew({"alice": 5}).grant.quantities == {"alice": 5}
    (picture,) = custodian.ledger.lease(lease).requests
    assert (picture.state, picture.decided_by, picture.reason) == ("approved", "ben", "fine")


def test_of_two_amounts_for_one_request_the_first_to_be_agreed_on_is_given(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 5)
    five = proposed(custodian.ledger.approve(request.id, by="ann", reason=""))
    two = proposed(custodian.ledger.approve(request.id, amount=2, by="ben", reason=""))
    unrelated = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=1, by="ben", reason=""))
    custodian.ledger.agree(two.id, by="cat")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.agree(five.id, by="cat")
    assert refused.value.code == "lease.proposal_state"
    assert custodian.ledger.lease(lease).budget == 12
    states = {item.id: item.state for item in custodian.ledger.lease(lease).proposals}
    assert states == {five.id: "withdrawn", two.id: "carried", unrelated.id: "open"}


def test_one_operator_can_deny_what_others_would_approve(custodian: Custodian) -> None:
    lease, instance = exhausted(custodian)
    request = instance.request("alice", 5)
    proposal = proposed(custodian.ledger.approve(request.id, by="ann", reason=""))
    custodian.ledger.deny(request.id, by="ben", reason="no")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.agree(proposal.id, by="cat")
    assert refused.value.code == "lease.proposal_state"
    assert custodian.ledger.lease(lease).budget == 10


def test_what_cannot_be_carried_out_any_more_is_refused_and_stays_open(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=2)
    one = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=MAX_AMOUNT - 100, by="ann", reason=""))
    two = proposed(custodian.ledger.raise_budget(lease, consumer=None, amount=1, by="ann", reason=""))
    custodian.ledger.agree(one.id, by="ben")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.agree(two.id, by="ben")
    assert refused.value.code == "amount.too_large"
    picture = custodian.ledger.lease(lease)
    assert picture.budget == MAX_AMOUNT
    assert {item.id: (item.state, item.agreed) for item in picture.proposals}[two.id] == ("open", ("ann",))


def test_what_cannot_be_carried_out_is_not_proposed(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=2)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.resume(lease, by="ann", reason="")
    assert refused.value.code == "lease.state"
    assert custodian.kinds(lease) == []


def test_a_proposal_that_is_not_there_is_unknown(custodian: Custodian) -> None:
    for act in (custodian.ledger.agree, custodian.ledger.withdraw):
        with pytest.raises(InvalidInput) as refused:
            act("proposal-aaaaaaaaaaaaaaaa", by="ann")
        assert refused.value.code == "lease.proposal"


def test_stop_and_pause_need_nobody_else(custodian: Custodian) -> None:
    lease = custodian.lend(approvals=5)
    assert custodian.ledger.pause(lease, by="ann", reason="").state == "paused"
    assert custodian.ledger.stop(lease, by="ann", reason="").state == "stopped"
