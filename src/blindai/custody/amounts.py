"""Amounts of units, as people give them."""

from __future__ import annotations

from blindai.errors import InvalidInput
from blindai.wire.custody import MAX_AMOUNT


def require_amount(value: object) -> int:
    """`value`, a whole number from 1 to `MAX_AMOUNT`.

    Raises:
        InvalidInput: `amount.type`, `amount.negative`, `amount.zero`, `amount.too_large`.
    """
    # `True` is an int in Python, and no amount.
    if type(value) is not int:
        raise InvalidInput("an amount is a whole number", code="amount.type")
    if value < 0:
        raise InvalidInput("an amount is not negative", code="amount.negative")
    if value == 0:
        raise InvalidInput("an amount is not zero", code="amount.zero")
    return require_total(value)


def require_total(value: int) -> int:
    """`value`, if a budget may be as large.

    Raises:
        InvalidInput: `amount.too_large`.
    """
    if value > MAX_AMOUNT:
        raise InvalidInput(f"an amount is at most {MAX_AMOUNT}", code="amount.too_large")
    return value
