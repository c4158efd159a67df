"""The attested end as a TLS server: a protocol that makes evidence at its gate, then hands plaintext on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from blindai.channel import gate
from blindai.channel.end import AttestedEnd
from blindai.channel.gate import GateRefusal
from blindai.channel.gate_reader import GateReader
from blindai.channel.gated import GatedProtocol, GatedProtocols
from blindai.errors import BlindAIError

# A refused resumed gate, a fresh one that is told to bring a credential, the same with it, and one to spare. A refused
# credential ends the connection, an accepted one opens the gate: no connection has two of them opened.
MAX_GATE_REQUESTS = 4

_log = structlog.get_logger("blindai.channel")


class AttestedProtocol(GatedProtocol):
    """TLS 1.3, then the gate, then `inner_factory()`'s protocol on the plaintext."""

    def __init__(
        self, end: AttestedEnd, inner_factory: Callable[[], asyncio.Protocol], waiting: dict[GatedProtocol, None]
    ) -> None:
        self._end = end
        self._inner_factory = inner_factory
        self._identity = end.identity()
        super().__init__(self._identity.context, waiting, max_gate_requests=MAX_GATE_REQUESTS)

    def _new_reader(self) -> GateReader:
        return GateReader(gate.GATE_PATH, max_body_bytes=gate.MAX_REQUEST_BODY_BYTES)

    def _asked(self, body: bytes) -> None:
        try:
            answer = self._end.answer(body, self._pipe, self._identity)
        except (GateRefusal, BlindAIError) as error:
            self._answer_failed(error)
            return
        if isinstance(answer, bytes):
            self._opened(answer)
        else:
            self._when_ready(answer, self._opened)

    def _new_inner(self) -> asyncio.Protocol:
        return self._inner_factory()

    def _answer_failed(self, error: BaseException) -> None:
        if isinstance(error, GateRefusal):
            self._gate_refused(error)
            return
        self._gate_refused(GateRefusal(503, "gate.no_evidence", "the enclave could not obtain evidence"))
        _log.error("attester_failed", code=getattr(error, "code", "internal"), exc_info=error)


class AttestedProtocols(GatedProtocols):
    """Makes the protocol of each connection of one attested end."""

    def __init__(self, end: AttestedEnd) -> None:
        super().__init__()
        self._end = end

    def __call__(self, inner_factory: Callable[[], asyncio.Protocol]) -> AttestedProtocol:
        return AttestedProtocol(self._end, inner_factory, self._waiting)
