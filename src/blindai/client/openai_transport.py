"""Attested connections as transports of httpx2: requests and answers as streams, a connection for each at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2

from blindai.attestation.policy import Policy
from blindai.channel.answer_stream import AnswerHead
from blindai.channel.conversation import Conversation
from blindai.channel.http1 import request_head
from blindai.client.async_connection import AsyncConnection
from blindai.client.connection import Connection
from blindai.client.session import Link
from blindai.errors import ConfigurationError, Unavailable

# Connections of one client on asyncio: each answer that is being read keeps one.
MAX_CONNECTIONS: Final = 64

# Fields that a transport sets by itself, or that only concern one connection (RFC 9110, section 7.6.1).
_OWN: Final = frozenset({"host", "connection", "transfer-encoding", "content-length", "keep-alive", "te", "upgrade"})
# `openai` takes them from the environment; they are accounts elsewhere.
_FOREIGN: Final = frozenset({"openai-organization", "openai-project"})


# Stands where `openai` wants a key and there is none; it never leaves.
NO_API_KEY: Final = "no-api-key"


class UnreachableError(Unavailable, httpx2.NetworkError):
    """No answer has begun: whoever retries on errors of the network may."""


class TimedOutError(Unavailable, httpx2.ReadTimeout):
    """No answer began in time."""


class AttestedTransport(Connection, httpx2.BaseTransport):  # type: ignore[misc] # `with` passes by position
    """Requests over the connections of a `Connection`. Safe to use from several threads."""

    def __init__(
        self,
        addr: str | None,
        *,
        api_key: str | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        simulation: bool = False,
    ) -> None:
        """Connect and attest; the arguments and errors are those of `Connection`."""
        # The bounds of the waits come with each request.
        super().__init__(addr, api_key=api_key, policy=policy, simulation=simulation, timeout=None)

    @property
    def api_key(self) -> str | None:
        """The key for `openai` to send: the one that was given, else one that was stored for this cloud."""
        return self._api_key

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its answer's body comes as it is read.

        Raises:
            AttestationError: the peer is refused, or its verdict has expired.
            ConfigurationError: `configuration.address`, the request is for another server.
            Unavailable: it is an error of httpx2 too.
        """
        head, chunked = _head(request, self._address.authority)
        seconds = _seconds(request)
        try:
            link = self._take()
        except Unavailable as error:
            raise _retriable(error) from error
        try:
            conversation = link.channel.converse(request.method)
            link.stream.run(conversation.send(head), seconds=seconds)
            for piece in request.stream:  # type: ignore[union-attr] # a blocking client has no other
                if piece:
                    link.stream.run(conversation.send(_chunk(piece) if chunked else piece), seconds=seconds)
            if chunked:
                link.stream.run(conversation.send(b"0\r\n\r\n"), seconds=seconds)
            answer = link.stream.run(conversation.head(), seconds=seconds)
        except Unavailable as error:
            link.stream.close()
            raise _retriable(error) from error
        except BaseException:
            link.stream.close()
            raise
        return _response(answer, _Body(self, link, conversation, seconds))

    def give_back(self, link: Link) -> None:
        """Keep a connection whose answer was read, or close it."""
        self._give_back(link)


class AsyncAttestedTransport(AsyncConnection, httpx2.AsyncBaseTransport):  # type: ignore[misc] # as above
    """The same for asyncio, over the connections of an `AsyncConnection`."""

    def __init__(
        self,
        addr: str | None,
        *,
        api_key: str | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        simulation: bool = False,
    ) -> None:
        """No enclave is contacted yet, but the directory of a stored cloud is: `openai` wants an address at once.

        The arguments and errors are those of `AsyncConnection`.
        """
        super().__init__(addr, api_key=api_key, policy=policy, simulation=simulation, timeout=None)
        if not self._is_found:
            self._go_to(self._destination.find())
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    @property
    def api_key(self) -> str | None:
        """See `AttestedTransport`."""
        return self._api_key

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `AttestedTransport.handle_request`."""
        head, chunked = _head(request, self._address.authority)
        seconds = _seconds(request)
        await self._places.acquire()
        try:
            link, conversation, answer = await self._begin(request, head, seconds, chunked=chunked)
        except BaseException:
            self._places.release()
            raise
        return _response(answer, _AsyncBody(self, link, conversation, seconds))

    async def aclose(self) -> None:
        """Close all connections."""
        await self.close()

    def give_back(self, link: Link) -> None:
        """Keep a connection whose answer was read, or close it."""
        self._places.release()
        self._give_back(link)

    async def _begin(
        self, request: httpx2.Request, head: bytes, seconds: float | None, *, chunked: bool
    ) -> tuple[Link, Conversation, AnswerHead]:
        try:
            link = await self._take()
        except Unavailable as error:
            raise _retriable(error) from error
        try:
            conversation = link.channel.converse(request.method)
            await link.stream.run(conversation.send(head), seconds=seconds)
            async for piece in request.stream:  # type: ignore[union-attr] # a client on asyncio has no other
                if piece:
                    await link.stream.run(conversation.send(_chunk(piece) if chunked else piece), seconds=seconds)
            if chunked:
                await link.stream.run(conversation.send(b"0\r\n\r\n"), seconds=seconds)
            answer = await link.stream.run(conversation.head(), seconds=seconds)
        except Unavailable as error:
            link.stream.close()
            raise _retriable(error) from error
        except BaseException:
            link.stream.close()
            raise
        return link, conversation, answer


class _Body(httpx2.SyncByteStream):
    """The body of an answer as it comes. Read to its end, the connection serves the next request."""

    def __init__(
        self, transport: AttestedTransport, link: Link, conversation: Conversation, seconds: float | None
    ) -> None:
        self._transport = transport
        self._link: Link | None = link
        self._conversation = conversation
        self._seconds = seconds

    def __iter__(self) -> Iterator[bytes]:
        while self._link is not None:
            part = self._link.stream.run(self._conversation.part(), seconds=self._seconds)
            if not part:
                self.close()
                return
            yield part

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._transport.give_back(link)  # which closes it where the answer has not ended


class _AsyncBody(httpx2.AsyncByteStream):
    """The same for asyncio."""

    def __init__(
        self, transport: AsyncAttestedTransport, link: Link, conversation: Conversation, seconds: float | None
    ) -> None:
        self._transport = transport
        self._link: Link | None = link
        self._conversation = conversation
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._link is not None:
            part = await self._link.stream.run(self._conversation.part(), seconds=self._seconds)
            if not part:
                await self.aclose()
                return
            yield part

    async def aclose(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._transport.give_back(link)


def _head(request: httpx2.Request, authority: str) -> tuple[bytes, bool]:
    """The head of `request`, and whether its body goes in chunks.

    Raises:
        ConfigurationError: `configuration.address`.
    """
    url = request.url
    host = f"[{url.host}]" if ":" in url.host else url.host
    if url.scheme != "https" or f"{host}:{url.port or 443}".lower() != authority.lower():
        raise ConfigurationError(
            f"this client talks to {authority} only, not to {url.scheme}://{host}", code="configuration.address"
        )
    fields = [
        (name, value)
        for name, value in request.headers.multi_items()
        if name.lower() not in _OWN | _FOREIGN and (name.lower(), value) != ("authorization", f"Bearer {NO_API_KEY}")
    ]
    length = request.headers.get("content-length")
    chunked = length is None and "transfer-encoding" in request.headers
    if chunked:
        fields.append(("Transfer-Encoding", "chunked"))
    elif length is not None:
        fields.append(("Content-Length", length))
    return request_head(request.method, url.raw_path.decode("ascii"), authority, fields), chunked


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _seconds(request: httpx2.Request) -> float | None:
    timeouts: dict[str, Any] = request.extensions.get("timeout", {})
    return timeouts.get("read")


def _response(answer: AnswerHead, body: _Body | _AsyncBody) -> httpx2.Response:
    return httpx2.Response(
        answer.status,
        headers=list(answer.headers),
        stream=body,
        extensions={"http_version": b"HTTP/1.1", "reason_phrase": answer.reason},
    )


def _retriable(error: Unavailable) -> Unavailable:
    """`error` as an error of httpx2 too."""
    kind: type[UnreachableError | TimedOutError] = (
        TimedOutError if error.code == "unavailable.timeout" else UnreachableError
    )
    made: UnreachableError | TimedOutError = kind.__new__(kind)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    made._request = None  # noqa: SLF001 - as httpx2's own constructor leaves it
    return made
