"""How much an account may do: a bucket for each minute, and a month that the control plane counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.enclave.cloud.quotas import Account, Limited, Pace
from blindai.wire.cloud import Quotas

SECOND = 1_000_000_000


def quotas(*, per_minute: int = 1_000_000, left: int | None = None) -> Quotas:
    return Quotas(models=1, model_bytes=1, requests_per_minute=per_minute, requests_left=left)


def refused(account: Account, now: int) -> tuple[str, int]:
    with pytest.raises(Limited) as raised:
        account.take_query(now)
    return raised.value.code, raised.value.retry_after


def test_a_minute_s_requests_may_come_at_once_and_then_one_by_one() -> None:
    pace = Pace(6)
    for _ in range(6):
        pace.take(0)
    with pytest.raises(Limited) as raised:
        pace.take(0)
    assert raised.value.retry_after == 10
    with pytest.raises(Limited):
        pace.take(10 * SECOND - 1)
    pace.take(10 * SECOND)
    with pytest.raises(Limited) as raised:
        pace.take(11 * SECOND)
    assert raised.value.retry_after == 9


@given(
    per_minute=st.integers(min_value=1, max_value=100_000),
    steps=st.lists(st.integers(min_value=0, max_value=30 * SECOND), max_size=200),
)
def test_no_more_than_the_bucket_and_what_flows_into_it_is_let_through(per_minute: int, steps: list[int]) -> None:
    pace, now, taken = Pace(per_minute), 0, 0
    for step in steps:
        now += step
        try:
            pace.take(now)
        except Limited as limited:
            assert 1 <= limited.retry_after <= 60  # noqa: PT017 - it may be refused, or not
        else:
            taken += 1
    assert taken <= per_minute + now * per_minute // (60 * SECOND) + 1


def test_a_limit_of_nothing_lets_nothing_through() -> None:
    with pytest.raises(Limited) as raised:
        Pace(0).take(0)
    assert (raised.value.code, raised.value.retry_after) == ("quota.requests_per_minute", 60)


def test_an_account_without_an_assertion_may_do_nothing() -> None:
    assert refused(Account("acme", 0), 0)[0] == "quota.requests_per_minute"


def test_a_renewal_does_not_fill_the_bucket() -> None:
    account = Account("acme", 0)
    account.grant(quotas(per_minute=2), 0)
    account.take_query(0)
    account.take_query(0)
    account.grant(quotas(per_minute=2), 1)
    assert refused(account, 1) == ("quota.requests_per_minute", 30)


def test_an_older_assertion_changes_nothing() -> None:
    account = Account("acme", 0)
    account.grant(quotas(left=1), 10)
    account.grant(quotas(left=100), 9)
    account.take_query(10)
    assert refused(account, 10) == ("quota.requests_per_month", 3600)


def test_what_was_let_through_since_the_question_counts_against_what_is_left() -> None:
    account = Account("acme", 0)
    account.grant(quotas(left=5), 0)
    for _ in range(3):
        account.take_query(0)
    # The control plane has not heard of them, and says the same once more.
    account.grant(quotas(left=5), 1)
    account.take_query(1)
    account.take_query(1)
    assert refused(account, 1)[0] == "quota.requests_per_month"


def test_what_was_reported_is_not_counted_twice() -> None:
    account = Account("acme", 0)
    account.grant(quotas(left=5), 0)
    for _ in range(3):
        account.take_query(0)
    account.acknowledge(3, 10)
    account.grant(quotas(left=2), 11)
    account.take_query(11)
    account.take_query(11)
    assert refused(account, 11)[0] == "quota.requests_per_month"


def test_an_answer_to_a_question_before_the_report_is_not_read_as_one_after_it() -> None:
    """It may have been given before the control plane knew: more than it said is never let through."""
    account = Account("acme", 0)
    account.grant(quotas(left=5), 0)
    for _ in range(3):
        account.take_query(0)
    account.acknowledge(3, 10)
    account.grant(quotas(left=5), 9)
    account.take_query(10)
    account.take_query(10)
    assert refused(account, 10)[0] == "quota.requests_per_month"


def test_a_limit_may_be_lifted() -> None:
    account = Account("acme", 0)
    account.grant(quotas(left=0), 0)
    assert refused(account, 0)[0] == "quota.requests_per_month"
    account.grant(quotas(left=None), 1)
    account.take_query(1)


def test_what_is_no_query_counts_for_the_minute_alone() -> None:
    account = Account("acme", 0)
    account.grant(quotas(per_minute=1, left=0), 0)
    account.take_request(0)
    with pytest.raises(Limited) as raised:
        account.take_request(0)
    assert raised.value.code == "quota.requests_per_minute"
    assert account.queries == 0
