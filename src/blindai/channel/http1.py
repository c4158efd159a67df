"""HTTP/1.1 messages for the client's side (RFC 9112), sans I/O, parsed by httptools (llhttp)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import httptools

# An answer's head is a status line and a handful of short headers. Interim answers count as part of it.
MAX_HEAD_BYTES = 1 << 16

# A chunk of a single byte comes in six (RFC 9112, section 7.1). What exceeds this is not framing but a flood.
MAX_FRAMING_BYTES_PER_BODY_BYTE = 8


class MalformedAnswer(Exception):
    """The peer's answer is not HTTP/1.1, or is larger than was allowed."""


class Answer:
    """One complete response. Header names are lower-case."""

    __slots__ = ("body", "headers", "keep_alive", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes, *, keep_alive: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


def request_head(method: str, target: str, host: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request. The caller vouches for the length of the body it announces.

    Raises:
        ValueError: a field holds a character that could end it early (RFC 9112, section 11.1).
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    for line in lines:
        if not line.isascii() or not line.isprintable():
            raise ValueError("a header or target holds a control or non-ASCII character")
    if " " in target:
        raise ValueError("a target holds a space")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class KnownHead(NamedTuple):
    """The head of an answer that the parser has read. One of the very same bytes means the same.

    Attributes:
        head: the bytes, to the end of the empty line.
        headers: names in lower case.
        length: of the body.
    """

    head: bytes
    headers: dict[str, str]
    length: int


class AnswerReader:
    """Feed it plaintext until `answer` is there. One reader for each exchange.

    Attributes:
        answer: the answer, once it is complete.
        continued: whether the peer has agreed to take the body of the request.
        known: the head of an earlier answer, or of this one: most answers on one connection begin alike.
    """

    def __init__(self, max_body_bytes: int, known: KnownHead | None = None) -> None:
        self.answer: Answer | None = None
        self.continued = False
        self.known = known
        self._max_body_bytes = max_body_bytes
        self._parser: httptools.HttpResponseParser | None = None
        self._fed_bytes = 0
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._in_body = False

    def feed(self, data: bytes) -> None:
        """Take plaintext.

        Raises:
            MalformedAnswer: see the class.
        """
        if not self._fed_bytes and self.known is not None and self._repeats(data, self.known):
            return
        self._fed_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
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
        if self.answer is not None and self._fed_bytes == len(data):
            self.known = _known_head(data, self.answer)

    def _repeats(self, data: bytes, known: KnownHead) -> bool:
        """Take a whole answer that begins with a known head."""
        start = len(known.head)
        if len(data) != start + known.length or known.length > self._max_body_bytes or not data.startswith(known.head):
            return False
        self._fed_bytes = len(data)
        self.answer = Answer(200, dict(known.headers), data[start:], keep_alive=True)
        return True

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self.answer is not None:
            raise MalformedAnswer("the peer sent more than one answer")
        self._reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # They would pass for headers after all decisions were made on the headers.
            raise MalformedAnswer("the peer sent fields after the body")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_body = True
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise MalformedAnswer(f"the answer announces {length} bytes, more than the {self._max_body_bytes} allowed")

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self._max_body_bytes:
            raise MalformedAnswer(f"the body of the answer is over the {self._max_body_bytes} bytes allowed")
        self._body.append(data)

    def on_message_complete(self) -> None:
        parser = self._parser
        if parser is None:
            raise AssertionError("the parser calls this")
        status = parser.get_status_code()
        if status < 200:  # informational (RFC 9110, section 15.2): the answer proper follows
            self.continued = self.continued or status == 100
            self._in_body = False
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self.answer = Answer(status, self._headers, body, keep_alive=parser.should_keep_alive())


def _known_head(data: bytes, answer: Answer) -> KnownHead | None:
    """What to remember of an answer that was read from `data` alone; None where the next should be parsed again."""
    length = len(answer.body)
    if answer.status != 200 or not answer.keep_alive or answer.headers.get("content-length") != str(length):
        return None
    head = data[: len(data) - length]
    # The parser must have seen the head end where it ends here, whatever it takes for the end of a line.
    lines = head.count(b"\r\n")
    if head.find(b"\r\n\r\n") != len(head) - 4 or head.count(b"\r") != lines or head.count(b"\n") != lines:
        return None
    return KnownHead(head, dict(answer.headers), length)
