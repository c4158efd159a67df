"""Amounts of units, as people give them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from blindai.custody.amounts import require_amount, require_total
from blindai.errors import InvalidInput
from blindai.wire.custody import MAX_AMOUNT


@pytest.mark.parametrize("amount", [1, 10, MAX_AMOUNT])
def test_a_whole_number_is_an_amount(amount: int) -> None:
    assert require_amount(amount) == require_total(amount) == amount


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "amount.zero"),
        (-1, "amount.negative"),
        (-(10**30), "amount.negative"),
        (MAX_AMOUNT + 1, "amount.too_large"),
        (10**400, "amount.too_large"),
        (1.0, "amount.type"),
        (float("inf"), "amount.type"),
        (float("nan"), "amount.type"),
        (Decimal(1), "amount.type"),
        ("1", "amount.type"),
        (b"1", "amount.type"),
        (True, "amount.type"),
        (None, "amount.type"),
        ([1], "amount.type"),
    ],
)
def test_anything_else_is_none(value: Any, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        require_amount(value)
    assert refused.value.code == code
