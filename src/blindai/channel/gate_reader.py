"""Reading one gate request from the plaintext of a connection, and nothing else."""

from __future__ import annotations

import http

import httptools

from blindai.channel.gate import MAX_REQUEST_HEAD_BYTES, GateRefusal


class GateReader:
    """Reads exactly one gate request; anything else is refused before it is looked at."""

    def __init__(self, path: str, *, max_body_bytes: int) -> None:
        """The request is a POST to `path`."""
        self._path = path
        self._max_body_bytes = max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head_bytes = 0
        self._in_body = False
        self._body = bytearray()
        self._complete = False
        self._refusal: GateRefusal | None = None

    def close(self) -> None:
        """Let go of the parser, which holds this object in turn."""
        self._parser = None  # type: ignore[assignment] # nothing is read after this

    def feed(self, data: bytes) -> bytes | None:
        """The body of the request, once it is complete.

        Raises:
            GateRefusal: this is not a gate request, or more than one.
        """
        in_head = not self._in_body
        if in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise self._refusal or GateRefusal(400, "gate.http", "this is not an HTTP/1.1 request") from error
        # The body may have begun in the same bytes.
        if in_head and self._head_bytes - len(self._body) > MAX_REQUEST_HEAD_BYTES:
            raise GateRefusal(431, "gate.too_large", "the head of a gate request is a few short lines")
        return bytes(self._body) if self._complete else None

    def _required(self) -> GateRefusal:
        return GateRefusal(403, "gate.required", f"nothing is served before the gate is open: POST {self._path} first")

    def _refuse(self, refusal: GateRefusal) -> None:
        # httptools wraps what its callbacks raise, so the reason is kept here.
        self._refusal = refusal
        raise refusal

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self._complete:
            self._refuse(GateRefusal(400, "gate.pipelined", "nothing may be sent before the gate has answered"))

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        self._in_body = True
        if self._parser.get_method() != b"POST" or self._url != self._path.encode():
            self._refuse(self._required())

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._max_body_bytes:
            self._refuse(
                GateRefusal(413, "gate.too_large", f"this gate request has at most {self._max_body_bytes} bytes")
            )

    def on_message_complete(self) -> None:
        self._complete = True


def http_answer(status: int, body: bytes, *, keep_alive: bool) -> bytes:
    """A complete HTTP/1.1 answer with a JSON body."""
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("ascii") + body
