"""Waiting for a custodian's decision: when it looks, when it tries again, when it gives up."""

from __future__ import annotations

import pytest

from blindai.client.budget import BudgetWait
from blindai.errors import BudgetExhausted, ConfigurationError
from blindai.wire.lease import LeaseRequest, ModelLease

NOW = 1000.0


def refusal(state: str = "pending") -> BudgetExhausted:
    return BudgetExhausted("used up", used=5, granted=5, request_id="request-1", state=state)


def lease(state: str = "serving", *, used: int = 5, budget: int = 5, request: LeaseRequest | None = None) -> ModelLease:
    return ModelLease("acme/model", state, used=used, budget=budget, request=request)


def test_it_looks_again_and_again_until_the_time_is_over() -> None:
    wait = BudgetWait(refusal(), 1.0, NOW)
    now = NOW
    for _ in range(4):
        now += wait.pause(now)
        assert not wait.look(lease(request=LeaseRequest("request-1", "pending")))
    assert now == NOW + 1
    with pytest.raises(BudgetExhausted) as caught:
        wait.pause(now)
    assert caught.value.request_id == "request-1"


def test_units_send_the_query_again() -> None:
    wait = BudgetWait(refusal(), 1.0, NOW)
    assert wait.look(lease(budget=6))
    wait.refused(refusal())  # somebody else was faster
    assert wait.pause(NOW) > 0


def test_a_denial_ends_it_with_its_reason() -> None:
    wait = BudgetWait(refusal(), 60.0, NOW)
    with pytest.raises(BudgetExhausted) as caught:
        wait.look(lease(request=LeaseRequest("request-1", "denied", reason="not this month")))
    error = caught.value
    assert (error.state, error.reason, error.used, error.granted) == ("denied", "not this month", 5, 5)
    assert "not this month" in error.message


def test_a_denial_of_before_is_not_waited_for() -> None:
    with pytest.raises(BudgetExhausted) as caught:
        BudgetWait(refusal("denied"), 60.0, NOW)
    assert caught.value.state == "denied"
    wait = BudgetWait(refusal(), 60.0, NOW)
    with pytest.raises(BudgetExhausted):
        wait.refused(refusal("denied"))


@pytest.mark.parametrize("state", ["stopped", "paused", "expired", "soft", "quarantined", "a state of tomorrow"])
def test_where_no_budget_helps_the_query_is_sent_to_be_told_why(state: str) -> None:
    assert BudgetWait(refusal(), 1.0, NOW).look(lease(state))


def test_a_model_that_is_being_loaded_is_waited_for() -> None:
    assert not BudgetWait(refusal(), 1.0, NOW).look(lease("waiting", budget=9))


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BudgetWait(refusal(), seconds, NOW)
    assert caught.value.code == "configuration.timeout"


def test_it_says_what_it_waits_for() -> None:
    assert "request-1" in BudgetWait(refusal(), 1.0, NOW).words
    nameless = BudgetExhausted("used up", used=0, granted=0, request_id="", state="")
    assert BudgetWait(nameless, 1.0, NOW).words == "waiting for the custodian"
