"""An HTTP/1.1 answer as it comes, for whoever passes it on without keeping it (RFC 9112), sans I/O."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

import httptools

from blindai.channel.http1 import MAX_FRAMING_BYTES_PER_BODY_BYTE, MAX_HEAD_BYTES, MalformedAnswer

# Answers that have no body whatever their fields say (RFC 9112, section 6.3).
_BODILESS: Final = frozenset({204, 304})


class End(Enum):
    """What follows the last part of a message."""

    END = auto()


class AnswerHead(NamedTuple):
    """Status line and fields.

    Attributes:
        status: 100 to 199 for an answer that only announces the one that counts (RFC 9110, section 15.2).
        reason: the words after the status.
        headers: as they came, in their order.
        length: of the body in bytes; None where it comes in chunks.
        keep_alive: whether the connection may be used again.
    """

    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None
    keep_alive: bool

    @property
    def interim(self) -> bool:
        return self.status < 200


AnswerPart = AnswerHead | bytes | End


class AnswerStream:
    """Takes plaintext, gives the parts of one answer: heads, pieces of its body, `End.END`. One for each request."""

    def __init__(self, *, to_head: bool = False) -> None:
        """`to_head`: the request's method was HEAD, so that the answer ends with its fields."""
        self._parser = httptools.HttpResponseParser(self)
        self._to_head = to_head
        self._parts: list[AnswerPart] = []
        self._fed_bytes = 0
        self._body_bytes = 0
        self._status = 0
        self._reset()
        self.complete = False

    def _reset(self) -> None:
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_body = False

    def feed(self, data: bytes) -> list[AnswerPart]:
        """The parts that `data` completes.

        Raises:
            MalformedAnswer: it is not one answer of HTTP/1.1 whose length is clear.
        """
        self._parts = []
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            raise cause if isinstance(cause, MalformedAnswer) else MalformedAnswer(str(error)) from error
        except httptools.HttpParserError as error:
            raise MalformedAnswer(str(error)) from error
        except httptools.HttpParserUpgrade as error:  # no kind of HttpParserError
            raise MalformedAnswer("the peer wants to speak another protocol") from error
        # The parser keeps unfinished fields to itself, so what is no body is counted from the outside.
        if self._fed_bytes - self._body_bytes > MAX_HEAD_BYTES + MAX_FRAMING_BYTES_PER_BODY_BYTE * self._body_bytes:
            raise MalformedAnswer(f"the head of the answer is over {MAX_HEAD_BYTES} bytes")
        return self._parts

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self.complete:
            raise MalformedAnswer("the peer sent more than one answer")
        self._reset()

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # They would pass for headers after all decisions were made on the headers.
            raise MalformedAnswer("the peer sent fields after the body")
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._status = self._parser.get_status_code()
        lengths = [value for name, value in self._headers if name.lower() == b"content-length"]
        chunked = any(name.lower() == b"transfer-encoding" for name, _ in self._headers)
        bodiless = self._to_head or self._status < 200 or self._status in _BODILESS
        if not (bodiless or chunked or lengths):
            # Until the connection ends, that is: then a cut could not be told from an end.
            raise MalformedAnswer("the length of the answer is not given")
        length = int(lengths[0]) if lengths else None if chunked else 0
        keep_alive = self._parser.should_keep_alive()
        self._parts.append(AnswerHead(self._status, self._reason, tuple(self._headers), length, keep_alive))
        if self._to_head and self._status >= 200:
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self.complete:
            raise MalformedAnswer("the peer sent a body where there is none")
        self._body_bytes += len(data)
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._status >= 200 and not self.complete:
            self._finish()
        self._in_body = False

    def _finish(self) -> None:
        self.complete = True
        self._parts.append(End.END)
