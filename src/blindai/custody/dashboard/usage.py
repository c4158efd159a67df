"""Consumption over time: the curves of the plot, and an estimate of when the budget is used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from blindai.custody.views import Lease, UsagePoint

# A curve of more points looks the same on any screen.
MAX_POINTS: Final = 400

# The rate is that of the last hour: what was used last week says little of tonight.
WINDOW: Final = timedelta(hours=1)

# Below these, a rate is a guess.
MIN_POINTS: Final = 3
MIN_SPAN: Final = timedelta(seconds=10)

# Later than this, "when" means nothing.
MAX_AHEAD: Final = timedelta(days=3650)


@dataclass(frozen=True)
class Forecast:
    """When the lease's budget is used up if consumption goes on as it did lately.

    Attributes:
        at: that moment.
        rate: units per second.
        over: the time that the rate was taken over.
        points: records in it.
    """

    at: datetime
    rate: float
    over: timedelta
    points: int


def forecast(lease: Lease, points: Sequence[UsagePoint], now: datetime) -> Forecast | None:
    """Divide what is left of the budget by the mean rate of the last hour, or of all there is where that is less.

    Returns:
        None where that would be a guess: fewer than `MIN_POINTS` records in the hour, all within `MIN_SPAN`, nothing
        used, or so little that the budget lasts longer than `MAX_AHEAD`.
    """
    recent = sorted((point for point in points if point.at > now - WINDOW), key=lambda point: point.at)
    if len(recent) < MIN_POINTS or now - recent[0].at < MIN_SPAN:
        return None
    over = now - recent[0].at
    # What the first record tells of was used before it.
    spent = sum(point.units for point in recent[1:])
    left = max(0, lease.budget - lease.spent)
    if spent == 0 or left > spent * (MAX_AHEAD / over):
        return None
    rate = spent / over.total_seconds()
    return Forecast(now + timedelta(seconds=left / rate), rate, over, len(recent))


def curves(lease: Lease, points: Sequence[UsagePoint], now: datetime) -> dict[str, Any]:
    """What the plot shows, as JSON: units spent so far, for each consumer and in all, at common moments.

    Returns:
        `times`: seconds since 1970, from the lease's beginning to `now`, `MAX_POINTS` at most.
        `series`: `[{"name", "values"}]`, as long as `times`. `total`: their sum. `budget`, `unit`.
    """
    ordered = sorted(points, key=lambda point: point.at)
    begin = min([lease.created_at, *(point.at for point in ordered[:1])])
    moments = sorted({begin, *(point.at for point in ordered), max([now, *(point.at for point in ordered[-1:])])})
    if len(moments) > MAX_POINTS:
        # Every curve only rises, so that a value is right at the moment that it is given for, whatever is left out.
        step = (len(moments) - 1) / (MAX_POINTS - 1)
        moments = [moments[round(index * step)] for index in range(MAX_POINTS)]
    names = sorted({account.consumer for account in lease.accounts} | {point.consumer for point in ordered})
    sums = dict.fromkeys(names, 0)
    values: dict[str, list[int]] = {name: [] for name in names}
    following = iter(ordered)
    point = next(following, None)
    for moment in moments:
        while point is not None and point.at <= moment:
            sums[point.consumer] += point.units
            point = next(following, None)
        for name in names:
            values[name].append(sums[name])
    return {
        "times": [moment.timestamp() for moment in moments],
        "series": [{"name": name or "anyone", "values": values[name]} for name in names],
        "total": [sum(column) for column in zip(*values.values(), strict=True)] if names else [0] * len(moments),
        "budget": lease.budget,
        "unit": lease.unit.value,
    }
