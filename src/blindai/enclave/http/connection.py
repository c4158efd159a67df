"""One HTTP/1.1 connection: uvicorn's httptools protocol, made strict, bounded and short.

Strict: whatever two parsers could read differently is refused (RFC 9112, sections 2.2, 3.2, 6.1 and 6.3). Bounded:
headers, pipelined requests, bodies and every wait have a limit. Short: a request that the application takes
directly (inference) is collected here and answered with one write, past ASGI; all others go through ASGI. Where its
head is that of the last such request, it is not parsed either (`repetition`).

The connection knows nothing of TLS: it is given a transport whose bytes are plain.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
import numpy as np
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from blindai.channel.plaintext import BulkProtocol
from blindai.enclave.http.exchange import (
    Application,
    AsgiExchange,
    DirectExchange,
    Exchange,
    Handler,
    Headers,
    drainable,
)
from blindai.enclave.http.repetition import KnownHead, known_head
from blindai.enclave.http.reply import Reply, incident, problem_reply
from blindai.enclave.http.request_head import RequestHead, headers_too_large, parser_refusal, refusal
from blindai.enclave.limits import (
    LINGER_SECONDS,
    MAX_DRAINED_BYTES,
    MAX_PIPELINED_REQUESTS,
    MIN_BODY_BYTES_PER_SECOND,
)
from blindai.enclave.running.prompt import listen
from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded, Unavailable

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

    from blindai.enclave.config import EnclaveConfig
    from blindai.wire.tensor import Buffer

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_DEADLINE: Final = float("inf")


class _Waiting(Enum):
    """For what part of a request the connection waits."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class EnclaveHttpProtocol(HttpToolsProtocol, BulkProtocol):
    """A connection of the enclave's HTTP server.

    Args:
        config, server_state, app_state, loop: as uvicorn gives them.
        application: what to serve.
        settings: limits and timeouts.
    """

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
        self._idle_seconds = settings.timeouts.idle_ms / 1000
        self.url = b""
        self._response_transport = _ResponseTransport(self)
        self._latest: Exchange  # set with the first head; nothing looks at it before
        self._active: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._known: KnownHead | None = None
        self._rendered: tuple[tuple[int, bytes, int, bool], bytes] = ((0, b"", 0, False), b"")
        self._refusal: Reply | None = None
        self._deaf = False
        self._in_trailers = False
        self._waiting = _Waiting.NOTHING
        self._requests = 0
        self._watched = (0, _Waiting.NOTHING)
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
        self._arm(self._idle_since + self._idle_seconds)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(Unavailable("the enclave has as many connections as it may", code="busy"))

    def data_received(self, data: bytes) -> None:
        if self.space is not None:
            size = min(len(data), len(self.space))
            self.space[:size] = data[:size]
            self.space_filled(size)
            data = data[size:]
        while data and not self._deaf:
            at_rest = self._is_at_rest()
            known = self._known
            if at_rest and known is not None and data.startswith(known.head):
                rest = self._repeat(known, data)
                if rest is not None:
                    data = rest
                    continue
            self._parse(data, at_rest=at_rest)
            return

    # asyncio does not call this: who gives plaintext to this protocol does (`channel.plaintext`).

    def space_filled(self, size: int) -> None:
        if self.space is None or self._deaf:
            return
        self._latest.received += size
        self.space = self.space[size:]
        if len(self.space):
            self._watch(size)
        else:
            self.space = None
            self.on_message_complete()

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
        self.space = self._known = None
        self.flow.resume_writing()
        # Without reference cycles, what the connection held is freed now, the client's data among it, and not when the
        # garbage collector comes by.
        self.parser = None  # type: ignore[assignment] # nothing is parsed after this
        self._response_transport.lost()

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
            raise refusal("http.request", "nothing more was expected on this connection")
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_trailers = False
        self._requests += 1
        self._waiting = _Waiting.HEAD

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self.limits.max_url_bytes:
            raise refusal("http.url_too_long", f"the target of a request may have {self.limits.max_url_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_trailers:
            # They would look like headers to whoever reads them, after all decisions have been made.
            raise refusal("http.trailers", "fields after the body are not accepted")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_trailers = True
        head = RequestHead(self.headers, self.parser.get_http_version(), self.limits)
        if not self.url.startswith(b"/"):
            raise refusal("http.target", "the target of a request must be a path")
        if self.parser.should_upgrade():
            raise refusal("http.upgrade", "this server speaks HTTP/1.1 only")
        exchange = self._exchange(head)
        if self._active is not None:
            if len(self._queue) >= MAX_PIPELINED_REQUESTS:
                raise refusal("http.pipelining", f"at most {MAX_PIPELINED_REQUESTS} requests may wait for answers")
            self._queue.append(exchange)
            if isinstance(exchange, AsgiExchange):
                self.flow.pause_reading()
        self._latest = exchange
        self._waiting = _Waiting.BODY
        if self._active is None:
            self._active = exchange
            self._start(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self._latest
        exchange.received += len(body)
        if exchange.response_complete or (isinstance(exchange, DirectExchange) and exchange.handler is None):
            if exchange.received - len(body) > MAX_DRAINED_BYTES:
                self._linger()
                raise refusal("http.request", "the rest of the body is not wanted")
        elif isinstance(exchange, AsgiExchange):
            super().on_body(body)
        else:
            if exchange.length is None:
                self._reserve(exchange, len(body))
            exchange.chunks.append(body)

    def on_message_complete(self) -> None:
        self._waiting = _Waiting.NOTHING
        exchange = self._latest
        exchange.more_body = False
        if not exchange.keep_alive:
            self._deaf = True
        if isinstance(exchange, AsgiExchange):
            exchange.message_event.set()
        elif exchange is self._active and exchange.handler is not None:
            self._run(exchange, exchange.handler)

    # From request to response.

    def _is_at_rest(self) -> bool:
        """Whether a new request would be the only one here, and the parser is between two."""
        return (
            self._active is None
            and self._waiting is _Waiting.NOTHING
            and not self._queue
            and self._refusal is None
            and self._write_since is None
        )

    def _parse(self, data: bytes, *, at_rest: bool) -> None:
        requests = self._requests
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(InvalidInput("this server speaks HTTP/1.1 only", code="http.upgrade"))
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(parser_refusal(error))
        if self._deaf:
            return
        if self._waiting is not _Waiting.NOTHING:
            self._watch(len(data))
        if at_rest and self._requests == requests + 1 and self._waiting is not _Waiting.HEAD:
            latest = self._latest
            self._known = known_head(data, latest) if isinstance(latest, DirectExchange) else None

    def _repeat(self, known: KnownHead, data: bytes) -> bytes | None:
        """Take a request that begins with a known head, and return what follows it; None where the parser must."""
        application, length = self.application, known.length
        bodies = application.bodies
        try:
            handler = application.direct(b"POST", known.target, known.headers)
            if handler is None:
                return None
            bodies.take(length)
        except BlindAIError:
            return None
        start = len(known.head)
        end = start + length
        self._requests += 1
        if len(data) < end:
            exchange = self._latest = self._active = known.exchange(handler)
            exchange.received = len(data) - start
            body = np.empty(length, np.uint8).data
            body[: exchange.received] = data[start:]
            exchange.chunks.append(body)
            self.space = body[exchange.received :]
            self._waiting = _Waiting.BODY
            self._watch(len(data))
            return b""
        reply = self._asked(handler, known.target, known.headers, data[start:end])
        if isinstance(reply, Reply):
            # As `_respond`, of which little is to do: the connection is at rest all the time.
            bodies.give(length)
            self.transport.writelines(self._render(reply, keep_alive=True))
            self.server_state.total_requests += 1
            if self._write_since is None:
                now = self._idle_since = self.loop.time()
                self._arm(now + self._idle_seconds)
        else:
            exchange = self._latest = self._active = known.exchange(handler)
            exchange.received, exchange.more_body = length, False
            self._expect(exchange, reply)
        return data[end:]

    def _exchange(self, head: RequestHead) -> Exchange:
        method = self.parser.get_method()
        options = {
            "expect_continue": head.expects_continue,
            "keep_alive": head.version == "1.1" and self.parser.should_keep_alive(),
        }
        try:
            head.check_negotiable()
            handler = self.application.direct(method, self.url, self.headers)
            if handler is None:
                scope = self._scope(method, head.version)
                self.cycle = AsgiExchange(self, self._response_transport, scope, head.length, **options)
                return self.cycle
            exchange = DirectExchange(handler, self.url, self.headers, head.length, **options)
            if head.length:
                self._reserve(exchange, head.length)
        except BlindAIError as error:
            self.application.refused(error)
            exchange = DirectExchange(problem_reply(error, self.url), self.url, self.headers, head.length, **options)
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

    def _reserve(self, exchange: DirectExchange, size: int) -> None:
        if exchange.reserved + size > self.limits.max_body_bytes:
            raise QuotaExceeded(f"the body of a request may have {self.limits.max_body_bytes} bytes", code="quota.body")
        self.application.bodies.take(size)
        exchange.reserved += size

    def _start(self, exchange: Exchange) -> None:
        """Begin to answer the active exchange, as far as can be done now."""
        if isinstance(exchange, AsgiExchange):
            task = self.loop.create_task(exchange.run_asgi(self.app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)
        elif exchange.reply is not None:
            self._respond(exchange, exchange.reply)
        elif exchange.handler is not None and not exchange.more_body:
            self._run(exchange, exchange.handler)
        elif exchange.waiting_for_100_continue:
            exchange.waiting_for_100_continue = False
            self.transport.write(_CONTINUE)

    def _run(self, exchange: DirectExchange, handler: Handler) -> None:
        """Answer a direct exchange whose body is complete."""
        chunks, exchange.chunks = exchange.chunks, []
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        reply = self._asked(handler, exchange.target, exchange.headers, body)
        if isinstance(reply, Reply):
            self._respond(exchange, reply)
        else:
            self._expect(exchange, reply)

    def _asked(self, handler: Handler, target: bytes, headers: Headers, body: Buffer) -> Reply | asyncio.Future[Reply]:
        try:
            return handler(headers, body)
        except BlindAIError as error:
            return problem_reply(error, target)
        except Exception as error:  # noqa: BLE001 - the outermost edge: logged as an incident, answered without internals
            return problem_reply(incident(error), target)

    def _expect(self, exchange: DirectExchange, reply: asyncio.Future[Reply]) -> None:
        exchange.future = reply
        listen(reply, partial(self._ran, exchange))

    def _ran(self, exchange: DirectExchange, future: asyncio.Future[Reply]) -> None:
        exchange.future = None
        error = None if future.cancelled() else future.exception()
        if exchange.disconnected:
            return
        if future.cancelled():
            reply = problem_reply(Unavailable("the server is stopping", code="stopping"), exchange.target)
        elif isinstance(error, BlindAIError):
            reply = problem_reply(error, exchange.target)
        elif error is not None:
            reply = problem_reply(incident(error), exchange.target)
        else:
            reply = future.result()
        self._respond(exchange, reply)

    def _respond(self, exchange: DirectExchange, reply: Reply) -> None:
        """Write the whole response of the active exchange and go on."""
        self._release(exchange)
        if not drainable(exchange):
            exchange.keep_alive = False
        exchange.response_complete = True
        self.transport.writelines(self._render(reply, keep_alive=exchange.keep_alive))
        if not exchange.keep_alive:
            self._close()
        self.on_response_complete()

    def _render(self, reply: Reply, *, keep_alive: bool) -> list[bytes | memoryview]:
        length = sum(map(len, reply.buffers))
        key = (reply.status, reply.headers, length, keep_alive)
        known, head = self._rendered
        if key != known:
            head = b"%s%s%s%scontent-length: %d\r\n\r\n" % (
                STATUS_LINE[reply.status],
                b"".join(b"%s: %s\r\n" % header for header in self.server_state.default_headers),
                reply.headers,
                b"" if keep_alive else b"connection: close\r\n",
                length,
            )
            self._rendered = (key, head)
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
            self._arm(self._idle_since + self._idle_seconds)

    # Refusals of the connection itself, and its end.

    def _refuse(self, error: BlindAIError) -> None:
        """Stop listening, answer what was asked before, then refuse with `error` and close."""
        self._deaf = True
        latest = self._latest if self._waiting is _Waiting.BODY else None
        if latest is not None and latest.response_complete:
            self._close()  # it has had its answer, a second one would be taken for the next request's
            return
        self.application.refused(error)
        reply = problem_reply(error, self._refused_target())
        exchange = self._active
        if exchange is not None and exchange is latest:
            # It is this request's own body that went wrong.
            started = exchange.response_started
            self._abandon(exchange)
            self._active = self.space = None
            if started:
                self._close()
                return
            exchange = None
        elif self._queue and self._queue[-1] is latest:
            self._abandon(self._queue.pop())
        if exchange is None:
            self._write_refusal(reply)
        else:
            self._refusal = reply

    def _refused_target(self) -> bytes:
        """The target of the request that is arriving; nothing between two requests."""
        if self._waiting is _Waiting.BODY:
            return self._latest.target
        return self.url if self._waiting is _Waiting.HEAD else b""

    def _write_refusal(self, reply: Reply) -> None:
        self._refusal = None
        self.transport.writelines(self._render(reply, keep_alive=False))
        self._linger()

    def _abandon(self, exchange: Exchange) -> None:
        """Nobody waits for this response any more."""
        exchange.abandon()
        if isinstance(exchange, DirectExchange):
            self._release(exchange)

    def _release(self, exchange: DirectExchange) -> None:
        if exchange.reserved:
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

    # Time. One timer for each connection; it is moved only when something is due earlier than it.

    def _watch(self, size: int) -> None:
        """Note the progress of a request that is incomplete after `size` more bytes."""
        now = self._progress = self.loop.time()
        waiting = (self._requests, self._waiting)
        if waiting == self._watched:
            self._waiting_bytes += size
        else:
            # Of these bytes some may belong to what came before.
            self._watched, self._waiting_since, self._waiting_bytes = waiting, now, 0
        if self._waiting is _Waiting.HEAD and self._waiting_bytes > self.limits.max_header_bytes:
            self._refuse(headers_too_large(self.limits))
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
            return self._idle_since + self._idle_seconds
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


class _ResponseTransport(asyncio.Transport):
    """The transport as uvicorn's response cycle sees it: closing leaves the client time to read the response."""

    def __init__(self, protocol: EnclaveHttpProtocol) -> None:
        super().__init__()
        self._protocol: EnclaveHttpProtocol | None = protocol

    def lost(self) -> None:
        """The connection is gone; a response that is still being made goes nowhere."""
        self._protocol = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._protocol is not None:
            self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol is None or self._protocol.transport.is_closing()

    def close(self) -> None:
        if self._protocol is not None:
            self._protocol._close()  # noqa: SLF001 - two halves of one thing
