"""The operators' web program: addresses to pages, and the checks that stand before every one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from blindai.custody.dashboard import accounts, decisions, leases, logs
from blindai.custody.dashboard.changes import Changes
from blindai.custody.dashboard.visit import Desk, Visit, status_of_refusal
from blindai.custody.dashboard.wording import Wording
from blindai.custody.operators import Action, Operator, Operators
from blindai.errors import BlindAIError
from blindai.web import csrf
from blindai.web.assets import PREFIX, Assets
from blindai.web.forms import headers_of_refusal, read_form
from blindai.web.pages import Pages, SecurityHeaders
from blindai.web.sessions import COOKIE

if TYPE_CHECKING:
    from starlette.requests import Request

    from blindai.custody.ledger import Ledger

_FOLDER: Final = Path(__file__).parent

Handler = Callable[[Visit], Awaitable[Response]]


class Address(NamedTuple):
    """One route.

    Attributes:
        action: what the operator must be allowed to do; None where everybody who is signed in may.
    """

    method: str
    path: str
    handler: Handler
    action: Action | None


_LEASE: Final = "/leases/{lease}"
_REQUEST: Final = _LEASE + "/requests/{request}"
_PROPOSAL: Final = _LEASE + "/proposals/{proposal}"
_CONSUMER: Final = _LEASE + "/consumers/{consumer}"

# The pages that need no sign-in.
OPEN: Final = (
    Address("GET", "/sign-in", accounts.sign_in_page, None),
    Address("POST", "/sign-in", accounts.sign_in, None),
)

ADDRESSES: Final = (
    Address("GET", "/", leases.home, None),
    Address("POST", "/sign-out", accounts.sign_out, None),
    Address("GET", "/account", accounts.account_page, None),
    Address("POST", "/account/password", accounts.change_password, None),
    Address("GET", "/leases", leases.all_leases, Action.VIEW),
    Address("GET", "/leases/changes", leases.all_changes, Action.VIEW),
    Address("GET", _LEASE, leases.one_lease, Action.VIEW),
    Address("GET", _LEASE + "/changes", leases.changes, Action.VIEW),
    Address("GET", _LEASE + "/usage", leases.usage, Action.VIEW),
    Address("GET", _LEASE + "/stop", decisions.stop_page, Action.STOP),
    Address("POST", _LEASE + "/stop", decisions.stop, Action.STOP),
    Address("GET", _LEASE + "/pause", decisions.pause_page, Action.STOP),
    Address("POST", _LEASE + "/pause", decisions.pause, Action.STOP),
    Address("GET", _LEASE + "/resume", decisions.resume_page, Action.RESUME),
    Address("POST", _LEASE + "/resume", decisions.resume, Action.RESUME),
    Address("POST", _LEASE + "/raise", decisions.raise_budget, Action.DECIDE),
    Address("POST", _REQUEST + "/approve", decisions.approve, Action.DECIDE),
    Address("POST", _REQUEST + "/deny", decisions.deny, Action.DECIDE),
    Address("POST", _PROPOSAL + "/agree", decisions.agree, Action.DECIDE),
    Address("POST", _PROPOSAL + "/withdraw", decisions.withdraw, Action.DECIDE),
    Address("POST", _LEASE + "/consumers", decisions.add_consumer, Action.CONSUMERS),
    Address("POST", _CONSUMER + "/token", decisions.issue_token, Action.CONSUMERS),
    Address("GET", _CONSUMER + "/revoke", decisions.revoke_page, Action.CONSUMERS),
    Address("POST", _CONSUMER + "/revoke", decisions.revoke, Action.CONSUMERS),
    Address("GET", _LEASE + "/log", logs.entries, Action.VIEW),
    Address("POST", _LEASE + "/log/verify", logs.verify, Action.VIEW),
    Address("GET", _LEASE + "/log/export", logs.export, Action.VIEW),
    Address("GET", "/operators", accounts.operators_page, Action.OPERATORS),
    Address("POST", "/operators", accounts.add_operator, Action.OPERATORS),
    Address("POST", "/operators/{name}/password", accounts.set_password, Action.OPERATORS),
    Address("POST", "/operators/{name}/disable", accounts.disable, Action.OPERATORS),
    Address("POST", "/operators/{name}/enable", accounts.enable, Action.OPERATORS),
)


def application(
    ledger: Ledger,
    operators: Operators,
    *,
    public_key: str,
    wake: Callable[[], None] = lambda: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Starlette:
    """The ASGI application of the operators' port. It must be served by TLS: browsers take its cookies only then.

    Before the server stops, `state.changes.close()` ends the streams of the pages that are open.

    Args:
        public_key: the custodian's (Ed25519, hex), which signs the logs.
        wake: called after every change of a lease that was made here.
        now: the wall clock, in UTC, for people to read.

    Raises:
        ConfigurationError: `configuration.assets_missing`.
    """
    assets = Assets.load(_FOLDER / "static")
    pages = Pages(assets, _FOLDER / "templates", filters=Wording(now).filters, names={"Action": Action})
    desk = Desk(
        ledger=ledger,
        operators=operators,
        pages=pages,
        changes=Changes(partial(run_in_threadpool, ledger.entries)),
        public_key=public_key,
        now=now,
        wake=wake,
    )
    routes = [
        *(Route(one.path, partial(_visit_unknown, desk, one), methods=[one.method]) for one in OPEN),
        *(Route(one.path, partial(_visit, desk, one), methods=[one.method]) for one in ADDRESSES),
        Route(PREFIX + "{name}", assets.serve, methods=["GET"]),
    ]

    nobody: dict[str, Any] = {"operator": None, "csrf": "", "public_key": public_key}

    async def refused(_request: Request, error: Exception) -> Response:
        if isinstance(error, BlindAIError):
            answer = pages.error(error, status=status_of_refusal(error), **nobody)
            answer.headers.update(headers_of_refusal(error))
            return answer
        status = error.status_code if isinstance(error, HTTPException) else 500
        answer = pages.error(HTTPStatus(status), status=status, **nobody)
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})
        return answer

    handlers: dict[Any, Any] = {BlindAIError: refused, HTTPException: refused}
    made = Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(SecurityHeaders)])
    made.state.changes = desk.changes
    return made


async def _visit_unknown(desk: Desk, address: Address, request: Request) -> Response:
    """Answer a page that needs no sign-in."""
    form: dict[str, str] = {}
    cookie = request.cookies.get(csrf.VISITOR_COOKIE, "")
    if address.method not in csrf.SAFE_METHODS:
        csrf.require_same_origin(request.headers, scheme=request.url.scheme)
        form = await read_form(request)
        csrf.require_token(form.get(csrf.FIELD, ""), cookie=cookie)
    return await address.handler(Visit(desk=desk, request=request, operator=None, cookie=cookie, form=form))


async def _visit(desk: Desk, address: Address, request: Request) -> Response:
    """Answer a page that needs a sign-in: origin, session, token and role are checked, in this order."""
    unsafe = address.method not in csrf.SAFE_METHODS
    if unsafe:
        csrf.require_same_origin(request.headers, scheme=request.url.scheme)
    cookie = request.cookies.get(COOKIE, "")
    operator = await _signed_in(desk, request, cookie)
    if operator is None:
        return accounts.ask_to_sign_in(request)
    form: dict[str, str] = {}
    if unsafe:
        form = await read_form(request)
        csrf.require_token(form.get(csrf.FIELD, ""), cookie=cookie)
    if address.action is not None:
        operator.require(address.action)
    return await address.handler(Visit(desk=desk, request=request, operator=operator, cookie=cookie, form=form))


async def _signed_in(desk: Desk, request: Request, cookie: str) -> Operator | None:
    if not cookie:
        return None
    # A page that refreshes itself is no sign that somebody sits before it: only what people do keeps a session alive.
    by_hand = "hx-request" not in request.headers and "text/event-stream" not in request.headers.get("accept", "")
    return await run_in_threadpool(desk.operators.signed_in, cookie, noted=by_hand)
