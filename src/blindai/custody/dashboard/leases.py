"""The pages of leases: all of them, and one with everything that is known of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.responses import JSONResponse, Response, StreamingResponse

from blindai.custody.dashboard.usage import Forecast, curves, forecast
from blindai.custody.dashboard.visit import HOME, Visit, status_of_refusal
from blindai.custody.views import Instance, InstanceState, Lease, ProposalState
from blindai.errors import BlindAIError
from blindai.web.forms import see
from blindai.wire.custody import LeaseState, RequestState

# What a page says after a decision, by the word in its address.
DONE: Final[Mapping[str, str]] = {
    "stopped": "The lease is stopped. Below is when each instance acknowledged it.",
    "paused": "The lease is paused. Below is when each instance acknowledged it.",
    "resumed": "The lease is active again.",
    "approved": "The request was approved.",
    "denied": "The request was denied.",
    "raised": "The budget was raised.",
    "proposed": "Noted. Other operators must agree before it is done: see the proposals below.",
    "withdrawn": "The proposal was withdrawn.",
    "revoked": "All tokens of the consumer were revoked. Instances hear of it with their next grant.",
}


@dataclass(frozen=True)
class Switch:
    """What an instance has made of the latest stop, pause or resume.

    Attributes:
        acknowledged_at: when it said that it acts upon it.
        after: seconds from the decision to then.
        expires_by: where it has not said so: when it has run out for certain. None where it has no grant.
    """

    acknowledged_at: datetime | None
    after: float
    expires_by: datetime | None


def switch(lease: Lease, instance: Instance) -> Switch:
    """What `instance` has made of the latest decision about `lease`."""
    at = instance.acknowledged_at if instance.acknowledged_version >= lease.changed_version else None
    after = 0.0 if at is None else max(0.0, (at - lease.changed_at).total_seconds())
    return Switch(at, after, instance.expires_by)


def last_expiry(lease: Lease) -> datetime | None:
    """The dead man's switch: when the last instance has run out, unless its grant is renewed; None without any."""
    running = [one.expires_by for one in lease.instances if one.state is InstanceState.ACTIVE and one.expires_by]
    return max(running, default=None)


async def home(_visit: Visit) -> Response:
    """The first page."""
    return see(HOME)


async def all_leases(visit: Visit) -> Response:
    """Every lease, those that wait for a decision first."""
    found = await visit.ask(visit.desk.ledger.leases)
    leases = sorted(found, key=lambda lease: (not _waiting(lease), lease.name.casefold()))
    rows = [
        {
            "lease": lease,
            "active": sum(one.state is InstanceState.ACTIVE for one in lease.instances),
            "simulated": any(one.simulated and one.state is InstanceState.ACTIVE for one in lease.instances),
            "quarantined": sum(one.state is InstanceState.QUARANTINED for one in lease.instances),
            "expiry": last_expiry(lease),
            "waiting": _waiting(lease),
        }
        for lease in leases
    ]
    return visit.page("leases.html", rows=rows)


async def one_lease(visit: Visit) -> Response:
    """Everything about one lease."""
    done = DONE.get(visit.request.query_params.get("done", ""))
    return await lease_page(visit, done=done)


async def lease_page(visit: Visit, *, alert: BlindAIError | None = None, done: str | None = None) -> Response:
    """The page of the lease in the address; with `alert`, what was refused, and what was typed stays in its form."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    points = await visit.ask(visit.desk.ledger.usage, lease.id)
    now = visit.desk.now()
    shown = [one for one in lease.instances if _matters(lease, one)]
    return visit.page(
        "lease.html",
        status=200 if alert is None else status_of_refusal(alert),
        lease=lease,
        active=[one for one in lease.instances if one.state is InstanceState.ACTIVE],
        instances=[(one, switch(lease, one)) for one in shown],
        earlier=[(one, switch(lease, one)) for one in lease.instances if one not in shown],
        expiry=last_expiry(lease),
        pending=[one for one in lease.requests if one.state is RequestState.PENDING],
        decided=[one for one in lease.requests if one.state is not RequestState.PENDING],
        proposals=[one for one in lease.proposals if one.state is ProposalState.OPEN],
        forecast=_estimate(lease, forecast(lease, points, now)),
        used=bool(points),
        alert=alert,
        done=done,
        form_of=visit.request.url.path if alert is not None else "",
        given=visit.form,
    )


async def usage(visit: Visit) -> Response:
    """The data of the plot, as JSON."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    points = await visit.ask(visit.desk.ledger.usage, lease.id)
    return JSONResponse(curves(lease, points, visit.desk.now()))


async def changes(visit: Visit) -> Response:
    """A stream that says when this lease has changed."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    return _stream(visit, lease.id)


async def all_changes(visit: Visit) -> Response:
    """A stream that says when any lease has changed."""
    return _stream(visit, None)


def _stream(visit: Visit, lease: str | None) -> Response:
    # While the answer can still be a refusal.
    visit.desk.changes.require_room()
    events = visit.desk.changes.events(lease, _still_allowed(visit))
    return StreamingResponse(events, media_type="text/event-stream")


def _still_allowed(visit: Visit) -> Callable[[], Awaitable[bool]]:
    """Whether the session still lasts: a page that is left open must not show more after a sign-out."""

    async def allowed() -> bool:
        return await visit.ask(visit.desk.operators.signed_in, visit.cookie, noted=False) is not None

    return allowed


def _matters(lease: Lease, instance: Instance) -> bool:
    """Whether `instance` is more than history: it runs, it misbehaved, or it ran when the lease was stopped."""
    if instance.state in {InstanceState.ACTIVE, InstanceState.QUARANTINED}:
        return True
    ran = instance.expires_by is not None and instance.expires_by > lease.changed_at
    return lease.state is not LeaseState.ACTIVE and ran


def _waiting(lease: Lease) -> int:
    """How many decisions the lease waits for."""
    requests = sum(one.state is RequestState.PENDING for one in lease.requests)
    return requests + sum(one.state is ProposalState.OPEN for one in lease.proposals)


def _estimate(lease: Lease, found: Forecast | None) -> dict[str, Any] | None:
    """A forecast in the numbers that the page tells."""
    if found is None or lease.state is not LeaseState.ACTIVE:
        return None
    return {"at": found.at, "per_hour": round(found.rate * 3600), "over": found.over.total_seconds()}
