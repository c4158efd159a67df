"""What enclaves may ask of their control plane, behind the gate at which they attested themselves (`wire.cloud`).

Whatever comes here was sent by an enclave that runs code of the policy, over a connection of its own. All the same it
speaks for itself alone, and is read strictly. What a message holds stays out of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from blindai.errors import BlindAIError, InvalidInput
from blindai.web.http import HttpLimits
from blindai.wire import cloud as wire
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from blindai.channel.receiving import Caller
    from blindai.cloud.fleet import Fleet
    from blindai.web.calls import DatabaseCalls

# An enclave has two connections: one for questions, which nobody may wait for, and one for reports.
LIMITS: Final = HttpLimits(max_connections=4096, max_body_bytes=wire.MAX_MESSAGE_BYTES)

_PATHS: Final = frozenset({wire.AUTHORISATIONS, wire.REPORTS})

_log = structlog.get_logger("blindai.cloud")

Message = TypeVar("Message", wire.AuthorisationRequest, wire.Report)


class EnclaveService:
    """The two requests.

    Args:
        fleet: what is asked.
        questions, reports: where calls run. A question only reads: it must not wait behind reports that wait to write.
    """

    def __init__(self, fleet: Fleet, *, questions: DatabaseCalls, reports: DatabaseCalls) -> None:
        self._fleet = fleet
        self._questions = questions
        self._reports = reports
        self.application = Starlette(
            routes=[
                Route(wire.AUTHORISATIONS, self._authorise, methods=["POST"]),
                Route(wire.REPORTS, self._report, methods=["POST"]),
            ],
            exception_handlers={
                BlindAIError: _problem,
                HTTPException: _http_problem,
                ClientDisconnect: _gone,
                Exception: _incident,
            },
        )
        self.application.router.redirect_slashes = False

    async def _authorise(self, request: Request) -> Response:
        message = await _read(request, wire.AuthorisationRequest)
        return _answer(await self._questions(self._fleet.authorise, _caller(request).instance, message))

    async def _report(self, request: Request) -> Response:
        message = await _read(request, wire.Report)
        return _answer(await self._reports(self._fleet.report, _caller(request).instance, message))


async def _read(request: Request, kind: type[Message]) -> Message:
    """The message of a request.

    Raises:
        InvalidInput: `input.message`.
    """
    try:
        message = msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is no {kind.__name__}: {error}", code="input.message") from error
    _log.debug("asked", what=kind.__name__, instance=_caller(request).instance)
    return message


def _caller(request: Request) -> Caller:
    """Who was attested on the connection."""
    caller: Caller = request.state.caller
    return caller


def _answer(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type=CONTENT_TYPE)


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, BlindAIError):  # pragma: no cover - Starlette calls this for no other
        raise error
    # A path that is none of ours may hold anything.
    path = request.url.path if request.url.path in _PATHS else ""
    _log.info("refused", code=error.code, instance=_caller(request).instance, path=path)
    return Response(problem_body(error), status_of(error), media_type=CONTENT_TYPE)


async def _http_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return await _problem(request, InvalidInput("this is asked with POST", code="http.method"))
    return await _problem(request, InvalidInput("a control plane is not asked this", code="http.not_found"))


async def _gone(_: Request, __: Exception) -> Response:
    """For who went away, or was refused, in the middle of a message: nobody reads it."""
    return Response(status_code=400)


async def _incident(request: Request, _: Exception) -> Response:
    """For what Starlette raises again afterwards, so that it comes to the log."""
    return await _problem(request, BlindAIError("the control plane failed; its log says why", code="internal"))
