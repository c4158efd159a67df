"""Units in hand: never one too many, and as many as the rate needs."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.enclave.lease.meter import FIRST_TRANCHE, MAX_TRANCHE, Account, Meter
from blindai.wire.custody import RequestState, RequestStatus, Standing, Usage

from .conftest import SECOND

START = 1000 * SECOND


class Asked:
    """Counts how often the meter asks."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def give(meter: Meter, units: int, *, wanted: int | None = None, consumer: str = "alice") -> None:
    meter.credit({consumer: units if wanted is None else wanted}, {consumer: units} if units else {}, {}, settled=True)


def spend(meter: Meter, account: Account, times: int) -> int:
    """How many of `times` queries found a unit."""
    found = 0
    for _ in range(times):
        if meter.reserve(account):
            account.spend(failed=False)
            found += 1
    return found


def test_there_is_nothing_to_begin_with_and_it_asks_once() -> None:
    asked = Asked()
    meter = Meter(asked)
    account = meter.account("alice")
    assert [meter.reserve(account) for _ in range(50)] == [False] * 50
    assert asked.times == 1
    assert meter.wanted(START) == {"alice": FIRST_TRANCHE}


def test_fifty_at_once_on_a_budget_of_one() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 1, wanted=4)
    assert sum(meter.reserve(account) for _ in range(50)) == 1


def test_what_was_not_executed_costs_nothing() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 1)
    for _ in range(3):
        assert meter.reserve(account)
        account.release()
    assert (account.credit, account.used, account.held) == (1, 0, 1)


def test_what_was_executed_costs_though_it_failed() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 3)
    for failed in (False, True):
        assert meter.reserve(account)
        account.spend(failed=failed)
    assert (account.credit, account.used, meter.spent) == (1, 2, 2)
    assert meter.close_window() == {"alice": Usage(2, 2, 1)}
    assert meter.close_window() == {}
    assert account.used == 2


def test_a_window_ends_where_the_next_begins() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 10)
    spend(meter, account, 3)
    meter.close_window()
    spend(meter, account, 2)
    standing = Standing(spent=3, budget=10)
    meter.credit({}, {}, {"alice": standing}, settled=True)
    assert (account.used, account.budget) == (5, 10)
    assert meter.close_window() == {"alice": Usage(2, 2, 0)}


def test_until_a_record_is_acknowledged_its_units_are_counted_here() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 10)
    spend(meter, account, 3)
    meter.close_window()
    meter.credit({}, {}, {"alice": Standing(spent=0, budget=10)}, settled=False)
    assert account.used == 3


def test_it_asks_again_when_most_is_gone() -> None:
    asked = Asked()
    meter = Meter(asked)
    account = meter.account("alice")
    give(meter, 8)
    spend(meter, account, 6)
    assert asked.times == 0
    spend(meter, account, 1)
    assert asked.times == 1
    spend(meter, account, 1)
    assert asked.times == 1


def test_an_account_is_dry_when_nothing_came_and_nothing_is_in_hand() -> None:
    asked = Asked()
    meter = Meter(asked)
    account = meter.account("alice")
    meter.reserve(account)
    give(meter, 0, wanted=4)
    assert account.dry
    assert not meter.unanswered
    for _ in range(10):
        assert not meter.reserve(account)
    assert asked.times == 1
    # It goes into every renewal, though none is made for its sake.
    assert meter.wanted(START) == {"alice": 4}
    give(meter, 2, wanted=4)
    assert meter.reserve(account)


def test_an_account_that_holds_as_many_as_it_may_is_not_dry() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    give(meter, 1)
    assert meter.reserve(account)
    meter.want(account)
    give(meter, 0, wanted=4)
    assert not account.dry


def test_who_waits_is_asked_for() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    meter.reserve(account)
    account.waiting = 50
    assert meter.wanted(START) == {"alice": 50}


def test_tranches_follow_the_rate_and_double_at_most() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    now, tranches = START, []
    for _ in range(20):
        meter.want(account)
        wanted = meter.wanted(now)["alice"]
        tranches.append(wanted)
        give(meter, wanted)
        spend(meter, account, account.credit)
        now += wanted * SECOND // 1000  # a thousand queries a second
    assert tranches[:4] == [FIRST_TRANCHE, 8, 16, 32]
    assert all(after <= 2 * before for before, after in pairwise(tranches))
    assert 4000 <= tranches[-1] <= 8000
    # An hour of silence later a call or two need no such heap.
    now += 3600 * SECOND
    spend(meter, account, 1)
    for _ in range(14):
        now += SECOND
        meter.want(account)
        meter.wanted(now)
    assert account.tranche == FIRST_TRANCHE


def test_no_tranche_is_larger_than_the_largest() -> None:
    account = Account("alice", tranche=MAX_TRANCHE, rate=1e12)
    meter = Meter(Asked())
    meter._accounts["alice"] = account
    meter.want(account)
    assert meter.wanted(START)["alice"] <= MAX_TRANCHE


def test_who_has_enough_is_not_asked_for() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    account.credit = account.received = 100
    meter.want(account)
    assert meter.wanted(START) == {}
    assert account.low == 25


def request(state: RequestState) -> RequestStatus:
    return RequestStatus("request-aaaaaaaaaaaaaaaa", "alice", state)


def test_when_a_request_is_due() -> None:
    account = Account("alice")
    assert account.request_due(START)
    account.request, account.filed_ns = request(RequestState.PENDING), START
    assert not account.request_due(START + 10**15)
    account.request = request(RequestState.APPROVED)
    assert account.request_due(START)
    account.request = request(RequestState.DENIED)
    assert not account.request_due(START + 59 * SECOND)
    assert account.request_due(START + 60 * SECOND)


def test_the_custodians_word_on_a_request_is_kept() -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    account.request = request(RequestState.PENDING)
    meter.credit({}, {}, {"alice": Standing(0, 5)}, settled=True)
    assert account.request == request(RequestState.PENDING)
    meter.credit({}, {}, {"alice": Standing(0, 5, request(RequestState.DENIED))}, settled=True)
    assert account.request == request(RequestState.DENIED)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["grant", "reserve", "spend", "fail", "release", "record"]), max_size=60))
def test_no_history_spends_more_than_was_granted(history: list[str]) -> None:
    meter = Meter(Asked())
    account = meter.account("alice")
    granted = reserved = recorded = 0
    for event in history:
        match event:
            case "grant":
                give(meter, 3)
                granted += 3
            case "reserve":
                reserved += meter.reserve(account)
            case "spend" | "fail" if reserved:
                account.spend(failed=event == "fail")
                reserved -= 1
            case "release" if reserved:
                account.release()
                reserved -= 1
            case "record":
                recorded += sum(usage.units for usage in meter.close_window().values())
        assert account.credit >= 0
        assert account.total + reserved + account.credit == granted
        assert recorded <= account.total <= granted
        assert account.held == account.credit + reserved
