"""Signing in and out, one's own password, and the accounts of all operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog
from starlette.responses import Response

from blindai.custody.dashboard.visit import HOME, Visit, status_of_refusal
from blindai.custody.operators import Role
from blindai.errors import BlindAIError, InvalidInput
from blindai.web import csrf
from blindai.web.forms import delete_cookie, headers_of_refusal, require_same, safe_next, see
from blindai.web.passwords import MIN_CHARACTERS
from blindai.web.sessions import COOKIE, LIFETIME_SECONDS

if TYPE_CHECKING:
    from starlette.requests import Request

SIGN_IN: Final = "/sign-in"

_log = structlog.get_logger("blindai.custody")

DONE: Final = {
    "added": "The account was made.",
    "password": "The password was changed, and the account was signed out everywhere.",
    "disabled": "The account was shut, and signed out everywhere.",
    "enabled": "The account was opened again.",
}


def ask_to_sign_in(request: Request) -> Response:
    """The answer to whoever is not signed in, or not any more."""
    if request.method != "GET":
        return see(SIGN_IN)
    if "hx-request" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        # Not for people to see: the page that asked shows by itself that it is not live any more.
        return Response(status_code=401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return see(SIGN_IN if wanted in {"/", HOME} else f"{SIGN_IN}?next={quote(wanted, safe='/')}")


async def sign_in_page(visit: Visit) -> Response:
    """The form; with a value for its token where the browser has none yet."""
    return _sign_in_form(visit, next_page=safe_next(visit.request.query_params.get("next", HOME), home=HOME))


async def sign_in(visit: Visit) -> Response:
    """Begin a session. One that the browser had before is ended, so that none is left behind."""
    next_page = safe_next(visit.form.get("next", HOME), home=HOME)
    address = visit.request.client.host if visit.request.client else ""
    name = visit.form.get("name", "")
    try:
        session = await visit.hash(visit.desk.operators.sign_in, name, visit.form.get("password", ""), address=address)
    except BlindAIError as error:
        # Not the name: people type their password there.
        _log.warning("sign_in_refused", address=address, code=error.code)
        return _sign_in_form(visit, next_page=next_page, name=name, alert=error)
    _log.info("signed_in", operator=session.account, address=address)
    before = visit.request.cookies.get(COOKIE)
    if before:
        await visit.ask(visit.desk.operators.sign_out, before)
    answer = see(next_page)
    answer.set_cookie(
        COOKIE, session.id, max_age=LIFETIME_SECONDS, path="/", secure=True, httponly=True, samesite="strict"
    )
    delete_cookie(answer, csrf.VISITOR_COOKIE)
    return answer


async def sign_out(visit: Visit) -> Response:
    """End this session."""
    await visit.ask(visit.desk.operators.sign_out, visit.cookie)
    _log.info("signed_out", operator=visit.name)
    answer = see(SIGN_IN)
    delete_cookie(answer, COOKIE)
    # What the browser still keeps of our pages, it forgets.
    answer.headers["clear-site-data"] = '"cache", "storage"'
    return answer


async def account_page(visit: Visit) -> Response:
    """One's own account."""
    return visit.page("account.html", alert=None, least=MIN_CHARACTERS)


async def change_password(visit: Visit) -> Response:
    """Change one's own password, which takes the old one. All sessions end, this one too."""
    address = visit.request.client.host if visit.request.client else ""
    try:
        await visit.hash(visit.desk.operators.check, visit.name, visit.form.get("old", ""), address=address)
        require_same(visit.form)
        await visit.hash(visit.desk.operators.set_password, visit.name, visit.form.get("new", ""))
    except BlindAIError as error:
        answer = visit.page("account.html", status=status_of_refusal(error), alert=error, least=MIN_CHARACTERS)
        answer.headers.update(headers_of_refusal(error))
        return answer
    _log.info("password_changed", operator=visit.name, by=visit.name)
    answer = see(SIGN_IN + "?done=password")
    delete_cookie(answer, COOKIE)
    return answer


async def operators_page(visit: Visit) -> Response:
    """All accounts."""
    return await _operators(visit)


async def add_operator(visit: Visit) -> Response:
    """Make an account."""
    try:
        role = _role(visit.form.get("role", ""))
        require_same(visit.form)
        await visit.hash(visit.desk.operators.add, visit.form.get("name", ""), role, visit.form.get("new", ""))
    except BlindAIError as error:
        return await _operators(visit, alert=error)
    _log.info("operator_added", operator=visit.form.get("name", ""), role=role.value, by=visit.name)
    return see("/operators?done=added")


async def set_password(visit: Visit) -> Response:
    """Give an account another password."""
    try:
        require_same(visit.form)
        await visit.hash(visit.desk.operators.set_password, visit.part("name"), visit.form.get("new", ""))
    except BlindAIError as error:
        return await _operators(visit, alert=error)
    _log.info("password_changed", operator=visit.part("name"), by=visit.name)
    return see("/operators?done=password")


async def disable(visit: Visit) -> Response:
    """Shut an account."""
    try:
        await visit.ask(visit.desk.operators.disable, visit.part("name"))
    except BlindAIError as error:
        return await _operators(visit, alert=error)
    _log.info("operator_disabled", operator=visit.part("name"), by=visit.name)
    return see("/operators?done=disabled")


async def enable(visit: Visit) -> Response:
    """Open an account again."""
    try:
        await visit.ask(visit.desk.operators.enable, visit.part("name"))
    except BlindAIError as error:
        return await _operators(visit, alert=error)
    _log.info("operator_enabled", operator=visit.part("name"), by=visit.name)
    return see("/operators?done=enabled")


async def _operators(visit: Visit, *, alert: BlindAIError | None = None) -> Response:
    return visit.page(
        "operators.html",
        status=200 if alert is None else status_of_refusal(alert),
        operators=await visit.ask(visit.desk.operators.all),
        roles=list(Role),
        least=MIN_CHARACTERS,
        alert=alert,
        done=DONE.get(visit.request.query_params.get("done", "")),
        given=visit.form,
    )


def _sign_in_form(visit: Visit, *, next_page: str, name: str = "", alert: BlindAIError | None = None) -> Response:
    cookie = visit.cookie or csrf.visitor()
    answer = visit.desk.pages.page(
        "sign_in.html",
        status=200 if alert is None else status_of_refusal(alert),
        csrf=csrf.token(cookie),
        next_page=next_page,
        name=name,
        alert=alert,
        done=DONE["password"] if visit.request.query_params.get("done") == "password" else None,
        now=visit.desk.now(),
        public_key=visit.desk.public_key,
        operator=None,
    )
    if alert is not None:
        answer.headers.update(headers_of_refusal(alert))
    if not visit.cookie:
        answer.set_cookie(csrf.VISITOR_COOKIE, cookie, path="/", secure=True, httponly=True, samesite="strict")
    return answer


def _role(value: str) -> Role:
    try:
        return Role(value)
    except ValueError as error:
        raise InvalidInput("choose one of the roles", code="operator.unknown_role") from error
