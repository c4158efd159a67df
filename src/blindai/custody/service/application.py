"""What enclaves may ask of their custodian, behind the gate at which they attested themselves (`wire.custody`).

Whatever comes here was sent by an enclave that runs code of the lease's policy, over a connection of its own. All the
same it is held to its own lease and its own instance, and read strictly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from starlette.responses import Response, StreamingResponse

from blindai.custody.service.artefacts import Artefact, Artefacts
from blindai.errors import InvalidInput, PermissionDenied
from blindai.web.http import HttpLimits
from blindai.web.service import answer, caller_of, message_of, service
from blindai.wire import custody as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from blindai.custody.ledger import Ledger
    from blindai.custody.watching import Watches
    from blindai.web.calls import DatabaseCalls

# An instance has two connections, one of which waits for changes.
LIMITS: Final = HttpLimits(max_connections=4096, max_body_bytes=wire.MAX_MESSAGE_BYTES)

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
        self.application = service(
            "custodian",
            {
                wire.RENEWALS: self._renew,
                wire.WATCHES: self._watch,
                wire.BUDGET_REQUESTS: self._request_budget,
                wire.CLOSINGS: self._close,
                wire.ARTEFACTS: self._artefact,
            },
            log=_log,
            about=lambda caller: {"lease": caller.audience, "instance": caller.instance},
        )

    async def _renew(self, request: Request) -> Response:
        message = await _read(request, wire.Renewal)
        return answer(await self._calls(self._ledger.renew, message))

    async def _watch(self, request: Request) -> Response:
        message = await _read(request, wire.Watch)
        if message.applied:
            await self._calls(self._ledger.acknowledge, message.lease, message.instance, message.applied)
        await self._watches.changed(message.lease, message.known, message.wait_ms / 1000)
        return answer(await self._calls(self._ledger.status, message.lease, message.instance))

    async def _request_budget(self, request: Request) -> Response:
        message = await _read(request, wire.BudgetRequest)
        return answer(await self._calls(self._ledger.request_budget, message))

    async def _close(self, request: Request) -> Response:
        message = await _read(request, wire.Closing)
        return answer(await self._calls(self._ledger.close, message))

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
    caller, message = caller_of(request), await message_of(request, kind)
    if message.v != wire.VERSION:
        raise InvalidInput(f"this custodian speaks version {wire.VERSION}, not {message.v}", code="input.version")
    if message.lease != caller.audience:
        raise PermissionDenied("the gate of this connection was opened for another lease", code="lease.foreign")
    if not isinstance(message, wire.ArtefactRange) and message.instance != caller.instance:
        raise PermissionDenied("the gate of this connection was opened for another instance", code="lease.instance")
    # What a message holds stays out of the log: it is signed and stored where it counts.
    _log.debug("asked", what=kind.__name__, lease=caller.audience, instance=caller.instance)
    return message
