"""What one operator can decide: stop and pause at once; with approvals of one, everything else too."""

from __future__ import annotations

from typing import Any

import pytest

from blindai.custody.ledger import Ledger
from blindai.errors import InvalidInput, LeaseStopped
from blindai.wire.custody import MAX_AMOUNT
from lending import Custodian


def test_a_stop_raises_the_stop_epoch_and_tells_enclaves(custodian: Custodian) -> None:
    lease = custodian.lend()
    before = custodian.ledger.lease(lease)
    custodian.clocks.sleep(5)
    after = custodian.ledger.stop(lease, by="ann", reason="an incident")
    assert (after.state, after.reason, after.stop_epoch) == ("stopped", "an incident", 1)
    assert after.version == after.changed_version > before.version
    assert (after.changed_at - before.changed_at).total_seconds() == 5
    assert custodian.last(lease).by == "ann"
    assert custodian.last(lease).detail == {
        "version": after.version,
        "stop_epoch": 1,
        "agreed": ["ann"],
        "reason": "an incident",
    }


def test_the_stop_epoch_never_falls(custodian: Custodian) -> None:
    lease = custodian.lend()
    epochs = []
    for _ in range(3):
        epochs.append(custodian.ledger.stop(lease, by="ann", reason="").stop_epoch)
        custodian.ledger.resume(lease, by="ann", reason="")
        epochs.append(custodian.ledger.lease(lease).stop_epoch)
        custodian.ledger.pause(lease, by="ann", reason="")
        epochs.append(custodian.ledger.lease(lease).stop_epoch)
    assert epochs == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_stop_outlives_a_restart(custodian: Custodian) -> None:
    """The predecessor forgot that it had been stopped."""
    lease = custodian.lend()
    instance = custodian.instance(lease)
    custodian.ledger.stop(lease, by="ann", reason="")
    instance.ledger = Ledger(custodian.database, custodian.keys, clock=custodian.clocks)
    with pytest.raises(LeaseStopped) as refused:
        instance.renew({"alice": 1})
    assert refused.value.code == "lease.stopped"


def test_a_second_stop_is_an_act_of_its_own(custodian: Custodian) -> None:
    lease = custodian.lend()
    custodian.ledger.stop(lease, by="ann", reason="one")
    again = custodian.ledger.stop(lease, by="ben", reason="two")
    assert (again.stop_epoch, again.reason) == (2, "two")
    assert custodian.kinds(lease) == ["lease.stopped", "lease.stopped"]


def test_a_paused_lease_can_be_stopped(custodian: Custodian) -> None:
    lease = custodian.lend()
    custodian.ledger.pause(lease, by="ann", reason="")
    assert custodian.ledger.stop(lease, by="ann", reason="").state == "stopped"


def test_a_stopped_lease_is_not_weakened_to_a_paused_one(custodian: Custodian) -> None:
    lease = custodian.lend()
    custodian.ledger.stop(lease, by="ann", reason="")
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.pause(lease, by="ann", reason="")
    assert refused.value.code == "lease.state"


@pytest.mark.parametrize("hold", ["stop", "pause"])
def test_a_resume_ends_it(custodian: Custodian, hold: str) -> None:
    lease = custodian.lend()
    getattr(custodian.ledger, hold)(lease, by="ann", reason="an incident")
    assert custodian.ledger.resume(lease, by="ben", reason="all clear") is None
    picture = custodian.ledger.lease(lease)
    assert (picture.state, picture.reason, picture.version) == ("active", "", picture.changed_version)
    assert custodian.last(lease).detail["agreed"] == ["ben"]
    custodian.instance(lease).renew({"alice": 1})


def test_a_lease_that_runs_is_not_resumed(custodian: Custodian) -> None:
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.resume(custodian.lend(), by="ann", reason="")
    assert refused.value.code == "lease.state"


def test_the_budget_of_the_lease_is_raised(custodian: Custodian) -> None:
    lease = custodian.lend(consumers={"alice": 10})
    assert custodian.ledger.raise_budget(lease, consumer=None, amount=7, by="ann", reason="more") is None
    picture = custodian.ledger.lease(lease)
    assert (picture.budget, picture.accounts[0].budget) == (107, 10)
    assert custodian.last(lease).detail == {
        "consumer": None,
        "account_raised": 0,
        "lease_raised": 7,
        "agreed": ["ann"],
        "reason": "more",
    }


def test_the_budget_of_a_consumer_is_raised(custodian: Custodian) -> None:
    lease = custodian.lend(consumers={"alice": 10})
    custodian.ledger.raise_budget(lease, consumer="alice", amount=7, by="ann", reason="")
    picture = custodian.ledger.lease(lease)
    assert (picture.budget, picture.accounts[0].budget) == (100, 17)
    assert custodian.last(lease).detail["account_raised"] == 7


@pytest.mark.parametrize(
    ("consumer", "amount", "code"),
    [
        ("mallory", 5, "lease.consumer"),
        ("bob", 5, "lease.account_budget"),
        (None, 0, "amount.zero"),
        (None, -5, "amount.negative"),
        (None, MAX_AMOUNT, "amount.too_large"),
        ("alice", MAX_AMOUNT, "amount.too_large"),
        (None, 2**63, "amount.too_large"),
        (None, "5", "amount.type"),
        (None, None, "amount.type"),
    ],
)
def test_a_raise_of_nothing_or_for_nobody_is_refused(
    custodian: Custodian, consumer: str | None, amount: Any, code: str
) -> None:
    lease = custodian.lend(consumers={"alice": 10, "bob": None})
    before = custodian.ledger.lease(lease)
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.raise_budget(lease, consumer=consumer, amount=amount, by="ann", reason="")
    assert refused.value.code == code
    assert custodian.ledger.lease(lease) == before


def test_the_open_account_has_no_budget_of_its_own(custodian: Custodian) -> None:
    lease = custodian.lend(open_to_anyone=True)
    with pytest.raises(InvalidInput, match="the open account") as refused:
        custodian.ledger.raise_budget(lease, consumer="", amount=1, by="ann", reason="")
    assert refused.value.code == "lease.account_budget"


@pytest.mark.parametrize("by", ["", "x" * 101, "anna\n", "änn", 7])
def test_an_act_has_a_name_to_it(custodian: Custodian, by: Any) -> None:
    lease = custodian.lend()
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.stop(lease, by=by, reason="")
    assert refused.value.code == "lease.operator"
    assert custodian.ledger.lease(lease).state == "active"


@pytest.mark.parametrize("reason", ["x" * 501, "two\nlines", "\x1b[31m", None])
def test_a_reason_is_one_line_that_can_be_read(custodian: Custodian, reason: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        custodian.ledger.stop(custodian.lend(), by="ann", reason=reason)
    assert refused.value.code == "lease.reason"


def test_a_reason_may_be_in_any_language(custodian: Custodian) -> None:
    lease = custodian.lend()
    assert custodian.ledger.stop(lease, by="ann", reason="задержка, 停止").reason == "задержка, 停止"
    assert custodian.last(lease).detail["reason"] == "задержка, 停止"
