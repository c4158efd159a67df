"""How many units an instance gets: arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindai.custody.ledger.tranches import Supply, part, tranches

ALONE = Supply(lease_left=100, account_left={"alice": None}, outstanding={}, tranche_max=1000, instances=1, consumers=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"alice": 60}),
        ({"lease_left": 7}, {"alice": 7}),
        ({"lease_left": 0}, {}),
        ({"account_left": {"alice": 9}}, {"alice": 9}),
        ({"account_left": {"alice": 0}}, {}),
        ({"tranche_max": 25}, {"alice": 25}),
        ({"tranche_max": 25, "outstanding": {"alice": 20}}, {"alice": 5}),
        # More than the bound: the terms of an older lease, or a bound of before.
        ({"tranche_max": 25, "outstanding": {"alice": 30}}, {}),
        ({"instances": 4}, {"alice": 25}),
        ({"consumers": 5}, {"alice": 20}),
        ({"instances": 4, "consumers": 5}, {"alice": 5}),
        ({"instances": 4, "account_left": {"alice": 8}}, {"alice": 2}),
        ({"instances": 4, "lease_left": 3}, {"alice": 1}),
        ({"instances": 4, "account_left": {"alice": 1}}, {"alice": 1}),
    ],
)
def test_the_least_bound_decides(changes: dict[str, object], expected: dict[str, int]) -> None:
    assert tranches({"alice": 60}, replace(ALONE, **changes)) == expected  # type: ignore[arg-type] # by name


def test_nothing_wanted_is_nothing_given() -> None:
    assert tranches({}, replace(ALONE, consumers=0)) == {}


def test_the_smallest_wish_comes_first() -> None:
    supply = replace(ALONE, lease_left=2, account_left={"alice": None, "bob": None, "carol": None}, consumers=3)
    assert tranches({"alice": 9, "bob": 1, "carol": 5}, supply) == {"bob": 1, "carol": 1}


@pytest.mark.parametrize(("left", "parties", "expected"), [(0, 1, 0), (1, 5, 1), (10, 3, 3), (10, 1, 10), (10, 0, 10)])
def test_a_part_is_at_least_one_of_what_there_is(left: int, parties: int, expected: int) -> None:
    assert part(left, parties) == expected


NAMES = ("alice", "bob", "carol")
UNITS = st.integers(0, 10**12)


@given(
    wanted=st.dictionaries(st.sampled_from(NAMES), UNITS),
    lease_left=UNITS,
    account_left=st.fixed_dictionaries(dict.fromkeys(NAMES, st.none() | UNITS)),
    outstanding=st.dictionaries(st.sampled_from(NAMES), UNITS),
    tranche_max=st.integers(1, 10**12),
    instances=st.integers(1, 1000),
    consumers=st.integers(1, 1000),
)
def test_no_supply_is_ever_exceeded_and_what_there_is_can_be_had(
    wanted: dict[str, int],
    lease_left: int,
    account_left: dict[str, int | None],
    outstanding: dict[str, int],
    tranche_max: int,
    instances: int,
    consumers: int,
) -> None:
    supply = Supply(
        lease_left=lease_left,
        account_left=account_left,
        outstanding=outstanding,
        tranche_max=tranche_max,
        instances=instances,
        consumers=consumers,
    )
    given_units = tranches(wanted, supply)
    assert sum(given_units.values()) <= lease_left
    for consumer, units in given_units.items():
        own = account_left[consumer]
        assert 0 < units <= wanted[consumer]
        assert own is None or units <= own
        assert units + outstanding.get(consumer, 0) <= tranche_max
    could = [
        name
        for name, units in wanted.items()
        if units and account_left[name] != 0 and outstanding.get(name, 0) < tranche_max
    ]
    assert bool(given_units) == (lease_left > 0 and bool(could))
