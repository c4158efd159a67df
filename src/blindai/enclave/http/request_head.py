"""What the headers of a request say about its framing, refused where two readers could disagree on it.

Source: RFC 9112, sections 2.3 (version), 3.2 (Host), 6.1 and 6.3 (length of the body), 11.2 (request smuggling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blindai.errors import BlindAIError, InvalidInput

if TYPE_CHECKING:
    import httptools

    from blindai.enclave.config import Limits
    from blindai.enclave.http.exchange import Headers

# Digits of a Content-Length: a petabyte. More is an attempt to overflow somebody's integer.
_MAX_LENGTH_DIGITS = 15


class RequestHead:
    """The framing of one request.

    Args:
        headers: names in lower case.
        version: of HTTP, as "1.1".
        limits: on number and size of headers.

    Attributes:
        version: the same.
        length: of the body; None where it comes in chunks.
        expects_continue: whether the client waits for 100 Continue.

    Raises:
        InvalidInput: `http.request`, `http.content_length`, `http.transfer_encoding`, `http.headers_too_large`.
    """

    __slots__ = ("_coding", "_expectation", "expects_continue", "length", "version")

    def __init__(self, headers: Headers, version: str, limits: Limits) -> None:
        if version not in {"1.1", "1.0"}:
            raise refusal("http.request", "this server speaks HTTP/1.1 only")
        self.version = version
        self.length: int | None = 0
        self._expectation = b""
        self._coding = b"identity"
        size = hosts = lengths = codings = 0
        for name, value in headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths += 1
                self.length = _content_length(value)
            elif name == b"transfer-encoding":
                codings += 1
                self.length = None
                if value.lower() != b"chunked" or version == "1.0":
                    raise refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
            elif name == b"expect":
                self._expectation = value.lower()
            elif name == b"content-encoding":
                self._coding = value.lower()
        if size > limits.max_header_bytes or len(headers) > limits.max_headers:
            raise headers_too_large(limits)
        if lengths + codings > 1:
            raise refusal("http.content_length", "the length of the body is given more than once")
        if hosts != 1 and (hosts or version == "1.1"):
            raise refusal("http.request", "a request must have one Host header")
        self.expects_continue = self._expectation == b"100-continue" and version == "1.1"

    def check_negotiable(self) -> None:
        """Refuse what a client may ask for and this server does not do, without harm to the connection.

        Raises:
            InvalidInput: `http.expect` or `http.content_encoding`.
        """
        if self._expectation not in {b"", b"100-continue"}:
            raise refusal("http.expect", "the only expectation is 100-continue")
        if self._coding != b"identity":
            # A few bytes could unfold into gigabytes, and compressed secrets leak through their length.
            raise InvalidInput(
                "compressed bodies are not accepted", code="http.content_encoding", hint="send the body as it is"
            )


def refusal(code: str, message: str) -> InvalidInput:
    """The error that refuses a request for its HTTP."""
    return InvalidInput(message, code=code)


def headers_too_large(limits: Limits) -> InvalidInput:
    """The refusal of too many or too long headers."""
    return refusal(
        "http.headers_too_large",
        f"a request may have {limits.max_headers} headers and {limits.max_header_bytes} bytes of them",
    )


def parser_refusal(error: httptools.HttpParserError) -> BlindAIError:
    """The typed error behind what the parser raised: a callback's own, or one for what the parser found."""
    if isinstance(error.__context__, BlindAIError):
        return error.__context__
    text = str(error).lower()
    if "content-length" in text:
        return refusal("http.content_length", "the length of the body is given twice or is no number")
    if "transfer-encoding" in text:
        return refusal("http.transfer_encoding", "the only transfer coding is chunked, in HTTP/1.1")
    return refusal("http.request", "this is not an HTTP/1.1 request")


def _content_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise refusal("http.content_length", "Content-Length must be a decimal number of bytes")
    return int(value)
