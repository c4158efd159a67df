from __future__ import annotations

import pytest

from blindai.cloud.api import rates
from blindai.cloud.api.rates import Rates
from blindai.web.throttle import Throttled
from hand_clock import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock(0)


def refused(limits: Rates, address: str) -> Throttled:
    with pytest.raises(Throttled) as caught:
        limits.take(address)
    return caught.value


def test_a_place_may_call_so_often_and_then_has_to_wait(clock: HandClock) -> None:
    limits = Rates(2, clock=clock)
    limits.take("192.0.2.1")
    limits.take("192.0.2.1")
    refusal = refused(limits, "192.0.2.1")
    assert (refusal.code, refusal.retry_after) == ("quota.requests", 30)


def test_another_place_is_not_kept_waiting(clock: HandClock) -> None:
    limits = Rates(1, clock=clock)
    limits.take("192.0.2.1")
    limits.take("192.0.2.2")
    limits.take("2001:db8::1")
    assert refused(limits, "192.0.2.2").retry_after == 60


def test_a_network_of_ipv6_is_one_place(clock: HandClock) -> None:
    limits = Rates(1, clock=clock)
    limits.take("2001:db8::1")
    refused(limits, "2001:db8::2")
    limits.take("2001:db8:0:1::1")


def test_time_gives_calls_back_and_never_more_than_there_were(clock: HandClock) -> None:
    limits = Rates(2, clock=clock)
    limits.take("192.0.2.1")
    limits.take("192.0.2.1")
    clock.now += 30
    limits.take("192.0.2.1")
    refused(limits, "192.0.2.1")
    clock.now += 3600
    limits.take("192.0.2.1")
    limits.take("192.0.2.1")
    refused(limits, "192.0.2.1")


def test_waiting_as_long_as_was_said_is_enough(clock: HandClock) -> None:
    limits = Rates(7, clock=clock)
    for _ in range(7):
        limits.take("192.0.2.1")
    clock.now += refused(limits, "192.0.2.1").retry_after
    limits.take("192.0.2.1")


def test_the_places_that_are_remembered_are_so_many(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_PLACES", 2)
    limits = Rates(1, clock=clock)
    for last in range(4):
        limits.take(f"192.0.2.{last}")
    refused(limits, "192.0.2.3")
    refused(limits, "192.0.2.2")
    limits.take("192.0.2.0")
    assert len(limits._buckets) == 2
