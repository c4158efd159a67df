"""The console: addresses to pages, and the checks that stand before every one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from blindai.cloud.accounts import Action
from blindai.cloud.console import (
    account,
    devices,
    fleet,
    keys,
    members,
    models,
    overview,
    playground,
    sign_in,
    sign_up,
    usage,
)
from blindai.cloud.console.phrases import FILTERS
from blindai.cloud.console.sign_in import ask_to_sign_in
from blindai.cloud.console.visit import Address, Desk, Visit, status_of_refusal
from blindai.errors import BlindAIError
from blindai.web import csrf
from blindai.web.assets import PREFIX, Assets
from blindai.web.forms import headers_of_refusal, read_form
from blindai.web.pages import Pages
from blindai.web.sessions import COOKIE
from blindai.web.wording import Wording

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from blindai.cloud.accounts import Membership
    from blindai.cloud.control_plane import ControlPlane
    from blindai.cloud.identity import User

_Visited = Callable[[Address, "Request"], Awaitable["Response"]]

_FOLDER: Final = Path(__file__).parent

_MODULES: Final = (overview, models, keys, usage, members, fleet, playground, account, devices, sign_in)

# The pages that need no sign-in.
OPEN: Final = (*sign_in.OPEN, *sign_up.OPEN)

ADDRESSES: Final = tuple(address for module in _MODULES for address in module.ADDRESSES)


class Console:
    """The pages of a control plane. They must be served by TLS: browsers take the cookies only then.

    Args:
        now: the wall clock, in UTC, for people to read.

    Attributes:
        routes: of the pages and of what they load.

    Raises:
        ConfigurationError: `configuration.assets_missing`.
    """

    def __init__(self, plane: ControlPlane, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        assets = Assets.load(_FOLDER / "static")
        pages = Pages(
            assets, _FOLDER / "templates", filters={**Wording(now).filters, **FILTERS}, names={"Action": Action}
        )
        self._desk = Desk(plane=plane, pages=pages, now=now)
        self.routes: list[BaseRoute] = [
            *(self._route(path, self._visit_unknown, there) for path, there in _by_path(OPEN)),
            *(self._route(path, self._visit, there) for path, there in _by_path(ADDRESSES)),
            Route(PREFIX + "{name}", assets.serve, methods=["GET"]),
        ]

    async def refused(self, request: Request, error: Exception) -> Response:
        """The page that says `error`, for whatever no page of its own answers: a handler of exceptions."""
        cookie = request.cookies.get(COOKIE, "")
        user = await run_in_threadpool(self._desk.plane.people.user_of, cookie) if cookie else None
        return self._error(error, **({} if user is None else await self._known(cookie, user)))

    def _route(self, path: str, visit: _Visited, there: dict[str, Address]) -> Route:
        """One route for all methods of a path, so that others are told which there are."""

        async def answer(request: Request) -> Response:
            return await visit(there["GET" if request.method == "HEAD" else request.method], request)

        return Route(path, answer, methods=list(there))

    async def _known(self, cookie: str, user: User) -> dict[str, Any]:
        """What every page shows to somebody who is signed in."""
        memberships = await run_in_threadpool(self._desk.plane.accounts.memberships, user.id)
        return {"csrf": csrf.token(cookie), "here": _own(memberships), "memberships": memberships, "user": user}

    def _error(self, error: Exception, **known: Any) -> Response:
        shown: dict[str, Any] = {
            "csrf": "",
            "here": "",
            "memberships": (),
            "role": None,
            "site": self._desk.plane.site,
            "user": None,
        } | known
        if isinstance(error, BlindAIError):
            answer = self._desk.pages.error(error, status=status_of_refusal(error), **shown)
            answer.headers.update(headers_of_refusal(error))
            return answer
        status = error.status_code if isinstance(error, HTTPException) else 500
        answer = self._desk.pages.error(HTTPStatus(status), status=status, **shown)
        if isinstance(error, HTTPException):
            answer.headers.update(error.headers or {})
        return answer

    async def _visit_unknown(self, address: Address, request: Request) -> Response:
        """Answer a page that needs no sign-in."""
        form: dict[str, str] = {}
        cookie = request.cookies.get(csrf.VISITOR_COOKIE, "")
        made = cookie or csrf.visitor()
        try:
            if address.method not in csrf.SAFE_METHODS:
                csrf.require_same_origin(request.headers, scheme=request.url.scheme)
                form = await read_form(request)
                csrf.require_token(form.get(csrf.FIELD, ""), cookie=cookie)
            answer = await address.handler(Visit(desk=self._desk, request=request, user=None, cookie=made, form=form))
        except BlindAIError as error:
            answer = self._error(error)
        else:
            if not cookie and address.method in csrf.SAFE_METHODS:
                answer.set_cookie(csrf.VISITOR_COOKIE, made, path="/", secure=True, httponly=True, samesite="strict")
        return answer

    async def _visit(self, address: Address, request: Request) -> Response:
        """Answer a page that needs a sign-in: origin, session, token and role are checked, in this order."""
        known: dict[str, Any] = {}
        try:
            unsafe = address.method not in csrf.SAFE_METHODS
            if unsafe:
                csrf.require_same_origin(request.headers, scheme=request.url.scheme)
            cookie = request.cookies.get(COOKIE, "")
            user = await run_in_threadpool(self._signed_in, request, cookie)
            if user is None:
                return ask_to_sign_in(self._desk, request)
            form: dict[str, str] = {}
            if unsafe:
                form = await read_form(request)
                csrf.require_token(form.get(csrf.FIELD, ""), cookie=cookie)
            known = await self._known(cookie, user)
            visit = Visit(
                desk=self._desk,
                request=request,
                user=user,
                cookie=cookie,
                form=form,
                memberships=known["memberships"],
                namespace=known["here"],
            )
            if address.action is not None:
                namespace = visit.part("namespace")
                role = await run_in_threadpool(self._desk.plane.accounts.require, user.id, namespace, address.action)
                known["here"] = namespace
                visit = visit.of(namespace, role)
            return await address.handler(visit)
        except BlindAIError as error:
            return self._error(error, **known)

    def _signed_in(self, request: Request, cookie: str) -> User | None:
        people = self._desk.plane.people
        user = people.user_of(cookie) if cookie else None
        # A page that refreshes itself is no sign that somebody sits before it: only what people do keeps a session
        # alive.
        if user is not None and "hx-request" not in request.headers:
            people.touch(cookie)
        return user


def _by_path(addresses: tuple[Address, ...]) -> list[tuple[str, dict[str, Address]]]:
    found: dict[str, dict[str, Address]] = {}
    for one in addresses:
        found.setdefault(one.path, {})[one.method] = one
    return list(found.items())


def _own(memberships: tuple[Membership, ...]) -> str:
    return next((one.namespace for one in memberships if one.kind == "personal"), "")
