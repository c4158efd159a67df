"""One HTTP/1.1 connection: uvicorn's httptools protocol, made strict, bounded and short.

Strict: whatever two parsers could read differently is refused (RFC 9112, sections 2.2, 3.2, 6.1 and 6.3). Bounded:
headers, pipelined requests, bodies and every wait have a limit. Short: a request that the application takes
directly (inference) is collected here and answered with one write, past ASGI; all others go through ASGI.

The connection knows nothing of TLS: it is given a transport whose bytes are plain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from blindai.enclave.limits import (
    LINGER_SECONDS,
    MAX_DRAINED_BYTES,
    MAX_PIPELINED_REQUESTS,
    MIN_BODY_BYTES_PER_SECOND,
    Budget,
)
from blindai.enclave.reply import Reply, incident, problem_headers, problem_reply
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded, Unavailable
from blindai.wire.problems import problem_body, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import uvicorn
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
    from uvicorn.server import ServerState

    from blindai.enclave.config import EnclaveConfig

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"
Handler: TypeAlias = "Callable[[Headers, bytes], Reply | asyncio.Future[Reply]]"
"""Answers one request given its headers, names in lower case, and its whole body."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_DEADLINE: Final = float("inf")


class Application(Protocol):
    """What a connection serves: an ASGI application that may take some requests directly.

    Attributes:
        bodies: memory for the bodies of direct requests, over all connections.
    """

    bodies: Budget

    def direct(self, method: bytes, target: bytes) -> Handler | None:
        """What answers this request directly; None for ASGI.

        Raises:
            BlindAIError: the answer is known already and the body need not be read.
        """

    def refused(self, error: BlindAIError) -> None:
        """Told of each request refused before the application saw it."""

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


class _Waiting(Enum):
    """For what part of a request the connection waits."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class Exchange(RequestResponseCycle):
    """One request and its response.

    Attributes:
        handler: what answers it directly, when its body is complete.
        reply: the answer, where it was known before the body was read.
        chunks: the body so far, of a direct request.
        reserved: bytes taken from the budget for bodies.
        future: the answer in the making, of a direct request.
    """

    def __init__(self, protocol: EnclaveHttpProtocol, scope: Any, *, expect_continue: bool, keep_alive: bool) -> None:
        super().__init__(
            scope=scope,
            transport=protocol.response_transport,
            flow=protocol.flow,
            logger=protocol.logger,
            access_logger=protocol.access_logger,
            access_log=False,
            default_headers=protocol.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expect_continue,
            keep_alive=keep_alive,
            on_response=protocol.on_response_complete,
        )
        self.handler: Handler | None = None
        self.reply: Reply | None = None
        self.headers: Headers = ()
        self.chunks: list[bytes] = []
        self.received = 0
        self.length: int | None = 0
        self.reserved = 0
        self.future: asyncio.Future[Reply] | None = None

    def drainable(self) -> bool:
        """Whether the connection stays usable although the rest of the body is not wanted."""
        if not self.more_body:
            return True
        # Told to wait for 100 Continue, the client may send the body now or never (RFC 9110, section 10.1.1).
        if self.waiting_for_100_continue:
            return False
        return self.length is None or self.length - self.received <= MAX_DRAINED_BYTES

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the ASGI application; what it fails to answer becomes an incident."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                raise RuntimeError("the application ended without a complete response")
        except asyncio.CancelledError:
            self.transport.close()
            raise
        except Exception as error:  # noqa: BLE001 - the outermost edge: logged as an incident, answered without internals
            if self.response_started:
                incident(error)
                self.transport.close()
            elif not self.disconnected:
                await self._send_problem(incident(error))
        finally:
            self.on_response = _nothing

    async def _send_problem(self, error: BlindAIError) -> None:
        body = problem_body(error)
        headers = [*problem_headers(error), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": status_of(error), "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def send(self, message: ASGISendEvent) -> None:
        """As in ASGI; decides here, before the headers go out, whether the connection can outlive the response."""
        if message["type"] == "http.response.start" and not self.drainable():
            self.keep_alive = False
        await super().send(message)


class EnclaveHttpProtocol(HttpToolsProtocol):
    """A connection of the enclave's HTTP server.

    Args:
        config, server_state, app_state, loop: as uvicorn gives them.
        application: what to serve.
        settings: limits and timeouts.
    """

    cycle: Exchange

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        application: Application,
        settings: EnclaveConfig,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        # Data after "Connection: close" is none of our business, whatever uvicorn lets pass.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self.application = application
        self.limits = settings.limits
        self.timeouts = settings.timeouts
        self.response_transport: asyncio.Transport = _ResponseTransport(self)
        self.url = b""
        self._active: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._refusal: Reply | None = None
        self._deaf = False
        self._header_bytes = 0
        self._in_trailers = False
        self._waiting = _Waiting.NOTHING
        self._waiting_since = 0.0
        self._waiting_bytes = 0
        self._progress = 0.0
        self._idle_since = 0.0
        self._write_since: float | None = None
        self._linger_until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NO_DEADLINE

    # asyncio calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._arm(self._idle_since + self.timeouts.idle_ms / 1000)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(Unavailable("the enclave has as many connections as it may", code="busy"))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        before = self._waiting
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(InvalidInput("this server speaks HTTP/1.1 only", code="http.upgrade"))
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(_parser_error(error))
        if self._waiting is not _Waiting.NOTHING and not self._deaf:
            self._watch(before, len(data))

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self._deaf = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for exchange in (*self._queue, *([self._active] if self._active else [])):
            self._abandon(exchange)
        self._queue.clear()
        self._active = None
        self.flow.resume_writing()
        # Breaks the reference cycle with its callbacks, as uvicorn does.
        self.parser = None  # type: ignore[assignment] # nothing is parsed after this

    def pause_writing(self) -> None:
        super().pause_writing()
        # A client that does not read its responses gets no more of them.
        self.flow.pause_reading()
        self._write_since = self.loop.time()
        self._arm(self._write_since + self.timeouts.write_ms / 1000)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_since = None
        if self._active is None:
            self._next()
        elif not self._queue:
            self.flow.resume_reading()

    # uvicorn's server calls this.

    def shutdown(self) -> None:
        """Finish the request in progress, then close."""
        if self._active is None:
            self._close()
            return
        for exchange in (self._active, *self._queue):
            exchange.keep_alive = False

    # The parser calls these. What they raise ends up in `data_received`.

    def on_message_begin(self) -> None:
        if self._deaf:
            raise _refusal("http.request", "nothing more was expected on this connection")
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._header_bytes = 0
        self._in_trailers = False
        self._waiting = _Waiting.HEAD

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.max_url_bytes:
            raise _refusal("http.url_too_long", f"the target of a request may have {self.limits.max_url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_trailers:
            # They would look like headers to whoever reads them, after all decisions have been made.
            raise _refusal("http.trailers", "fields after the body are not accepted")
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self.limits.max_header_bytes or len(self.headers) >= self.limits.max_headers:
            raise self._headers_too_large()
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_trailers = True
        head = _Head(self.headers, self.parser.get_http_version())
        if not self.url.startswith(b"/"):
            raise _refusal("http.target", "the target of a request must be a path")
        if self.parser.should_upgrade():
            raise _refusal("http.upgrade", "this server speaks HTTP/1.1 only")
        exchange = self._exchange(head)
        if self._active is not None:
            if len(self._queue) >= MAX_PIPELINED_REQUESTS:
                raise _refusal("http.pipelining", f"at most {MAX_PIPELINED_REQUESTS} requests may wait for answers")
            self._queue.append(exchange)
            if exchange.handler is None:
                self.flow.pause_reading()
        self.cycle = exchange
        self._waiting = _Waiting.BODY
        if self._active is None:
            self._active = exchange
            self._start(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        exchange.received += len(body)
        if exchange.response_complete or exchange.reply is not None:
            if exchange.received - len(body) > MAX_DRAINED_BYTES:
                self._linger()
                raise _refusal("http.request", "the rest of the body is not wanted")
        elif exchange.handler is None:
            super().on_body(body)
        else:
            if exchange.length is None:
                self._reserve(exchange, len(body))
            exchange.chunks.append(body)

    def on_message_complete(self) -> None:
        self._waiting = _Waiting.NOTHING
        exchange = self.cycle
        exchange.more_body = False
        exchange.message_event.set()
        if not exchange.keep_alive:
            self._deaf = True
        if exchange.handler is not None and exchange is self._active:
            self._run(exchange, exchange.handler)

    # From request to response.

    def _exchange(self, head: _Head) -> Exchange:
        method = self.parser.get_method()
        keep_alive = head.version != "1.0" and self.parser.should_keep_alive()
        try:
            head.check_negotiable()
            handler = self.application.direct(method, self.url)
            if handler is None:
                exchange = Exchange(
                    self,
                    self._scope(method, head.version),
                    expect_continue=head.expects_continue,
                    keep_alive=keep_alive,
                )
                exchange.length = head.length
                return exchange
            exchange = Exchange(self, None, expect_continue=head.expects_continue, keep_alive=keep_alive)
            exchange.handler, exchange.headers, exchange.length = handler, self.headers, head.length
            if head.length:
                self._reserve(exchange, head.length)
        except BlindAIError as error:
            self.application.refused(error)
            exchange = Exchange(self, None, expect_continue=head.expects_continue, keep_alive=keep_alive)
            exchange.length, exchange.reply = head.length, problem_reply(error)
        return exchange

    def _scope(self, method: bytes, version: str) -> dict[str, Any]:
        url = httptools.parse_url(self.url)
        path: bytes = url.path or b""
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": method.decode("ascii"),
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": url.query or b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
        }

    def _reserve(self, exchange: Exchange, size: int) -> None:
        if exchange.reserved + size > self.limits.max_body_bytes:
            raise QuotaExceeded(f"the body of a request may have {self.limits.max_body_bytes} bytes", code="quota.body")
        self.application.bodies.take(size)
        exchange.reserved += size

    def _start(self, exchange: Exchange) -> None:
        """Begin to answer the active exchange, as far as can be done now."""
        if exchange.reply is not None:
            self._respond(exchange, exchange.reply)
        elif exchange.handler is None:
            task = self.loop.create_task(exchange.run_asgi(self.app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        elif not exchange.more_body:
            self._run(exchange, exchange.handler)
        elif exchange.waiting_for_100_continue:
            exchange.waiting_for_100_continue = False
            self.transport.write(_CONTINUE)

    def _run(self, exchange: Exchange, handler: Handler) -> None:
        """Answer a direct exchange whose body is complete."""
        chunks, exchange.chunks = exchange.chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            reply = handler(exchange.headers, body)
        except BlindAIError as error:
            reply = problem_reply(error)
        except Exception as error:  # noqa: BLE001 - the outermost edge: logged as an incident, answered without internals
            reply = problem_reply(incident(error))
        if isinstance(reply, Reply):
            self._respond(exchange, reply)
        else:
            exchange.future = reply
            reply.add_done_callback(lambda future: self._ran(exchange, future))

    def _ran(self, exchange: Exchange, future: asyncio.Future[Reply]) -> None:
        exchange.future = None
        error = None if future.cancelled() else future.exception()
        if exchange.disconnected:
            return
        if future.cancelled():
            reply = problem_reply(Unavailable("the server is stopping", code="stopping"))
        elif isinstance(error, BlindAIError):
            reply = problem_reply(error)
        elif error is not None:
            reply = problem_reply(incident(error))
        else:
            reply = future.result()
        self._respond(exchange, reply)

    def _respond(self, exchange: Exchange, reply: Reply) -> None:
        """Write the whole response of the active exchange and go on."""
        self._release(exchange)
        if not exchange.drainable():
            exchange.keep_alive = False
        exchange.response_started = exchange.response_complete = True
        self.transport.writelines(self._render(reply, keep_alive=exchange.keep_alive))
        if not exchange.keep_alive:
            self._close()
        self.on_response_complete()

    def _render(self, reply: Reply, *, keep_alive: bool) -> list[bytes | memoryview]:
        common = b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers)
        length = sum(map(len, reply.buffers))
        head = b"%s%s%s%scontent-length: %d\r\n\r\n" % (
            STATUS_LINE[reply.status],
            common,
            reply.headers,
            b"" if keep_alive else b"connection: close\r\n",
            length,
        )
        return [head, *reply.buffers]

    def on_response_complete(self) -> None:
        """The response of the active exchange has been written."""
        self.server_state.total_requests += 1
        self._active = None
        if self.transport.is_closing() or self._linger_until is not None:
            return
        self._next()

    def _next(self) -> None:
        """Go on with the next request that has arrived, or wait for one."""
        if self._write_since is not None:
            return
        self.flow.resume_reading()
        if self._queue:
            self._active = self._queue.popleft()
            self._start(self._active)
        elif self._refusal is not None:
            self._write_refusal(self._refusal)
        else:
            self._idle_since = self.loop.time()
            self._arm(self._idle_since + self.timeouts.idle_ms / 1000)

    # Refusals of the connection itself, and its end.

    def _refuse(self, error: BlindAIError) -> None:
        """Stop listening, answer what was asked before, then refuse with `error` and close."""
        self._deaf = True
        if self._waiting is _Waiting.BODY and self.cycle.response_complete:
            self._close()  # it has had its answer, a second one would be taken for the next request's
            return
        self.application.refused(error)
        reply = problem_reply(error)
        exchange = self._active
        if self._waiting is _Waiting.BODY and exchange is not None and exchange is self.cycle:
            # It is this request's own body that went wrong.
            started = exchange.response_started
            self._abandon(exchange)
            self._active = None
            if started:
                self._close()
                return
            exchange = None
        elif self._waiting is _Waiting.BODY and self._queue and self._queue[-1] is self.cycle:
            self._abandon(self._queue.pop())
        if exchange is None:
            self._write_refusal(reply)
        else:
            self._refusal = reply

    def _write_refusal(self, reply: Reply) -> None:
        self._refusal = None
        self.transport.writelines(self._render(reply, keep_alive=False))
        self._linger()

    def _abandon(self, exchange: Exchange) -> None:
        """Nobody waits for this response any more."""
        if not exchange.response_complete:
            exchange.disconnected = True
        exchange.message_event.set()
        if exchange.future is not None:
            exchange.future.cancel()
        self._release(exchange)

    def _release(self, exchange: Exchange) -> None:
        self.application.bodies.give(exchange.reserved)
        exchange.reserved = 0
        exchange.chunks = []

    def _close(self) -> None:
        """Close once everything is written; linger where the client may still be sending."""
        if self._waiting is _Waiting.NOTHING:
            self._deaf = True
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        self._deaf = True
        if self._linger_until is None and not self.transport.is_closing():
            self.flow.resume_reading()
            self._linger_until = self.loop.time() + LINGER_SECONDS
            self._arm(self._linger_until)

    def _headers_too_large(self) -> BlindAIError:
        return _refusal(
            "http.headers_too_large",
            f"a request may have {self.limits.max_headers} headers and {self.limits.max_header_bytes} bytes of them",
        )

    # Time. One timer for each connection; it is moved only when something is due earlier than it.

    def _watch(self, before: _Waiting, size: int) -> None:
        """Note the progress of a request that is incomplete after `size` more bytes."""
        now = self._progress = self.loop.time()
        if before is self._waiting:
            self._waiting_bytes += size
        else:
            self._waiting_since, self._waiting_bytes = now, 0
        if self._waiting is _Waiting.HEAD and self._waiting_bytes > self.limits.max_header_bytes:
            self._refuse(self._headers_too_large())
        else:
            self._arm(self._deadline(now))

    def _deadline(self, now: float) -> float:
        """When the connection has waited too long, as things stand."""
        if self._linger_until is not None:
            return self._linger_until
        if self._write_since is not None:
            return self._write_since + self.timeouts.write_ms / 1000
        if self._waiting is _Waiting.HEAD:
            return self._waiting_since + self.timeouts.head_ms / 1000
        patience = self.timeouts.body_ms / 1000
        if self._waiting is _Waiting.BODY:
            if self.flow.read_paused:  # it is the application that does not take more
                return now + patience
            fair = self._waiting_since + self._waiting_bytes / MIN_BODY_BYTES_PER_SECOND
            return min(self._progress, fair) + patience
        if self._active is None:
            return self._idle_since + self.timeouts.idle_ms / 1000
        return _NO_DEADLINE

    def _arm(self, when: float) -> None:
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, _NO_DEADLINE
        now = self.loop.time()
        deadline = self._deadline(now)
        if now < deadline:
            self._arm(deadline)
        elif self._linger_until is None and self._write_since is None and self._waiting is not _Waiting.NOTHING:
            self._refuse(Unavailable("the request did not arrive in time", code="http.timeout"))
        elif self._write_since is not None:
            self.transport.abort()
        else:
            self.transport.close()


class _Head:
    """What the headers of one request say about its framing.

    Raises:
        InvalidInput: where two readers could disagree on it.
    """

    def __init__(self, headers: list[tuple[bytes, bytes]], version: str) -> None:
        if version not in {"1.0", "1.1"}:
            raise _refusal("http.request", "this server speaks HTTP/1.1 only")
        self.version = version
        self.length: int | None = 0
        self.expectation = b""
        self.coding = b"identity"
        hosts = lengths = codings = 0
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths += 1
                self.length = _content_length(value)
            elif name == b"transfer-encoding":
                codings += 1
                self.length = None
                if value.lower() != b"chunked" or version == "1.0":
                    raise _refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
            elif name == b"expect":
                self.expectation = value.lower()
            elif name == b"content-encoding":
                self.coding = value.lower()
        if lengths + codings > 1:
            raise _refusal("http.content_length", "the length of the body is given more than once")
        if hosts != 1 and (hosts or version == "1.1"):
            raise _refusal("http.request", "a request must have one Host header")

    @property
    def expects_continue(self) -> bool:
        return self.expectation == b"100-continue" and self.version == "1.1"

    def check_negotiable(self) -> None:
        """Refuse what a client may ask for and this server does not do, without harm to the connection."""
        if self.expectation not in {b"", b"100-continue"}:
            raise _refusal("http.expect", "the only expectation is 100-continue")
        if self.coding != b"identity":
            # A few bytes could unfold into gigabytes, and compressed secrets leak through their length.
            raise InvalidInput(
                "compressed bodies are not accepted", code="http.content_encoding", hint="send the body as it is"
            )


class _ResponseTransport(asyncio.Transport):
    """The transport as uvicorn's response cycle sees it: closing leaves the client time to read the response."""

    def __init__(self, protocol: EnclaveHttpProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol._close()  # noqa: SLF001 - two halves of one thing


def _nothing() -> None:
    """Takes the place of a callback, so that a finished exchange does not keep its connection alive."""


def _content_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 15:
        raise _refusal("http.content_length", "Content-Length must be a decimal number of bytes")
    return int(value)


def _refusal(code: str, message: str) -> InvalidInput:
    return InvalidInput(message, code=code)


def _parser_error(error: httptools.HttpParserError) -> BlindAIError:
    """The typed error behind what the parser raised: a callback's own, or one for what the parser found."""
    if isinstance(error.__context__, BlindAIError):
        return error.__context__
    text = str(error).lower()
    if "content-length" in text or "content_length" in text:
        return _refusal("http.content_length", "the length of the body is given twice or is no number")
    if "transfer-encoding" in text:
        return _refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
    return _refusal("http.request", "this is not an HTTP/1.1 request")
