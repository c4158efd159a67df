"""Plain HTTP/1.1 requests as they come, refused where two readers could disagree on them. Sans I/O.

Source: RFC 9112, sections 2.2 (line ends), 3.2 (target, Host), 5.2 (folded lines), 6 (length of the body), 11.2
(request smuggling). The parser (llhttp) is strict about line ends and fields; what it lets pass is refused here.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import httptools

from blindai.channel.answer_stream import End
from blindai.channel.http1 import MAX_FRAMING_BYTES_PER_BODY_BYTE
from blindai.errors import BlindAIError, InvalidInput

# Clients send a dozen short fields; a bearer token may have some kilobytes.
MAX_HEAD_BYTES: Final = 1 << 16
MAX_HEADERS: Final = 100

# Digits of a Content-Length: a petabyte. More is an attempt to overflow somebody's integer.
_MAX_LENGTH_DIGITS: Final = 15

Headers = tuple[tuple[bytes, bytes], ...]


class RequestHead(NamedTuple):
    """Request line and fields.

    Attributes:
        headers: as they came, in their order.
        length: of the body in bytes; None where it comes in chunks.
        modern: whether the client speaks HTTP/1.1, and not 1.0.
        keep_alive: whether it wants to send more on this connection.
    """

    method: bytes
    target: bytes
    headers: Headers
    length: int | None
    modern: bool
    keep_alive: bool

    def all(self, name: bytes) -> list[bytes]:
        """The values of every field called `name`, which is in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


RequestPart = RequestHead | bytes | End


class RequestStream:
    """Takes what a client sends, gives the parts of its requests.

    Attributes:
        parts: those that have arrived and were not taken yet.
        error: what was wrong with the bytes after them; nothing is read after it.
        in_head: whether a request has begun whose head is not complete.
    """

    def __init__(self) -> None:
        self.parts: deque[RequestPart] = deque()
        self.error: BlindAIError | None = None
        self.in_head = False
        self._parser = httptools.HttpRequestParser(self)
        # Data after "Connection: close" is nobody's request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._fed_bytes = 0
        self._body_bytes = 0
        self._begin()

    def feed(self, data: bytes) -> None:
        """Take `data`; see `parts` and `error`."""
        if self.error is not None:
            return
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.error = _refusal("http.upgrade", "the proxy speaks HTTP/1.1 only")
        except httptools.HttpParserError as error:
            self.error = _parser_refusal(error)
        else:
            # The parser keeps unfinished fields and chunk extensions to itself: they are counted from the outside.
            framing = self._fed_bytes - self._body_bytes
            if framing > MAX_HEAD_BYTES + MAX_FRAMING_BYTES_PER_BODY_BYTE * self._body_bytes:
                self.error = _too_large()

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_body = False

    # httptools calls these. What they raise ends up in `feed`.

    def on_message_begin(self) -> None:
        self._begin()
        self.in_head = True

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # They would pass for headers after all decisions were made on the headers.
            raise _refusal("http.trailers", "fields after the body are not accepted")
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            raise _too_large()

    def on_headers_complete(self) -> None:
        self._in_body = True
        self.in_head = False
        # From here on only what belongs to the body counts.
        self._fed_bytes = self._body_bytes = 0
        size = len(self._target) + sum(len(name) + len(value) for name, value in self._headers)
        if size > MAX_HEAD_BYTES:
            raise _too_large()
        if not self._target.startswith(b"/"):
            raise _refusal("http.target", "the target of a request must be a path")
        if self._parser.should_upgrade():
            raise _refusal("http.upgrade", "the proxy speaks HTTP/1.1 only")
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise _refusal("http.request", "the proxy speaks HTTP/1.1 only")
        modern = version == "1.1"
        head = RequestHead(
            self._parser.get_method(),
            self._target,
            tuple(self._headers),
            self._length(modern=modern),
            modern,
            modern and self._parser.should_keep_alive(),
        )
        if len(head.all(b"host")) != 1:
            raise _refusal("http.request", "a request must have one Host header")
        self.parts.append(head)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self._fed_bytes = self._body_bytes = 0
        self.parts.append(End.END)

    def _length(self, *, modern: bool) -> int | None:
        lengths = [value for name, value in self._headers if name.lower() == b"content-length"]
        codings = [value for name, value in self._headers if name.lower() == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1:
            raise _refusal("http.content_length", "the length of the body is given more than once")
        if codings:
            if codings[0].lower() != b"chunked" or not modern:
                raise _refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
            return None
        if lengths and (not lengths[0].isdigit() or len(lengths[0]) > _MAX_LENGTH_DIGITS):
            raise _refusal("http.content_length", "Content-Length must be a decimal number of bytes")
        return int(lengths[0]) if lengths else 0


def _parser_refusal(error: httptools.HttpParserError) -> BlindAIError:
    if isinstance(error.__context__, BlindAIError):
        return error.__context__
    text = str(error).lower()
    if "content-length" in text:
        return _refusal("http.content_length", "the length of the body is given twice or is no number")
    if "transfer-encoding" in text:
        return _refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
    return _refusal("http.request", "this is not an HTTP/1.1 request")


def _too_large() -> InvalidInput:
    return _refusal(
        "http.headers_too_large", f"a request may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes of them"
    )


def _refusal(code: str, message: str) -> InvalidInput:
    return InvalidInput(message, code=code)
