"""A connection that was accepted, with a gate that is shut at first: what both directions of attested TLS share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeVar, cast

import structlog

from blindai.channel import gate
from blindai.channel.gate import GateRefusal
from blindai.channel.gate_reader import GateReader, http_answer
from blindai.channel.plaintext import BulkProtocol, PlaintextTransport
from blindai.channel.tls import TLSFailure, TLSPipe
from blindai.wire.problems import ProblemBody

if TYPE_CHECKING:
    from OpenSSL import SSL

T = TypeVar("T")

# From the first byte to the open gate: two to four round trips and one quote. A TDX quote takes tens of milliseconds, a
# credential and a quote of a TPM on a chip of its own one second.
GATE_SECONDS = 10.0

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


class GatedProtocol(asyncio.Protocol, ABC):
    """TLS 1.3, then a gate, then another protocol on the plaintext. Nothing gets past a shut gate.

    A subclass knows what is asked at its gate. It answers each request with `_answered`, `_opened` or `_gate_refused`.
    """

    def __init__(self, context: SSL.Context, waiting: dict[GatedProtocol, None], *, max_gate_requests: int) -> None:
        """`waiting` holds this protocol for as long as its gate is shut, the oldest first."""
        self._waiting = waiting
        self._inner: asyncio.Protocol | None = None
        self._bulk: BulkProtocol | None = None
        self._pipe = TLSPipe(context, server=True)
        self._state = _State.SILENT
        self._reader = self._new_reader()
        self._gate_requests = 0
        self._max_gate_requests = max_gate_requests
        self._pumping = False
        self._reading = True
        self._lost = False
        self._answering: asyncio.Future[Any] | None = None

    # A subclass fills these in.

    @abstractmethod
    def _new_reader(self) -> GateReader:
        """A reader of the next request."""

    @abstractmethod
    def _asked(self, body: bytes) -> None:
        """Answer a gate request, now or later."""

    @abstractmethod
    def _new_inner(self) -> asyncio.Protocol:
        """What the plaintext is for, once the gate is open."""

    @abstractmethod
    def _answer_failed(self, error: BaseException) -> None:
        """Refuse, because what `_when_ready` waited for has failed."""

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface of asyncio's without descending from it.
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(GATE_SECONDS, self._too_slow)
        self._waiting[self] = None

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
            self.abandon()
            _log.info("tls_refused", reason=error.reason)

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
        self._waiting.pop(self, None)
        if self._answering is not None:
            self._answering.cancel()
        self._reader.close()
        # Without a cycle, the keys of the connection are freed now and not when the garbage collector comes by.
        inner, self._inner, self._bulk = self._inner, None, None
        if inner is not None:
            inner.connection_lost(exc)

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
        if outgoing := self._pipe.outgoing():
            self._transport.write(outgoing)

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

    # The gate.

    def _pass_on(self, plaintext: bytes, inner: asyncio.Protocol) -> None:
        """Past the open gate."""
        inner.data_received(plaintext)

    def _gate_received(self, plaintext: bytes) -> None:
        try:
            if self._state is _State.ANSWERING:
                raise GateRefusal(400, "gate.pipelined", "nothing may be sent before the gate has answered")
            body = self._reader.feed(plaintext)
            if body is None:
                return
            self._gate_requests += 1
            if self._gate_requests > self._max_gate_requests:
                raise GateRefusal(429, "gate.attempts", "too many gate requests on one connection")
        except GateRefusal as refusal:
            self._gate_refused(refusal)
            return
        self._state = _State.ANSWERING
        self._asked(body)

    def _when_ready(self, answer: asyncio.Future[T], use: Callable[[T], None]) -> None:
        """Call `use` with what `answer` gives, unless the connection has ended by then."""

        def ready(done: asyncio.Future[T]) -> None:
            self._answering = None
            error = None if done.cancelled() else done.exception()
            if self._state is not _State.ANSWERING:
                return
            if done.cancelled():
                self.abandon()  # the server is ending
            elif error is None:
                use(done.result())
            else:
                self._answer_failed(error)

        self._answering = answer
        answer.add_done_callback(ready)

    def _answered(self, answer: bytes) -> None:
        """The gate stays shut, and another request may come."""
        self.send(http_answer(200, answer, keep_alive=True))
        self._ask_again()

    def _opened(self, answer: bytes) -> None:
        """From here on, plaintext is for the inner protocol."""
        self.send(http_answer(200, answer, keep_alive=True))
        if self._state is not _State.CLOSED:
            self._open()

    def _open(self) -> None:
        self._state = _State.OPEN
        self._deadline.cancel()
        self._waiting.pop(self, None)
        self._inner = inner = self._new_inner()
        self._bulk = inner if isinstance(inner, BulkProtocol) else None
        inner.connection_made(PlaintextTransport(self, self._transport))
        self._pump_waiting()

    def _gate_refused(self, refusal: GateRefusal) -> None:
        self.send(http_answer(refusal.status, refusal.body, keep_alive=not refusal.fatal))
        if refusal.fatal:
            self._state = _State.CLOSED
            self._pipe.close()
            self._flush()
            self._part()
        else:
            self._ask_again()

    def _ask_again(self) -> None:
        if self._state is _State.CLOSED:
            return
        self._state = _State.GATE
        self._reader.close()
        self._reader = self._new_reader()

    def _refuse_plain(self, data: bytes) -> None:
        """No TLS on a TLS port: an HTTP client gets words, anything else gets nothing."""
        self._state = _State.CLOSED
        if data[:1].isalpha():
            problem = ProblemBody(error="this port speaks attested TLS only: use https", code="channel.plain_http")
            self._transport.write(http_answer(400, gate.encoder.encode(problem), keep_alive=False))
            self._part()
        else:
            self._end_soon()

    def _too_slow(self) -> None:
        state = self._state
        self.abandon()
        # Last, here and elsewhere: a log that fails must not keep a connection.
        _log.info("gate_timeout", state=state.name)

    # The connection.

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
            try:
                self._transport.write_eof()
            except OSError:  # the peer has cut the connection, which nobody has read of yet
                self._transport.abort()
                return
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
            self.abandon()
            _log.info("tls_refused", reason=error.reason)

    def _pump(self) -> None:
        """Hand on plaintext until there is no more, or whoever takes it wants a pause."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._reading and self._state is not _State.CLOSED:
                bulk = self._bulk
                if bulk is not None and bulk.space is not None:
                    size = self._pipe.read_into(bulk.space)
                    if size is None:
                        break
                    if not size:
                        self.finish()
                        return
                    bulk.space_filled(size)
                    continue
                plaintext = self._pipe.read()
                if plaintext is None:
                    break
                if not plaintext:
                    self.finish()
                    return
                if self._inner is not None:
                    self._pass_on(plaintext, self._inner)
                else:
                    self._gate_received(plaintext)
        finally:
            self._pumping = False
        # The handshake's last flight, and answers of TLS itself such as key updates.
        if self._pipe.owes and self._state is not _State.CLOSED:
            self._flush()


class GatedProtocols:
    """Knows which connections of one end have a shut gate."""

    def __init__(self) -> None:
        self._waiting: dict[GatedProtocol, None] = {}

    def close(self) -> None:
        """Cut the connections whose gate is shut; those past it belong to the inner protocol."""
        for protocol in list(self._waiting):
            protocol.abort()
