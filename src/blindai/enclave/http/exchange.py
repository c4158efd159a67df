"""One request and its response: collected and answered at once, or passed through ASGI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from blindai.enclave.http.reply import Reply, incident, problem_content, problem_headers
from blindai.enclave.limits import MAX_DRAINED_BYTES, Budget
from blindai.wire.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from blindai.errors import BlindAIError
    from blindai.wire.tensor import Buffer

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"
Handler: TypeAlias = "Callable[[Headers, Buffer], Reply | asyncio.Future[Reply]]"
"""Answers one request given its headers, names in lower case, and its whole body."""


class KnownHeaders(list[tuple[bytes, bytes]]):
    """Headers that come again and again, and what was read in them.

    Args:
        headers: names in lower case.
        json_length: of the body's JSON part; None where all is JSON.
        authorization: the one field of that name; None where there is none.
    """

    __slots__ = ("authorization", "json_length")

    def __init__(self, headers: Headers, json_length: int | None, authorization: bytes | None) -> None:
        super().__init__(headers)
        self.json_length = json_length
        self.authorization = authorization


class Application(Protocol):
    """What a connection serves: an ASGI application that may take some requests directly.

    Attributes:
        bodies: memory for the bodies of direct requests, over all connections.
    """

    bodies: Budget

    def direct(self, method: bytes, target: bytes, headers: Headers) -> Handler | None:
        """What answers this request directly; None for ASGI. Asked for each request anew.

        Args:
            method, target: of the request.
            headers: its own, names in lower case.

        Raises:
            BlindAIError: the answer is known already and the body need not be read.
        """

    def refused(self, error: BlindAIError) -> None:
        """Told of each request refused before the application saw it."""

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None: ...


class DirectExchange:
    """A request whose body is collected and then answered with one write.

    Attributes:
        handler: what answers it when its body is complete.
        reply: the answer instead, where it was known before the body was read.
        target: of the request.
        headers: the request's headers.
        length: the body's length; None where it comes in chunks.
        received, more_body: how much of the body has come, and whether more is to come.
        chunks: the body so far.
        reserved: bytes taken from the budget for bodies.
        keep_alive: whether the connection goes on after the response.
        waiting_for_100_continue: whether the client waits to be told to send the body.
        response_started, response_complete: whether it has been answered; both at once.
        disconnected: whether nobody waits for the answer any more.
        future: the answer in the making.
    """

    __slots__ = (
        "chunks",
        "disconnected",
        "future",
        "handler",
        "headers",
        "keep_alive",
        "length",
        "more_body",
        "received",
        "reply",
        "reserved",
        "response_complete",
        "target",
        "waiting_for_100_continue",
    )

    def __init__(
        self,
        handler: Handler | Reply,
        target: bytes,
        headers: Headers,
        length: int | None,
        *,
        expect_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.handler: Handler | None
        self.reply: Reply | None
        if isinstance(handler, Reply):
            self.handler, self.reply = None, handler
        else:
            self.handler, self.reply = handler, None
        self.target = target
        self.headers = headers
        self.length = length
        self.received = 0
        self.more_body = True
        self.chunks: list[Buffer] = []
        self.reserved = 0
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_continue
        self.response_complete = False
        self.disconnected = False
        self.future: asyncio.Future[Reply] | None = None

    @property
    def response_started(self) -> bool:
        return self.response_complete

    def abandon(self) -> None:
        """Nobody waits for the response any more."""
        self.disconnected = True
        if self.future is not None:
            self.future.cancel()


class AsgiExchange(RequestResponseCycle):
    """A request passed through ASGI, with uvicorn's framing of the response.

    Attributes:
        target, length, received: as in `DirectExchange`.
    """

    def __init__(
        self,
        protocol: HttpToolsProtocol,
        transport: asyncio.Transport,
        scope: Any,
        length: int | None,
        *,
        expect_continue: bool,
        keep_alive: bool,
    ) -> None:
        super().__init__(
            scope=scope,
            transport=transport,
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
        self.target: bytes = scope["raw_path"]
        self.length = length
        self.received = 0

    def abandon(self) -> None:
        """Nobody waits for the response any more; the application is told when it asks for more."""
        self.disconnected = not self.response_complete
        self.message_event.set()

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
            problem = incident(error)
            if self.response_started:
                self.transport.close()
            elif not self.disconnected:
                await self._send_problem(problem)
        finally:
            # A finished exchange must not keep its connection alive.
            self.on_response = _nothing

    async def send(self, message: ASGISendEvent) -> None:
        """As in ASGI; decides here, before the headers go out, whether the connection can outlive the response."""
        if message["type"] == "http.response.start" and not drainable(self):
            self.keep_alive = False
        await super().send(message)

    async def _send_problem(self, error: BlindAIError) -> None:
        body = problem_content(error, self.target)
        headers = [*problem_headers(error), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": status_of(error), "headers": headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


Exchange: TypeAlias = "DirectExchange | AsgiExchange"


def drainable(exchange: Exchange) -> bool:
    """Whether the connection stays usable although the rest of the body is not wanted."""
    if not exchange.more_body:
        return True
    # Told to wait for 100 Continue, the client may send the body now or never (RFC 9110, section 10.1.1).
    if exchange.waiting_for_100_continue:
        return False
    return exchange.length is None or exchange.length - exchange.received <= MAX_DRAINED_BYTES


def _nothing() -> None:
    pass
