"""Letting a command line act for a person: `blindai login` shows a code, which is typed in here (RFC 8628)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from blindai.cloud.console.visit import Address, Visit
from blindai.errors import BlindAIError
from blindai.web.forms import Filled, see

if TYPE_CHECKING:
    from starlette.responses import Response

PAGE: Final = "/device"

_log = structlog.get_logger("blindai.cloud")

DONE: Final = {
    "approved": "The command line is signed in. Go on there.",
    "denied": "The command line was refused.",
}

_FIELDS: Final = {"device.code": "code"}


async def device_page(visit: Visit) -> Response:
    """The form for the code; with a code, what asks, and the decision."""
    code = visit.query("code")
    if not code:
        return visit.page("device.html", code="", device=None, done=DONE.get(visit.query("done")))
    return await _asked(visit, code)


async def decide(visit: Visit) -> Response:
    """Let the command line in, or refuse it."""
    code, approve = visit.form.get("code", ""), visit.form.get("decision") == "approve"
    try:
        await visit.ask(visit.plane.people.decide_device, visit.person.id, code, approve)
    except BlindAIError as error:
        return _code_form(visit, code, error)
    _log.info("device_decided", user=visit.person.id, approved=approve)
    return see(f"{PAGE}?done={'approved' if approve else 'denied'}")


async def _asked(visit: Visit, code: str) -> Response:
    try:
        device = await visit.ask(visit.plane.people.device_grant, code, user_id=visit.person.id)
    except BlindAIError as error:
        return _code_form(visit, code, error)
    return visit.page("device.html", code=code, device=device, done=None)


def _code_form(visit: Visit, code: str, error: BlindAIError) -> Response:
    form = Filled(given={"code": code}, error=error, fields=_FIELDS)
    return visit.page("device.html", form=form, code="", device=None, done=None)


ADDRESSES: Final = (
    Address("GET", PAGE, device_page),
    Address("POST", PAGE, decide),
)
