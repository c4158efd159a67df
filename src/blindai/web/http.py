"""One HTTP/1.1 connection of a program: uvicorn's httptools protocol with an end to every wait and every size.

As it comes, uvicorn waits for the first byte, for the rest of a head and for the rest of a body as long as the other
side likes, and keeps heads of any length.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from blindai.errors import BlindAIError, InvalidInput, QuotaExceeded, Unavailable
from blindai.wire.problems import CONTENT_TYPE, problem_body, status_of

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

# After a refusal the rest of what the other side sends is discarded this long, because closing at once would reset the
# connection and could destroy the refusal before it is read (RFC 9112, section 9.6).
LINGER_SECONDS: Final = 2.0

# Browsers send some twenty fields.
MAX_HEADERS: Final = 100


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """What one port of a program puts up with.

    Attributes:
        max_connections: at once. One more takes the place of the one that has kept us waiting for the longest; where
            all of them wait for us, it is told to come back later.
        max_body_bytes: of a request.
        max_head_bytes: request line and headers together.
        head_seconds: from the beginning of a connection, or the first byte of a later request, to the end of its head.
        body_seconds: from there to the end of its body.
        idle_seconds: between two requests.
        write_seconds: in which the other side takes nothing of an answer.
    """

    max_connections: int
    max_body_bytes: int
    max_head_bytes: int = 16 << 10
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0


class _Phase(Enum):
    FIRST = auto()  # nothing was received yet
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWERING = auto()
    REFUSED = auto()


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection. Its refusals are problems (`wire.problems`), and end it.

    Args:
        config, server_state, app_state: as uvicorn has them.
        limits: of this port.

    Attributes:
        ended: done when the connection is.
    """

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], limits: HttpLimits
    ) -> None:
        super().__init__(config, server_state, app_state)
        # Data after "Connection: close" is none of our business, whatever uvicorn lets pass.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._limits = limits
        self._phase = _Phase.FIRST
        self._since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._refusal: BlindAIError | None = None
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self._head_bytes = 0
        self._body_bytes = 0

    @property
    def waits_since(self) -> float | None:
        """Since when, by the event loop's clock, it is the other side's turn; None where it is ours, or all is over."""
        ours = self._phase is _Phase.ANSWERING and self._write_deadline is None
        return None if ours or self.transport.is_closing() else self._since

    def cut(self) -> None:
        """End the connection at once."""
        self._enter(_Phase.REFUSED)
        self.transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self._enter(_Phase.FIRST)
        if len(self.connections) > self._limits.max_connections and not self._make_room():
            self._refuse(Unavailable("this server has as many connections as it may", code="busy"))

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.REFUSED:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(InvalidInput("this server speaks HTTP/1.1 only", code="http.upgrade"))
        except httptools.HttpParserError as error:
            self._refuse(
                self._refusal or InvalidInput(f"this is not an HTTP/1.1 request: {error}", code="http.request")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = _Phase.REFUSED
        for timer in (self._deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self.ended.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._since = self.loop.time()
        self._write_deadline = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    # The parser calls these; what they raise ends up in `data_received`.

    def on_message_begin(self) -> None:
        if self._unanswered is not None:
            raise self._refused(InvalidInput("the answer to the request before comes first", code="http.pipelining"))
        self._head_bytes = 0
        self._body_bytes = 0
        self._enter(_Phase.HEAD)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not _Phase.HEAD:
            # They would look like headers to whoever reads them, after all decisions have been made.
            raise self._refused(InvalidInput("fields after the body are not accepted", code="http.trailers"))
        super().on_header(name, value)
        self._count_head(len(name) + len(value))
        if len(self.headers) > MAX_HEADERS:
            raise self._refused(self._head_too_large())

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/"):
            raise self._refused(InvalidInput("the target of a request must be a path", code="http.target"))
        for name, value in self.headers:
            # llhttp has made sure that it is a number.
            if name == b"content-length" and int(value) > self._limits.max_body_bytes:
                raise self._refused(self._body_too_large())
        self._enter(_Phase.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.max_body_bytes:
            raise self._refused(self._body_too_large())
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.ANSWERING)
        super().on_message_complete()

    # uvicorn calls this.

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Ours says when a connection has been idle for too long.
        self._unset_keepalive_if_required()
        if self._phase is _Phase.ANSWERING:
            self._enter(_Phase.IDLE)

    # The steps.

    @property
    def _unanswered(self) -> RequestResponseCycle | None:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn has None there before the first
        return None if cycle is None or cycle.response_complete else cycle

    def _make_room(self) -> bool:
        """Cut the connection whose other side has kept us waiting for the longest; False where none does.

        So a stranger who fills the port with connections on which nothing happens keeps nobody away.
        """
        others = [one for one in self.connections if isinstance(one, BoundedHttpProtocol) and one is not self]
        waiting = [(since, number) for number, one in enumerate(others) if (since := one.waits_since) is not None]
        if not waiting:
            return False
        others[min(waiting)[1]].cut()
        return True

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._since = self.loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        seconds = {
            _Phase.FIRST: self._limits.head_seconds,
            _Phase.IDLE: self._limits.idle_seconds,
            _Phase.HEAD: self._limits.head_seconds,
            _Phase.BODY: self._limits.body_seconds,
        }.get(phase)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._phase in {_Phase.HEAD, _Phase.BODY}:
            self._refuse(Unavailable("the request took too long to arrive", code="http.timeout"))
        else:
            self.transport.close()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_head_bytes:
            raise self._refused(self._head_too_large())

    def _head_too_large(self) -> BlindAIError:
        return InvalidInput(
            f"the head of a request may have {self._limits.max_head_bytes} bytes and {MAX_HEADERS} fields",
            code="http.headers_too_large",
        )

    def _body_too_large(self) -> BlindAIError:
        return QuotaExceeded(f"the body of a request may have {self._limits.max_body_bytes} bytes", code="quota.body")

    def _refused(self, refusal: BlindAIError) -> BlindAIError:
        """`refusal`, kept here because httptools wraps what its callbacks raise."""
        self._refusal = refusal
        return refusal

    def _refuse(self, refusal: BlindAIError) -> None:
        """Answer with a problem and end the connection; whatever the application still says is dropped."""
        self._enter(_Phase.REFUSED)
        cycle = self._unanswered
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()  # half of another answer is on its way
                return
        body = problem_body(refusal)
        head = STATUS_LINE[status_of(refusal)] + (
            f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
        )
        self.transport.write(head + body)
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)
