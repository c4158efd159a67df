"""What enclaves may ask of their control plane, behind the gate at which they attested themselves (`wire.cloud`).

Whatever comes here was sent by an enclave that runs code of the policy, over a connection of its own. All the same it
speaks for itself alone, and is read strictly. What a message holds stays out of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from blindai.web.http import HttpLimits
from blindai.web.service import answer, caller_of, message_of, service
from blindai.wire import cloud as wire

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from blindai.cloud.fleet import Fleet
    from blindai.web.calls import DatabaseCalls

# An enclave has two connections: one for questions, which nobody may wait for, and one for reports.
LIMITS: Final = HttpLimits(max_connections=4096, max_body_bytes=wire.MAX_MESSAGE_BYTES)

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
        self.application = service(
            "control plane",
            {wire.AUTHORISATIONS: self._authorise, wire.REPORTS: self._report},
            log=_log,
            about=lambda caller: {"instance": caller.instance},
        )

    async def _authorise(self, request: Request) -> Response:
        message = await _read(request, wire.AuthorisationRequest)
        return answer(await self._questions(self._fleet.authorise, caller_of(request).instance, message))

    async def _report(self, request: Request) -> Response:
        message = await _read(request, wire.Report)
        return answer(await self._reports(self._fleet.report, caller_of(request).instance, message))


async def _read(request: Request, kind: type[Message]) -> Message:
    """The message of a request.

    Raises:
        InvalidInput: `input.message`.
    """
    message = await message_of(request, kind)
    _log.debug("asked", what=kind.__name__, instance=caller_of(request).instance)
    return message
