from __future__ import annotations

import pytest

from blindai.enclave.limits import Budget, Reservation
from blindai.errors import QuotaExceeded


def budget(total: int) -> Budget:
    return Budget(total, lambda wanted, free: QuotaExceeded(f"{wanted} of {free}", code="quota.memory"))


def test_what_does_not_fit_is_refused_and_takes_nothing() -> None:
    shared = budget(10)
    shared.take(8)
    with pytest.raises(QuotaExceeded, match="3 of 2"):
        shared.take(3)
    assert shared.used == 8


def test_giving_back_more_than_was_taken_is_a_bug() -> None:
    shared = budget(10)
    with pytest.raises(AssertionError):
        shared.give(1)


def test_a_reservation_grows_shrinks_and_is_released_once() -> None:
    shared = budget(10)
    held = Reservation(shared, 4)
    held.grow(4)
    with pytest.raises(QuotaExceeded) as caught:
        held.grow(4)
    assert caught.value.code == "quota.memory"
    assert (held.amount, shared.used) == (8, 8)
    held.shrink_to(1)
    assert shared.used == 1
    held.release()
    held.release()
    assert shared.used == 0
