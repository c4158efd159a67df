"""A connection that this end opened, sans I/O: TLS 1.3 and HTTP/1.1, whichever end is the one that attests itself."""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from blindai.channel import gate
from blindai.channel.flow import READ, Flow
from blindai.channel.http1 import Answer, AnswerReader, KnownHead, MalformedAnswer, request_head
from blindai.channel.tls import PIECE_BYTES, TLSFailure, TLSPipe, pieces
from blindai.errors import BlindAIError, Unavailable

if TYPE_CHECKING:
    from OpenSSL import SSL

# How much of a stranger's words an error repeats.
MAX_QUOTED = 200


class OpenedConnection(ABC):
    """One TCP connection. A subclass decides on the peer before it lets anything else be exchanged.

    Attributes:
        address: `host:port` of the peer, as it goes into the Host header and into messages.
        application_bytes_sent: how many bytes of TLS records with application data left so far.
    """

    def __init__(self, context: SSL.Context, address: str, *, server_name: str | None = None) -> None:
        self.address = address
        self._pipe = TLSPipe(context, server=False)
        if server_name is not None:
            self._pipe.set_server_name(server_name)
        self._usable = True
        self._known: KnownHead | None = None
        self.application_bytes_sent = 0

    @property
    def usable(self) -> bool:
        """Whether another exchange can be made on this connection."""
        return self._usable

    @property
    def group(self) -> str:
        """The key-exchange group of the connection."""
        return self._pipe.group

    def close(self) -> Flow[None]:
        """Say good-bye (close_notify)."""
        self._usable = False
        if self._pipe.established:
            self._pipe.close()
            if farewell := self._pipe.outgoing():
                yield farewell

    @abstractmethod
    def _tls_refusal(self, reason: str) -> BlindAIError:
        """What a handshake that failed for OpenSSL's `reason` is raised as."""

    def _handshake(self) -> Flow[None]:
        try:
            while not self._pipe.handshake():
                if outgoing := self._pipe.outgoing():
                    yield outgoing
                received = yield READ
                if not received:
                    raise Unavailable(
                        f"{self.address} closed the connection during the TLS handshake", code="unavailable.handshake"
                    )
                self._pipe.feed(received)
        except TLSFailure as error:
            if outgoing := self._pipe.outgoing():
                yield outgoing
            raise self._tls_refusal(error.reason) from error

    def _ask(
        self, path: str, message: msgspec.Struct, *, max_answer_bytes: int = gate.MAX_ANSWER_BYTES
    ) -> Flow[Answer]:
        """One exchange of the gate."""
        body = gate.encoder.encode(message)
        head = request_head(
            "POST", path, self.address, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        )
        return (yield from self._exchange(head, [body], max_answer_bytes=max_answer_bytes, application=False))

    def _exchange_once(
        self,
        head: bytes,
        body: Iterable[bytes | bytearray | memoryview],
        *,
        max_answer_bytes: int,
        expect_continue: bool = False,
    ) -> Flow[Answer]:
        """One exchange of the application, after which the connection may be used again only if both ends want that.

        Raises:
            Unavailable: the connection ended before the answer was complete, or had ended before; then nothing was
                sent.
        """
        if not self._usable:
            raise Unavailable(f"the connection to {self.address} has ended", code="unavailable.closed")
        # Until the answer is complete, the connection is in the middle of something.
        self._usable = False
        answer = yield from self._exchange(
            head, body, max_answer_bytes=max_answer_bytes, expect_continue=expect_continue
        )
        self._usable = answer.keep_alive
        return answer

    def _exchange(
        self,
        head: bytes,
        body: Iterable[bytes | bytearray | memoryview],
        *,
        max_answer_bytes: int,
        expect_continue: bool = False,
        application: bool = True,
    ) -> Flow[Answer]:
        reader = AnswerReader(max_answer_bytes, self._known)
        parts: Iterable[bytes | bytearray | memoryview] = chain((head,), body)
        try:
            if expect_continue:
                self._pipe.write(head)
                yield self._take(application=application)
                while reader.answer is None and not reader.continued:
                    yield from self._read_into(reader)
                parts = body
            if reader.answer is None:
                waiting = 0
                for piece in pieces(parts):
                    self._pipe.write(piece)
                    waiting += len(piece)
                    if waiting >= PIECE_BYTES:
                        yield self._take(application=application)
                        waiting = 0
                if outgoing := self._take(application=application):
                    yield outgoing
            while reader.answer is None:
                yield from self._read_into(reader)
        except (TLSFailure, MalformedAnswer) as error:
            raise Unavailable(
                f"the exchange with {self.address} broke off: {error}", code="unavailable.protocol"
            ) from error
        self._known = reader.known
        return reader.answer

    def _take(self, *, application: bool) -> bytes:
        outgoing = self._pipe.outgoing()
        if application:
            self.application_bytes_sent += len(outgoing)
        return outgoing

    def _read_into(self, reader: AnswerReader) -> Flow[None]:
        """Read from the wire once, and pass on all plaintext that this gave."""
        received = yield READ
        if not received:
            raise Unavailable(
                f"{self.address} closed the connection before its answer was complete", code="unavailable.closed"
            )
        self._pipe.feed(received)
        while plaintext := self._pipe.read():
            reader.feed(plaintext)
        if plaintext == b"" and reader.answer is None:
            raise Unavailable(
                f"{self.address} ended the TLS connection before its answer was complete", code="unavailable.closed"
            )


def server_name(host: str) -> str | None:
    """What goes into SNI: names only, never addresses (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def problem_in(answer: Answer) -> str:
    """What the peer gave as its reason, cut short: nobody vouches for the peer."""
    try:
        problem = gate.problem_decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"HTTP status {answer.status}"
    return f"HTTP status {answer.status}, {problem.code}: {problem.error}"[:MAX_QUOTED]
