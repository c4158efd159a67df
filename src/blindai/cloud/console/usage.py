"""What an account used: counts by hour and by day, and what it may."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse

from blindai.cloud.accounts import Action
from blindai.cloud.console.visit import ACCOUNT, Address, Visit
from blindai.wire.cloud_api import UsageHour

if TYPE_CHECKING:
    from starlette.responses import Response

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)

# Of single hours the plot shows two days, of days all that is kept.
SHOWN_HOURS: Final = 48
SHOWN_DAYS: Final = 30

CURVES: Final = ("queries", "failed", "limited")
COUNTS: Final = (*CURVES, "uploads", "deletions")


def days(hours: Iterable[UsageHour]) -> tuple[UsageHour, ...]:
    """The sums of each day, in UTC, without those in which nothing was done; the oldest first."""
    sums: dict[datetime, dict[str, int]] = {}
    for one in hours:
        day = one.hour.astimezone(UTC).replace(hour=0)
        so_far = sums.setdefault(day, dict.fromkeys(COUNTS, 0))
        for name in COUNTS:
            so_far[name] += getattr(one, name)
    return tuple(UsageHour(hour=day, **counts) for day, counts in sorted(sums.items()))


def curves(counted: Iterable[UsageHour], until: datetime, step: timedelta, steps: int) -> dict[str, Any]:
    """What a plot shows, as JSON.

    Args:
        counted: by hour or by day; what is missing is 0.
        until: the beginning of the last hour or day.

    Returns:
        `times`: seconds since 1970, `steps` of them, the last one `until`; `queries`, `failed`, `limited`: as long.
    """
    known = {one.hour: one for one in counted}
    moments = [until - step * ago for ago in range(steps - 1, -1, -1)]
    return {"times": [int(moment.timestamp()) for moment in moments]} | {
        name: [getattr(known.get(moment), name, 0) for moment in moments] for name in CURVES
    }


def plots(hours: Sequence[UsageHour], now: datetime) -> dict[str, Any]:
    """Both plots, as JSON: `hours` and `days`, each as `curves`."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return {
        "hours": curves(hours, hour, HOUR, SHOWN_HOURS),
        "days": curves(days(hours), hour.replace(hour=0), DAY, SHOWN_DAYS),
    }


async def usage_page(visit: Visit) -> Response:
    """Quotas, plots, and the same as a table."""
    usage = await visit.ask(visit.plane.fleet.usage, visit.namespace)
    return visit.page("usage.html", usage=usage, days=days(usage.hours)[::-1])


async def counts(visit: Visit) -> Response:
    """What the plots show, as JSON."""
    usage = await visit.ask(visit.plane.fleet.usage, visit.namespace)
    return JSONResponse(plots(usage.hours, visit.desk.now()))


ADDRESSES: Final = (
    Address("GET", ACCOUNT + "/usage", usage_page, Action.VIEW),
    Address("GET", ACCOUNT + "/usage/counts", counts, Action.VIEW),
)
