"""The program behind the addresses: it looks for who calls, lets the handler answer, and says refusals as problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from blindai.cloud.api.address import Address
from blindai.cloud.api.addresses import ADDRESSES
from blindai.cloud.api.call import Call, refused, token_of
from blindai.cloud.api.rates import Rates
from blindai.errors import BlindAIError, InvalidInput
from blindai.web.forms import headers_of_refusal
from blindai.wire.cloud_api import PREFIX
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from blindai.cloud.control_plane import ControlPlane

# RFC 6750, section 3.
_CHALLENGE: Final = {"www-authenticate": "Bearer"}


def routes(plane: ControlPlane) -> list[BaseRoute]:
    """Everything below `PREFIX`, whatever is asked there."""
    rates = Rates()
    made = Starlette(
        routes=[
            Route(path, partial(_answered, plane, rates, {one.method: one for one in there}), methods=methods)
            for path, there in _by_path(ADDRESSES)
            for methods in [[one.method for one in there]]
        ],
        exception_handlers={BlindAIError: _problem, HTTPException: _http_problem},
    )
    made.router.redirect_slashes = False
    mount = Mount(PREFIX, made)
    # As Starlette compiles it, a path with a line end in it would be somebody else's.
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return [mount]


def _by_path(addresses: Iterable[Address]) -> list[tuple[str, list[Address]]]:
    """One route has all methods of a path: what is none of them is answered with all that are."""
    return [(path, list(there)) for path, there in groupby(addresses, key=lambda one: one.path)]


async def _answered(plane: ControlPlane, rates: Rates, there: Mapping[str, Address], request: Request) -> Response:
    address = there["GET" if request.method == "HEAD" else request.method]
    place = request.client.host if request.client is not None else ""
    rates.take(place)
    call = Call(plane=plane, request=request, address=place)
    if not address.open:
        token = token_of(request)
        user = await call.ask(plane.people.user_of_token, token)
        if user is None:
            raise refused()
        call = Call(plane=plane, request=request, address=place, token=token, user=user)
    answer = await address.handler(call)
    if address.answer is None:
        return Response(status_code=address.status)
    return Response(msgspec.json.encode(answer), address.status, media_type=CONTENT_TYPE)


async def _problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, BlindAIError):  # pragma: no cover - Starlette calls this for no other
        raise error
    status = status_of(error)
    headers = headers_of_refusal(error) | (_CHALLENGE if status == 401 else {})
    return Response(problem_body(error), status, headers, media_type=CONTENT_TYPE)


async def _http_problem(request: Request, error: Exception) -> Response:
    allowed = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
    if allowed is None:
        return await _problem(request, InvalidInput("there is nothing at this address", code="http.not_found"))
    answer = await _problem(request, InvalidInput("this is not done with that method", code="http.method"))
    answer.headers["allow"] = allowed
    return answer
