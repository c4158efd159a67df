"""What operators decide about a lease. Each is a form; one that is refused comes back filled in, with the reason.

Stop, pause, resume and the revocation of tokens have a page in between, which says what will happen.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Final

from starlette.responses import Response

from blindai.custody.dashboard.leases import lease_page
from blindai.custody.dashboard.visit import Visit, status_of_refusal
from blindai.custody.views import Lease, Request
from blindai.errors import BlindAIError, InvalidInput
from blindai.web.forms import see

# Digits, or groups of three of them, as people copy them from a page: "1,5" is no amount, and not fifteen.
_AMOUNT: Final = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:[,_ \u00a0\u202f][0-9]{3})+)", re.ASCII)
# More than this is no amount, and Python is asked to read no number of any length.
_MAX_AMOUNT_CHARACTERS: Final = 40


@dataclass(frozen=True)
class Wording:
    """A page that asks before something is done.

    Attributes:
        verb: of the button, and of the address.
        effect: what will happen.
        danger: it is the kind that is meant to hurt.
    """

    verb: str
    title: str
    effect: str
    danger: bool


STOP: Final = Wording(
    "stop",
    "Stop the lease",
    "No new query starts once an instance has heard of it, and it wipes key and weights from memory. An instance that "
    "cannot be reached does the same when its grant has run out. A resume takes the approval of the lease's operators.",
    danger=True,
)
PAUSE: Final = Wording(
    "pause",
    "Pause the lease",
    "No new query starts once an instance has heard of it. Key and weights stay in its memory until its grant has run "
    "out, and are wiped then. A resume takes the approval of the lease's operators.",
    danger=True,
)
RESUME: Final = Wording(
    "resume",
    "Resume the lease",
    "Instances are granted units and time again, and load the model again where they have wiped it. None has to be "
    "restarted.",
    danger=False,
)

Handler = Callable[[Visit], Awaitable[Response]]


def _or_say_why(handler: Handler) -> Handler:
    """Answer a decision that is refused with the lease's page, which says why."""

    @wraps(handler)
    async def handled(visit: Visit) -> Response:
        try:
            return await handler(visit)
        except BlindAIError as error:
            if error.code == "lease.unknown":
                raise
            return await lease_page(visit, alert=error)

    return handled


async def stop_page(visit: Visit) -> Response:
    """Ask before a stop."""
    return await _ask(visit, STOP)


async def stop(visit: Visit) -> Response:
    """Stop the lease."""
    return await _switch(visit, STOP, visit.desk.ledger.stop, "stopped")


async def pause_page(visit: Visit) -> Response:
    """Ask before a pause."""
    return await _ask(visit, PAUSE)


async def pause(visit: Visit) -> Response:
    """Pause the lease."""
    return await _switch(visit, PAUSE, visit.desk.ledger.pause, "paused")


async def resume_page(visit: Visit) -> Response:
    """Ask before a resume."""
    return await _ask(visit, RESUME)


async def resume(visit: Visit) -> Response:
    """Resume the lease, or propose it."""
    return await _switch(visit, RESUME, visit.desk.ledger.resume, "resumed")


@_or_say_why
async def raise_budget(visit: Visit) -> Response:
    """Raise the budget of the lease, or of one consumer."""
    lease = visit.part("lease")
    proposal = await visit.change(
        visit.desk.ledger.raise_budget,
        lease,
        consumer=visit.form.get("consumer") or None,
        amount=amount(visit.form.get("amount", "")),
        by=visit.name,
        reason=visit.form.get("reason", "").strip(),
    )
    return _back(lease, "raised" if proposal is None else "proposed")


@_or_say_why
async def approve(visit: Visit) -> Response:
    """Approve a request: the amount that it asks for, or the one in the form."""
    request = await _request(visit)
    typed = visit.form.get("amount")
    proposal = await visit.change(
        visit.desk.ledger.approve,
        request.id,
        amount=None if typed is None else amount(typed),
        by=visit.name,
        reason=visit.form.get("reason", "").strip(),
    )
    return _back(request.lease, "approved" if proposal is None else "proposed")


@_or_say_why
async def deny(visit: Visit) -> Response:
    """Deny a request, with a reason, which the consumer sees."""
    request = await _request(visit)
    reason = visit.form.get("reason", "").strip()
    if not reason:
        raise InvalidInput("a denial needs a reason: the consumer is shown it", code="lease.reason")
    await visit.change(visit.desk.ledger.deny, request.id, by=visit.name, reason=reason)
    return _back(request.lease, "denied")


@_or_say_why
async def agree(visit: Visit) -> Response:
    """Agree to what another operator has proposed."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    proposal = _among(lease, visit.part("proposal"))
    agreed = await visit.change(visit.desk.ledger.agree, proposal, by=visit.name)
    done = {"resume": "resumed", "raise": "raised", "approve": "approved"}.get(agreed.action, "")
    return _back(lease.id, done if len(agreed.agreed) >= agreed.needed else "proposed")


@_or_say_why
async def withdraw(visit: Visit) -> Response:
    """Withdraw a proposal."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    await visit.change(visit.desk.ledger.withdraw, _among(lease, visit.part("proposal")), by=visit.name)
    return _back(lease.id, "withdrawn")


@_or_say_why
async def add_consumer(visit: Visit) -> Response:
    """Add a consumer. Its token is in this answer and nowhere else."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    name, typed = visit.form.get("name", "").strip(), visit.form.get("budget", "").strip()
    token = await visit.change(
        visit.desk.ledger.add_consumer, lease.id, name, amount(typed) if typed else None, by=visit.name
    )
    return visit.page("token.html", lease=lease, consumer=name, token=token)


@_or_say_why
async def issue_token(visit: Visit) -> Response:
    """Issue another token. It is in this answer and nowhere else."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    token = await visit.change(visit.desk.ledger.issue_token, lease.id, visit.part("consumer"), by=visit.name)
    return visit.page("token.html", lease=lease, consumer=visit.part("consumer"), token=token)


async def revoke_page(visit: Visit) -> Response:
    """Ask before tokens are revoked."""
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    return visit.page("revoke.html", lease=lease, consumer=_consumer(lease, visit.part("consumer")))


@_or_say_why
async def revoke(visit: Visit) -> Response:
    """Revoke all tokens of a consumer."""
    lease = visit.part("lease")
    await visit.change(visit.desk.ledger.revoke_tokens, lease, visit.part("consumer"), by=visit.name)
    return _back(lease, "revoked")


def amount(typed: str) -> int:
    """The whole number that was typed; what it may be is for the ledger to say.

    Raises:
        InvalidInput: `amount.type`.
    """
    text = typed.strip()
    if len(text) > _MAX_AMOUNT_CHARACTERS or not _AMOUNT.fullmatch(text):
        shown = text if len(text) <= _MAX_AMOUNT_CHARACTERS else text[:_MAX_AMOUNT_CHARACTERS] + "..."
        raise InvalidInput(
            f'an amount is a whole number, such as 1000; "{shown}" is none' if text else "an amount is needed",
            code="amount.type",
        )
    return int(re.sub(r"[,_ \u00a0\u202f]", "", text))


async def _ask(visit: Visit, wording: Wording, *, alert: BlindAIError | None = None) -> Response:
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    return visit.page(
        "switch.html",
        status=200 if alert is None else status_of_refusal(alert),
        lease=lease,
        wording=wording,
        alert=alert,
        reason=visit.form.get("reason", ""),
    )


async def _switch(visit: Visit, wording: Wording, act: Callable[..., object], done: str) -> Response:
    lease, reason = visit.part("lease"), visit.form.get("reason", "").strip()
    try:
        proposal = await visit.change(act, lease, by=visit.name, reason=reason)
    except InvalidInput as error:
        return await _ask(visit, wording, alert=error)
    return _back(lease, "proposed" if wording is RESUME and proposal is not None else done)


def _back(lease: str, done: str) -> Response:
    return see(f"/leases/{lease}?done={done}")


async def _request(visit: Visit) -> Request:
    lease = await visit.ask(visit.desk.ledger.lease, visit.part("lease"))
    for request in lease.requests:
        if request.id == visit.part("request"):
            return request
    raise InvalidInput("there is no such request of this lease", code="lease.request")


def _among(lease: Lease, proposal: str) -> str:
    if all(one.id != proposal for one in lease.proposals):
        raise InvalidInput("there is no such proposal of this lease", code="lease.proposal")
    return proposal


def _consumer(lease: Lease, name: str) -> str:
    if not name or all(one.consumer != name for one in lease.accounts):
        raise InvalidInput("this lease has no such consumer", code="lease.consumer")
    return name
