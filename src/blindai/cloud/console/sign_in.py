"""Signing in, by password or by passkey, and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog
from starlette.responses import Response

from blindai.cloud.console.ceremony import options
from blindai.cloud.console.visit import HOME, Address, Desk, Visit
from blindai.errors import BlindAIError
from blindai.web import csrf
from blindai.web.forms import Filled, delete_cookie, safe_next, see
from blindai.web.sessions import COOKIE, LIFETIME_SECONDS

if TYPE_CHECKING:
    from starlette.requests import Request

    from blindai.web.sessions import Session

SIGN_IN: Final = "/sign-in"

_log = structlog.get_logger("blindai.cloud")

DONE: Final = {
    "verified": "The address is confirmed. Sign in.",
    "password": "The password was changed, and you were signed out everywhere. Sign in with the new one.",
    "everywhere": "You were signed out everywhere.",
    "left": "Your account was deleted.",
}


def ask_to_sign_in(desk: Desk, request: Request) -> Response:
    """The answer to whoever is not signed in, or not any more."""
    if request.method != "GET":
        return see(SIGN_IN)
    if "hx-request" in request.headers:
        # Not for people to see: the page that asked shows by itself that it is old.
        return Response(status_code=401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.headers.get("sec-fetch-site") == "cross-site":
        # Somebody followed a link in a mail. Browsers send our cookies only where one of our own pages asks, so that
        # this one does, at once. It changes nothing: every change takes a form.
        return desk.pages.page("moment.html", address=wanted)
    return see(SIGN_IN if wanted == HOME else f"{SIGN_IN}?next={quote(wanted, safe='/')}")


async def sign_in_page(visit: Visit) -> Response:
    """The form."""
    return _page(visit, Filled(), next_page=safe_next(visit.query("next", HOME), home=HOME))


async def sign_in(visit: Visit) -> Response:
    """Begin a session by password."""
    people = visit.plane.people
    next_page = safe_next(visit.form.get("next", HOME), home=HOME)
    email, password = visit.form.get("email", ""), visit.form.get("password", "")
    try:
        session = await visit.hash(people.sign_in, email, password, address=visit.address)
    except BlindAIError as error:
        # Not the e-mail address: people type their password there.
        _log.warning("sign_in_refused", address=visit.address, code=error.code)
        return _page(visit, Filled(given=visit.form, error=error), next_page=next_page)
    return await begin(visit, session, next_page)


async def passkey_options(visit: Visit) -> Response:
    """What the browser needs to use a passkey, as JSON."""
    return await options(visit, visit.plane.people.sign_in_options, visit.cookie, address=visit.address)


async def sign_in_passkey(visit: Visit) -> Response:
    """Begin a session by passkey."""
    people = visit.plane.people
    next_page = safe_next(visit.form.get("next", HOME), home=HOME)
    try:
        response = visit.form.get("response", "")
        session = await visit.ask(people.sign_in_passkey, visit.cookie, response, address=visit.address)
    except BlindAIError as error:
        _log.warning("sign_in_refused", address=visit.address, code=error.code)
        return _page(visit, Filled(given=visit.form, error=error), next_page=next_page)
    return await begin(visit, session, next_page)


async def sign_out(visit: Visit) -> Response:
    """End this session."""
    await visit.ask(visit.plane.people.sign_out, visit.cookie)
    _log.info("signed_out", user=visit.person.id)
    return ended(see(SIGN_IN))


async def begin(visit: Visit, session: Session, next_page: str) -> Response:
    """Give the browser its session. One that it had before is ended, so that none is left behind."""
    _log.info("signed_in", user=session.account, address=visit.address)
    before = visit.request.cookies.get(COOKIE)
    if before:
        await visit.ask(visit.plane.people.sign_out, before)
    answer = see(next_page)
    answer.set_cookie(
        COOKIE, session.id, max_age=LIFETIME_SECONDS, path="/", secure=True, httponly=True, samesite="strict"
    )
    delete_cookie(answer, csrf.VISITOR_COOKIE)
    return answer


def ended(answer: Response) -> Response:
    """`answer`, to a browser whose session is over: what it still keeps of our pages, it forgets."""
    delete_cookie(answer, COOKIE)
    answer.headers["clear-site-data"] = '"cache", "storage"'
    return answer


def _page(visit: Visit, form: Filled, *, next_page: str) -> Response:
    return visit.page("sign_in.html", form=form, next_page=next_page, done=DONE.get(visit.query("done")))


OPEN: Final = (
    Address("GET", SIGN_IN, sign_in_page),
    Address("POST", SIGN_IN, sign_in),
    Address("POST", f"{SIGN_IN}/passkey/options", passkey_options),
    Address("POST", f"{SIGN_IN}/passkey", sign_in_passkey),
)

ADDRESSES: Final = (Address("POST", "/sign-out", sign_out),)
