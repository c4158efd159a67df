"""What enclaves may ask of their custodian, behind the gate at which they attested themselves (`wire.custody`).

Whatever comes here was sent by an enclave that runs code of the lease's policy, over a connection of its own. All the
same it is held to its own lease and its own instance, and read strictly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from blindai.custody.service.artefacts import Artefact, Artefacts
from blindai.errors import BlindAIError, InvalidInput, PermissionDenied
from blindai.web.http import HttpLimits
from blindai.wire import custody as wire
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from blindai.channel.receiving import Caller
    from blindai.custody.ledger import Ledger
    from blindai.custody.watching import Watches
    from blindai.web.calls import DatabaseCalls

# An instance has two connections, one of which waits for changes.
LIMITS: Final = HttpLimits(max_connections=4096, max_body_bytes=wire.MAX_MESSAGE_BYTES)

_PATHS: Final = frozenset({wire.RENEWALS, wire.WATCHES, wire.BUDGET_REQUESTS, wire.CLOSINGS, wire.ARTEFACTS})

_log = structlog.get_logger("blindai.custody")

# Of a sealed model, read and sent at a time: what a connection holds in memory, however slowly the other side reads.
PIECE_BYTES: Final = 1 << 20

Message = TypeVar("Message", wire.Renewal, wire.Watch, wire.BudgetRequest, wire.Closing, wire.ArtefactRange)


class EnclaveService:
    """The five requests.

    Args:
        ledger: what is asked.
        calls: where its calls run.
        watches: who is told of changes.
    """

    def __init__(self, ledger: Ledger, calls: DatabaseCalls, watches: Watches) -> None:
        self._ledger = ledger
        self._calls = calls
        self._watches = watches
        self._artefacts = Artefacts(ledger.artefact)
        self.application = Starlette(
            routes=[
                Route(wire.RENEWALS, self._renew, methods=["POST"]),
                Route(wire.WATCHES, self._watch, methods=["POST"]),
                Route(wire.BUDGET_REQUESTS, self._request_budget, methods=["POST"]),
                Route(wire.CLOSINGS, self._close, methods=["POST"]),
                Route(wire.ARTEFACTS, self._artefact, methods=["POST"]),
            ],
            exception_handlers={
                BlindAIError: _problem,
                HTTPException: _http_problem,
                ClientDisconnect: _gone,
                Exception: _incident,
            },
        )
        self.application.router.redirect_slashes = False

    async def _renew(self, request: Request) -> Response:
        message = await _read(request, wire.Renewal)
        return _answer(await self._calls(self._ledger.renew, message))

    async def _watch(self, request: Request) -> Response:
        message = await _read(request, wire.Watch)
        if message.applied:
            await self._calls(self._ledger.acknowledge, message.lease, message.instance, message.applied)
        await self._watches.changed(message.lease, message.known, message.wait_ms / 1000)
        return _answer(await self._calls(self._ledger.status, message.lease, message.instance))

    async def _request_budget(self, request: Request) -> Response:
        message = await _read(request, wire.BudgetRequest)
        return _answer(await self._calls(self._ledger.request_budget, message))

    async def _close(self, request: Request) -> Response:
        message = await _read(request, wire.Closing)
        return _answer(await self._calls(self._ledger.close, message))

    async def _artefact(self, request: Request) -> Response:
        message = await _read(request, wire.ArtefactRange)
        file = await self._calls(self._artefacts.open, message.lease)
        length = file.available(message.offset, message.length)
        return StreamingResponse(
            self._pieces(file, message.offset, length),
            media_type="application/octet-stream",
            headers={"content-length": str(length)},
        )

    async def _pieces(self, file: Artefact, offset: int, length: int) -> AsyncIterator[bytes]:
        while length:
            piece = await self._calls(file.read, offset, min(PIECE_BYTES, length))
            yield piece
            offset += len(piece)
            length -= len(piece)


async def _read(request: Request, kind: type[Message]) -> Message:
    """The message of a request, if it is about the lease and from the instance that the gate was opened for.

    Raises:
        InvalidInput: `input.message`, `input.version`.
        PermissionDenied: `lease.foreign`, `lease.instance`.
    """
    caller: Caller = request.state.caller
    try:
        message = msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"this is no {kind.__name__}: {error}", code="input.message") from error
    if message.v != wire.VERSION:
        raise InvalidInput(f"this custodian speaks version {wire.VERSION}, not {message.v}", code="input.version")
    if message.lease != caller.audience:
        raise PermissionDenied("the gate of this connection was opened for another lease", code="lease.foreign")
    if not isinstance(message, wire.ArtefactRange) and message.instance != caller.instance:
        raise PermissionDenied("the gate of this connection was opened for another instance", code="lease.instance")
    # What a message holds stays out of the log: it is signed and stored where it counts.
    _log.debug("asked", what=kind.__name__, lease=caller.audience, instance=caller.instance)
    return message


def _answer(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), media_type=CONTENT_TYPE)


async def _problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, BlindAIError):  # pragma: no cover - Starlette calls this for no other
        raise error
    caller: Caller = request.state.caller
    # A path that is none of ours may hold anything.
    path = request.url.path if request.url.path in _PATHS else ""
    _log.info("refused", code=error.code, lease=caller.audience, instance=caller.instance, path=path)
    return Response(problem_body(error), status_of(error), media_type=CONTENT_TYPE)


async def _http_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        return await _problem(request, InvalidInput("this is asked with POST", code="http.method"))
    return await _problem(request, InvalidInput("a custodian is not asked this", code="http.not_found"))


async def _gone(_: Request, __: Exception) -> Response:
    """For who went away, or was refused, in the middle of a message: nobody reads it."""
    return Response(status_code=400)


async def _incident(request: Request, _: Exception) -> Response:
    """For what Starlette raises again afterwards, so that it comes to the log."""
    return await _problem(request, BlindAIError("the custodian failed; its log says why", code="internal"))
