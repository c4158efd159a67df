"""One client's connection to the proxy: its requests, one after the other, and their answers as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from blindai.channel.answer_stream import AnswerHead, AnswerStream, End
from blindai.channel.http1 import MalformedAnswer
from blindai.client.proxy import message
from blindai.client.proxy.admission import Admission
from blindai.client.proxy.request import RequestHead, RequestPart, RequestStream
from blindai.client.proxy.upstream import Upstream
from blindai.errors import BlindAIError, InvalidInput, Unavailable

# Requests that arrive together are taken one after the other: no more than this waits in memory.
READ_BYTES: Final = 1 << 16

# Between two requests; the enclave has the same patience.
IDLE_SECONDS: Final = 75.0
# From the first byte of a head to its last.
HEAD_SECONDS: Final = 10.0
# Between two pieces of a body.
BODY_SECONDS: Final = 60.0
# In which the client takes nothing of an answer.
WRITE_SECONDS: Final = 60.0
# After a refusal the rest of what the client sends is discarded this long, because closing at once would reset the
# connection and could destroy the refusal before it is read (RFC 9112, section 9.6).
LINGER_SECONDS: Final = 2.0

_CONTINUE: Final = 100


class Refusal(NamedTuple):
    """A request, or a connection, that was refused by the proxy."""

    peer: str
    status: int
    error: BlindAIError


class Terms(NamedTuple):
    """What all connections of one proxy have in common.

    Attributes:
        admission: who may use it.
        authority: `host:port` of the enclave.
        fit: whether another request may be sent on a connection to it.
        open: makes a new one, attested.
        simulated: whether the enclave's platform was, when it was last seen.
        refused: is told of every refusal.
    """

    admission: Admission
    authority: str
    fit: Callable[[Upstream], bool]
    open: Callable[[], Awaitable[Upstream]]
    simulated: Callable[[], bool]
    refused: Callable[[Refusal], None]


class _GoneError(Exception):
    """The client has left."""


class ClientConnection:
    """A connection that was accepted. `serve` it to its end."""

    def __init__(self, terms: Terms, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._terms = terms
        self._reader = reader
        self._writer = writer
        peer = writer.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._requests = RequestStream()
        self._upstream: Upstream | None = None
        self._head: RequestHead | None = None
        self._arrived = False  # all of the request in progress has been received
        self._passed_on = False  # and all of it has been sent on
        self._answering = False  # something of its answer has been written
        self._closing = False  # the client has been told that the connection ends
        self._stopping = False
        self._waiting: asyncio.Task[RequestHead | None] | None = None

    async def serve(self) -> None:
        """Answer requests until either side has had enough."""
        try:
            while not self._stopping and await self._next():
                pass
        except (_GoneError, OSError, TimeoutError):
            self._writer.transport.abort()
        finally:
            if self._upstream is not None:
                self._upstream.abort()
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def turn_away(self, error: BlindAIError) -> None:
        """Refuse the whole connection."""
        try:
            await self._refuse(error)
        except (OSError, TimeoutError):
            self._writer.transport.abort()
        finally:
            self._writer.close()

    def stop(self) -> None:
        """Finish the request in progress, then close."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _next(self) -> bool:
        """Take one request and answer it; whether another may follow."""
        self._head = None
        self._arrived = self._passed_on = self._answering = False
        try:
            head = await self._next_head()
            if head is None:
                return False
            self._head = head
            preflight = self._terms.admission.preflight(head)
            if preflight is None:
                self._terms.admission.require(head)
                self._upstream = await self._connected()
                return await self._exchange(head, self._upstream)
        except BlindAIError as error:
            if self._answering:
                # Half an answer was passed on: only a cut says so.
                raise _GoneError from error
            await self._refuse(error)
            return False
        close = not head.keep_alive or head.length != 0 or self._stopping
        await self._write(message.own_answer(204, preflight, close=close, simulated=self._terms.simulated()))
        return not close and isinstance(await self._part(BODY_SECONDS), End)

    async def _next_head(self) -> RequestHead | None:
        self._waiting = asyncio.ensure_future(self._awaited_head())
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return None
        finally:
            self._waiting = None

    async def _awaited_head(self) -> RequestHead | None:
        loop = asyncio.get_running_loop()
        begun = self._requests.in_head
        try:
            async with asyncio.timeout(HEAD_SECONDS if begun else IDLE_SECONDS) as patience:
                while not self._requests.parts:
                    await self._feed()
                    if self._requests.in_head and not begun:
                        begun = True
                        patience.reschedule(loop.time() + HEAD_SECONDS)
        except _GoneError:
            return None
        except TimeoutError:
            if not begun:
                return None
            raise Unavailable("the request did not arrive in time", code="http.timeout") from None
        head = self._requests.parts.popleft()
        assert isinstance(head, RequestHead)  # noqa: S101 - a message begins with its head
        return head

    async def _part(self, seconds: float) -> RequestPart:
        """The next part of the request in progress.

        Raises:
            BlindAIError: what follows is no HTTP, or it took too long.
            _GoneError: see there.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._requests.parts:
                    await self._feed()
        except TimeoutError:
            raise Unavailable("the request did not arrive in time", code="http.timeout") from None
        return self._requests.parts.popleft()

    async def _feed(self) -> None:
        if self._requests.error is not None:
            raise self._requests.error
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise _GoneError
        self._requests.feed(data)

    async def _connected(self) -> Upstream:
        if self._upstream is not None:
            if self._terms.fit(self._upstream):
                return self._upstream
            self._upstream.close()
            self._upstream = None
        return await self._terms.open()

    async def _exchange(self, head: RequestHead, upstream: Upstream) -> bool:
        up = asyncio.ensure_future(self._pass_request(head, upstream))
        down = asyncio.ensure_future(self._pass_answer(head, upstream))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if down not in done:
                broken = up.exception()
                # Where the enclave no longer takes the request, it may have said why.
                if broken is not None and not (isinstance(broken, Unavailable) and broken.code == "unavailable.closed"):
                    raise broken
            lives = await down
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        if not self._arrived:
            # It was answered early. What is left of its body would be taken for the next request.
            upstream.abort()
            self._upstream = None
            await self._linger()
            return False
        if lives and self._passed_on:
            upstream.rest()
        else:
            upstream.abort()
            self._upstream = None
        return not self._closing and not self._stopping

    async def _pass_request(self, head: RequestHead, upstream: Upstream) -> None:
        """Send the request on as it comes; then watch whether the client waits for the answer."""
        await upstream.send(message.request_upstream(head, self._terms.authority))
        while not isinstance(part := await self._part(BODY_SECONDS), End):
            assert isinstance(part, bytes)  # noqa: S101 - between the head and the end there is nothing else
            await upstream.send(message.chunk(part) if head.length is None else part)
        self._arrived = True
        if head.length is None:
            await upstream.send(message.LAST_CHUNK)
        self._passed_on = True
        if not self._requests.parts and self._requests.error is None:
            await self._feed()  # at most the requests that follow; a client that leaves has its request cancelled

    async def _pass_answer(self, head: RequestHead, upstream: Upstream) -> bool:
        """Pass the answer on as it comes; whether the enclave keeps the connection."""
        answer = AnswerStream(to_head=head.method == b"HEAD")
        chunked = lives = False
        while not answer.complete:
            for plaintext in await upstream.receive():
                try:
                    parts = answer.feed(plaintext)
                except MalformedAnswer as error:
                    raise Unavailable(
                        f"the answer of {self._terms.authority} cannot be read: {error}", code="unavailable.protocol"
                    ) from error
                for part in parts:
                    if isinstance(part, AnswerHead):
                        chunked = part.length is None
                        lives = part.keep_alive
                        await self._pass_head(head, part, upstream, chunked=chunked)
                    elif isinstance(part, bytes):
                        await self._write(message.chunk(part) if chunked else part)
                    elif chunked and head.method != b"HEAD":
                        await self._write(message.LAST_CHUNK)
        return lives

    async def _pass_head(self, head: RequestHead, answer: AnswerHead, upstream: Upstream, *, chunked: bool) -> None:
        if answer.interim:
            if head.modern and answer.status == _CONTINUE:
                await self._write(message.answer_downstream(answer, chunked=False, close=False))
            return
        if answer.length is None and not head.modern:
            # It could end only with the connection, and then nobody could tell a cut from an end.
            raise InvalidInput("an answer in chunks needs a client of HTTP/1.1", code="http.request")
        self._answering = True
        self._closing = not head.keep_alive or not self._arrived or self._stopping
        await self._write(
            message.answer_downstream(
                answer,
                added=self._terms.admission.sharing(head),
                chunked=chunked,
                close=self._closing,
                simulated=upstream.result.simulated,
            )
        )

    async def _refuse(self, error: BlindAIError) -> None:
        head = self._head
        if self._upstream is not None:
            # Part of the request may have left; the enclave must not wait for the rest.
            self._upstream.abort()
            self._upstream = None
        shared = () if head is None else self._terms.admission.sharing(head)
        self._terms.refused(Refusal(self._peer, message.refusal_status(error, page=bool(shared)), error))
        await self._write(message.refusal(error, head, shared=shared, simulated=self._terms.simulated()))
        await self._linger()

    async def _linger(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self._reader.read(READ_BYTES):
                    pass

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(WRITE_SECONDS):
            await self._writer.drain()
