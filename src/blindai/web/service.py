"""What programs that enclaves call share, behind the gate at which those attested themselves.

Whatever a message holds stays out of the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from blindai.errors import BlindAIError, InvalidInput
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from blindai.channel.receiving import Caller

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
Message = TypeVar("Message", bound=msgspec.Struct)


def service(
    name: str, handlers: Mapping[str, Handler], *, log: FilteringBoundLogger, about: Callable[[Caller], dict[str, str]]
) -> Starlette:
    """An application for enclaves.

    Args:
        name: of the program, in words.
        handlers: what answers a POST, by path.
        log: where refusals are noted.
        about: what it says of who was refused.
    """

    async def problem(request: Request, error: Exception) -> Response:
        if not isinstance(error, BlindAIError):  # pragma: no cover - Starlette calls this for no other
            raise error
        # A path that is none of ours may hold anything.
        path = request.url.path if request.url.path in handlers else ""
        log.info("refused", code=error.code, **about(caller_of(request)), path=path)
        return Response(problem_body(error), status_of(error), media_type=CONTENT_TYPE)

    async def http_problem(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return await problem(request, InvalidInput("this is asked with POST", code="http.method"))
        return await problem(request, InvalidInput(f"a {name} is not asked this", code="http.not_found"))

    async def gone(_: Request, __: Exception) -> Response:
        """For who went away, or was refused, in the middle of a message: nobody reads it."""
        return Response(status_code=400)

    async def incident(request: Request, _: Exception) -> Response:
        """For what Starlette raises again afterwards, so that it comes to the log."""
        return await problem(request, BlindAIError(f"the {name} failed; its log says why", code="internal"))

    application = Starlette(
        routes=[Route(path, handler, methods=["POST"]) for path, handler in handlers.items()],
        exception_handlers={
            BlindAIError: problem,
            HTTPException: http_problem,
            ClientDisconnect: gone,
            Exception: incident,
        },
    )
    application.router.redirect_slashes = False
    return application


async def message_of(request: Request, kind: type[Message]) -> Message:
    """What was sent.

    Raises:
        InvalidInput: `input.message`.
    """
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is no {kind.__name__}: {error}", code="input.message") from error


def caller_of(request: Request) -> Caller:
    """Who was attested on the connection."""
    caller: Caller = request.state.caller
    return caller


def answer(value: Any) -> Response:
    """A message, in JSON."""
    return Response(msgspec.json.encode(value), media_type=CONTENT_TYPE)
