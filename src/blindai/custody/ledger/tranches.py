"""How many units an instance gets. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What there is to give from.

    Attributes:
        lease_left: units of the lease that are not granted.
        account_left: units of each account that are not granted; None where the account has no budget of its own.
        outstanding: units that the instance holds and has not spent, by consumer.
        tranche_max: what one instance may hold of one consumer's.
        instances: with a grant that has not run out, the asking one among them.
        consumers: who wants units now, or whose units are in the hands of such an instance.
    """

    lease_left: int
    account_left: Mapping[str, int | None]
    outstanding: Mapping[str, int]
    tranche_max: int
    instances: int
    consumers: int


def tranches(wanted: Mapping[str, int], supply: Supply) -> dict[str, int]:
    """What each consumer gets: no more than it wants, than the instance may hold, and than there is.

    Where others may want units too, an instance gets an equal part of what is left, of the account's among instances
    and of the lease's among instances and consumers, and at least one: so nobody can hoard a budget that comes to its
    end, and its last unit is given all the same. The smallest wishes are served first.
    """
    given: dict[str, int] = {}
    left = supply.lease_left
    lease_part = part(left, supply.instances * supply.consumers)
    for consumer, units in sorted(wanted.items(), key=lambda wish: (wish[1], wish[0])):
        bounds = [units, supply.tranche_max - supply.outstanding.get(consumer, 0), lease_part, left]
        own = supply.account_left[consumer]
        if own is not None:
            bounds.append(part(own, supply.instances))
        quantity = min(bounds)
        if quantity > 0:
            given[consumer] = quantity
            left -= quantity
    return given


def part(left: int, parties: int) -> int:
    """An equal part of `left`, and at least one of what there is."""
    return min(left, max(1, left // max(1, parties)))
