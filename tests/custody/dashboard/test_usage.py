"""Curves and estimates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindai.custody.dashboard.usage import MAX_POINTS, curves, forecast
from blindai.custody.views import Account, Lease, UsagePoint
from blindai.wire.custody import LeaseState, Unit
from custodian_scene import Scene

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def lease(**changes: Any) -> Lease:
    fields: dict[str, Any] = dict.fromkeys(Lease.__annotations__, "") | {
        "unit": Unit.QUERIES,
        "state": LeaseState.ACTIVE,
        "budget": 1000,
        "spent": 0,
        "created_at": NOW - timedelta(days=1),
        "accounts": (Account(consumer="alice", budget=None, granted=0, spent=0, token_epoch=0),),
    }
    return Lease(**(fields | changes))


def points(*ages: float, units: int = 10, consumer: str = "alice") -> list[UsagePoint]:
    return [UsagePoint(at=NOW - timedelta(seconds=age), consumer=consumer, units=units) for age in ages]


def test_what_is_left_is_divided_by_the_mean_rate() -> None:
    found = forecast(lease(spent=400), points(100, 50, 0, units=20), NOW)
    assert found is not None
    assert found.rate == pytest.approx(0.4)
    assert found.at == NOW + timedelta(seconds=1500)
    assert found.over == timedelta(seconds=100)


@pytest.mark.parametrize(
    "found",
    [
        [],
        points(10, 0),
        points(5, 2, 0),
        points(100, 50, 0, units=0),
        points(7200, 7100, 7000),
        points(3600, 3599, 10),
        points(3500, 1000, 10, units=1),
    ],
    ids=["none", "two", "too close", "nothing used", "too old", "one by one leaving the hour", "lasts too long"],
)
def test_without_enough_data_there_is_no_estimate(found: list[UsagePoint]) -> None:
    assert forecast(lease(budget=10**12), found, NOW) is None


def test_of_a_used_up_budget_the_estimate_is_now() -> None:
    found = forecast(lease(spent=1000), points(100, 50, 0), NOW)
    assert found is not None
    assert found.at == NOW


def test_a_wall_clock_in_the_past_makes_no_estimate() -> None:
    assert forecast(lease(), points(-31536000, -31536001, -31536002), NOW) is None


def test_an_empty_plot_has_a_beginning_and_an_end() -> None:
    shown = curves(lease(), [], NOW)
    assert shown["times"] == [(NOW - timedelta(days=1)).timestamp(), NOW.timestamp()]
    assert shown["series"] == [{"name": "alice", "values": [0, 0]}]
    assert shown["total"] == [0, 0]


def test_a_lease_without_accounts_has_a_plot() -> None:
    assert curves(lease(accounts=()), [], NOW)["total"] == [0, 0]


def test_consumers_that_spend_at_one_moment_share_it() -> None:
    shown = curves(lease(), [*points(60, 0), *points(60, consumer="")], NOW)
    assert [one["name"] for one in shown["series"]] == ["anyone", "alice"]
    assert shown["series"][0]["values"] == [0, 10, 10]
    assert shown["series"][1]["values"] == [0, 10, 20]
    assert shown["total"] == [0, 20, 30]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-1e5, 1e6), st.sampled_from(["alice", "bob", ""]), st.integers(0, 10**6)), max_size=900
    )
)
def test_curves_only_rise_and_end_at_the_sum(found: list[tuple[float, str, int]]) -> None:
    given_points = [
        UsagePoint(at=NOW - timedelta(seconds=age), consumer=consumer, units=units) for age, consumer, units in found
    ]
    shown = curves(lease(), given_points, NOW)
    assert 2 <= len(shown["times"]) <= MAX_POINTS
    assert shown["times"] == sorted(set(shown["times"]))
    assert shown["total"][-1] == sum(units for _, _, units in found)
    for values in (shown["total"], *(one["values"] for one in shown["series"])):
        assert len(values) == len(shown["times"])
        assert values == sorted(values)


def test_every_unit_that_the_ledger_took_is_on_the_curve(scene: Scene) -> None:
    made = scene.lease().id
    instance = scene.instance(made)
    for _ in range(5):
        instance.renew({"alice": 3})
        instance.spend("alice", 3)
    instance.renew({})
    shown = curves(scene.ledger.lease(made), scene.ledger.usage(made), scene.clock.now())
    assert shown["total"][-1] == 15
