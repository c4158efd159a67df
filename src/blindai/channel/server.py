"""The server's end of attested TLS: an asyncio protocol that hands plaintext on once the gate is open."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, cast

import httptools
import structlog

from blindai.channel import gate
from blindai.channel.end import AttestedEnd, GateRefusal
from blindai.channel.tls import TLSFailure, TLSPipe
from blindai.errors import BlindAIError

# From the first byte to the open gate: two round trips and one quote. A TDX quote takes tens of milliseconds.
GATE_SECONDS = 10.0

# One fresh gate after a refused resumed one, and one to spare.
MAX_GATE_REQUESTS = 3

# What is queued when a connection ends still goes out; a peer that takes nothing of it for this long is cut. So is one
# that has been refused and goes on sending.
LINGER_SECONDS = 5.0

_TLS_HANDSHAKE_RECORD = 0x16  # RFC 8446, section 5.1

_log = structlog.get_logger("blindai.channel")


class _State(Enum):
    SILENT = auto()  # nothing was received yet
    HANDSHAKE = auto()
    GATE = auto()
    ANSWERING = auto()
    OPEN = auto()
    CLOSED = auto()


class AttestedProtocol(asyncio.Protocol):
    """TLS 1.3, then the gate, then `inner_factory()`'s protocol on the plaintext. Nothing gets past a shut gate."""

    def __init__(
        self, end: AttestedEnd, inner_factory: Callable[[], asyncio.Protocol], waiting: set[AttestedProtocol]
    ) -> None:
        """`waiting` holds this protocol for as long as its gate is shut."""
        self._end = end
        self._waiting = waiting
        self._inner_factory = inner_factory
        self._inner: asyncio.Protocol | None = None
        self._identity = end.identity()
        self._pipe = TLSPipe(self._identity.context, server=True)
        self._state = _State.SILENT
        self._reader = _GateReader()
        self._gate_requests = 0
        self._pumping = False
        self._reading = True
        self._lost = False
        self._answering: asyncio.Future[bytes] | None = None

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface of asyncio's without descending from it.
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(GATE_SECONDS, self._too_slow)
        self._waiting.add(self)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.CLOSED:
            return
        if self._state is _State.SILENT:
            if data[0] != _TLS_HANDSHAKE_RECORD:
                self._refuse_plain(data)
                return
            self._state = _State.HANDSHAKE
        self._pipe.feed(data)
        try:
            if self._state is _State.HANDSHAKE:
                if not self._pipe.handshake():
                    self._flush()
                    return
                self._state = _State.GATE
            self._pump()
        except TLSFailure as error:
            _log.info("tls_refused", reason=error.reason)
            self.abandon()

    def eof_received(self) -> bool:
        self.finish()
        return False

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = _State.CLOSED
        self._lost = True
        self._deadline.cancel()
        self._waiting.discard(self)
        if self._answering is not None:
            self._answering.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    # The transport of the inner protocol calls these.

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send plaintext of the inner protocol."""
        if self._state is _State.CLOSED:
            return
        try:
            self._pipe.write(data)
        except TLSFailure:
            self.abandon()
            return
        self._flush()

    def pause_reading(self) -> None:
        self._reading = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading or self._state is _State.CLOSED:
            return
        self._reading = True
        self._transport.resume_reading()
        # Records that had arrived before the pause wait inside the pipe.
        asyncio.get_running_loop().call_soon(self._pump_waiting)

    def finish(self) -> None:
        """Close in good order: what is queued goes out, then close_notify."""
        if self._state is _State.CLOSED:
            return
        self._state = _State.CLOSED
        if self._pipe.established:
            self._pipe.close()
        self._flush()
        self._end_soon()

    def abandon(self) -> None:
        """Close without a word, but for an alert that TLS itself has queued."""
        if self._state is not _State.CLOSED:
            self._state = _State.CLOSED
            self._flush()
            self._end_soon()

    def abort(self) -> None:
        """Cut the connection now, whatever is queued."""
        self._state = _State.CLOSED
        if not self._lost:  # asyncio fails on a second end
            self._transport.abort()

    # The steps.

    def _end_soon(self) -> None:
        self._transport.close()
        self._deadline.cancel()
        self._linger(self._transport.get_write_buffer_size())

    def _part(self) -> None:
        """End a connection that was refused, but discard for a while what the peer still sends.

        Closing at once would reset the connection, which could destroy the refusal before the peer has read it
        (RFC 9112, section 9.6).
        """
        self._deadline.cancel()
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._deadline = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)

    def _linger(self, queued: int) -> None:
        self._deadline = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._cut_if_stuck, queued)

    def _cut_if_stuck(self, queued_before: int) -> None:
        queued = self._transport.get_write_buffer_size()
        if queued < queued_before:
            self._linger(queued)
        else:
            self._transport.abort()

    def _flush(self) -> None:
        if outgoing := self._pipe.outgoing():
            self._transport.write(outgoing)

    def _pump_waiting(self) -> None:
        try:
            self._pump()
        except TLSFailure as error:
            _log.info("tls_refused", reason=error.reason)
            self.abandon()

    def _pump(self) -> None:
        """Hand on plaintext until there is no more, or whoever takes it wants a pause."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._reading and self._state is not _State.CLOSED:
                plaintext = self._pipe.read()
                if plaintext is None:
                    break
                if not plaintext:
                    self.finish()
                    return
                if self._inner is not None:
                    self._inner.data_received(plaintext)
                else:
                    self._gate_received(plaintext)
        finally:
            self._pumping = False
        # The handshake's last flight, and answers of TLS itself such as key updates.
        if self._state is not _State.CLOSED:
            self._flush()

    def _gate_received(self, plaintext: bytes) -> None:
        try:
            if self._state is _State.ANSWERING:
                raise GateRefusal(400, "gate.pipelined", "nothing may be sent before the gate has answered")
            body = self._reader.feed(plaintext)
            if body is None:
                return
            self._gate_requests += 1
            if self._gate_requests > MAX_GATE_REQUESTS:
                raise GateRefusal(429, "gate.attempts", "too many gate requests on one connection")
        except GateRefusal as refusal:
            self._gate_refused(refusal)
            return
        self._state = _State.ANSWERING
        try:
            answer = self._end.answer(body, self._pipe, self._identity)
        except (GateRefusal, BlindAIError) as error:
            self._answer_failed(error)
            return
        if isinstance(answer, bytes):
            self._answered(answer)
        else:
            self._answering = answer
            answer.add_done_callback(self._evidence_ready)

    def _evidence_ready(self, answer: asyncio.Future[bytes]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if self._state is not _State.ANSWERING:
            return  # the connection has ended meanwhile
        if error is None:
            self._answered(answer.result())
        else:
            self._answer_failed(error)

    def _answered(self, answer: bytes) -> None:
        self.send(_http_answer(200, answer, keep_alive=True))
        self._open()

    def _answer_failed(self, error: BaseException) -> None:
        if isinstance(error, GateRefusal):
            self._gate_refused(error)
            return
        _log.error("attester_failed", code=getattr(error, "code", "internal"), exc_info=error)
        self._gate_refused(GateRefusal(503, "gate.no_evidence", "the enclave could not obtain evidence"))

    def _open(self) -> None:
        self._state = _State.OPEN
        self._deadline.cancel()
        self._waiting.discard(self)
        self._answering = None
        self._inner = self._inner_factory()
        self._inner.connection_made(PlaintextTransport(self, self._transport))
        self._pump_waiting()

    def _gate_refused(self, refusal: GateRefusal) -> None:
        self.send(_http_answer(refusal.status, refusal.body, keep_alive=not refusal.fatal))
        if refusal.fatal:
            self._state = _State.CLOSED
            self._pipe.close()
            self._flush()
            self._part()
        else:
            self._state = _State.GATE
            self._reader = _GateReader()

    def _refuse_plain(self, data: bytes) -> None:
        """No TLS on a TLS port: an HTTP client gets words, anything else gets nothing."""
        self._state = _State.CLOSED
        if data[:1].isalpha():
            problem = gate.GateProblem(error="this port speaks attested TLS only: use https", code="channel.plain_http")
            self._transport.write(_http_answer(400, gate.encoder.encode(problem), keep_alive=False))
            self._part()
        else:
            self._end_soon()

    def _too_slow(self) -> None:
        _log.info("gate_timeout", state=self._state.name)
        self.abandon()


class AttestedProtocols:
    """Makes the protocol of each connection of one attested end, and knows which of them have a shut gate."""

    def __init__(self, end: AttestedEnd) -> None:
        self._end = end
        self._waiting: set[AttestedProtocol] = set()

    def __call__(self, inner_factory: Callable[[], asyncio.Protocol]) -> AttestedProtocol:
        return AttestedProtocol(self._end, inner_factory, self._waiting)

    def close(self) -> None:
        """Cut the connections whose gate is shut; those past it belong to the inner protocol."""
        for protocol in list(self._waiting):
            protocol.abort()


class PlaintextTransport(asyncio.Transport):
    """What the inner protocol writes to: an asyncio transport whose other side is the TLS connection."""

    def __init__(self, outer: AttestedProtocol, lower: asyncio.Transport) -> None:
        super().__init__()
        self._outer = outer
        self._lower = lower
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # Servers ask for this only to learn that the scheme is https.
        return True if name == "sslcontext" else self._lower.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._outer.send(data)

    def is_closing(self) -> bool:
        return self._closing or self._lower.is_closing()

    def close(self) -> None:
        self._closing = True
        self._outer.finish()

    def abort(self) -> None:
        self._closing = True
        self._outer.abort()

    def pause_reading(self) -> None:
        self._outer.pause_reading()

    def resume_reading(self) -> None:
        self._outer.resume_reading()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self._lower.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._lower.set_write_buffer_limits(high, low)


class _GateReader:
    """Reads exactly one gate request; anything else is refused before it is looked at."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head_bytes = 0
        self._in_body = False
        self._body = b""
        self._complete = False
        self._refusal: GateRefusal | None = None

    def feed(self, data: bytes) -> bytes | None:
        """The body of the request, once it is complete.

        Raises:
            GateRefusal: this is not a gate request, or more than one.
        """
        in_head = not self._in_body
        if in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise self._refusal or GateRefusal(400, "gate.http", "this is not an HTTP/1.1 request") from error
        # The body may have come with the end of the head.
        if in_head and self._head_bytes > gate.MAX_REQUEST_HEAD_BYTES + gate.MAX_REQUEST_BODY_BYTES:
            raise GateRefusal(431, "gate.too_large", "the head of a gate request is a few short lines")
        return self._body if self._complete else None

    @staticmethod
    def _required() -> GateRefusal:
        return GateRefusal(
            403, "gate.required", f"nothing is served before the gate is open: POST {gate.GATE_PATH} first"
        )

    def _refuse(self, refusal: GateRefusal) -> None:
        # httptools wraps what its callbacks raise, so the reason is kept here.
        self._refusal = refusal
        raise refusal

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self._complete:
            self._refuse(GateRefusal(400, "gate.pipelined", "nothing may be sent before the gate has answered"))

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        self._in_body = True
        if self._parser.get_method() != b"POST" or self._url != gate.GATE_PATH.encode():
            self._refuse(self._required())

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > gate.MAX_REQUEST_BODY_BYTES:
            self._refuse(GateRefusal(413, "gate.too_large", "a gate request is one short JSON object"))

    def on_message_complete(self) -> None:
        self._complete = True


def _http_answer(status: int, body: bytes, *, keep_alive: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("ascii") + body
