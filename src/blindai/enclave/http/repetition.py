"""What a connection remembers of its last inference request, for the next: most clients send the same head again.

A head of the very same bytes means the same, so it need not be parsed once more. Whatever is not exactly so goes to the
parser, and is judged there as it would be without this memory.
"""

from __future__ import annotations

from typing import NamedTuple

from blindai.enclave.http.exchange import DirectExchange, Handler, KnownHeaders
from blindai.enclave.running.codec import header_length_of
from blindai.errors import InvalidInput

_METHOD = b"POST "
_END = b"\r\n\r\n"
_AUTHORIZATION = b"authorization"


class KnownHead(NamedTuple):
    """The head of a request that the parser has read, and what it made of it.

    Attributes:
        head: the bytes, to the end of the empty line.
        target: of the request.
        headers: names in lower case.
        length: of the body.
    """

    head: bytes
    target: bytes
    headers: KnownHeaders
    length: int

    def exchange(self, handler: Handler) -> DirectExchange:
        """A request with this head, for whose body memory has been reserved."""
        exchange = DirectExchange(
            handler, self.target, self.headers, self.length, expect_continue=False, keep_alive=True
        )
        exchange.reserved = self.length
        return exchange


def known_head(data: bytes, exchange: DirectExchange) -> KnownHead | None:
    """What can be remembered of a request; None where the next one like it should be parsed again.

    Args:
        data: what was given to the parser; it began with the request, and no other request has begun in it.
        exchange: what the parser made of it.
    """
    if exchange.handler is None or exchange.length is None or not exchange.keep_alive:
        return None
    end = data.find(_END) + len(_END)
    if not data.startswith(_METHOD) or end < len(_END):
        return None
    head = data[:end]
    # The parser must have seen the body begin where it begins here, whatever it takes for the end of a line.
    lines = head.count(b"\r\n")
    if exchange.received != len(data) - end or head.count(b"\r") != lines or head.count(b"\n") != lines:
        return None
    names = [name for name, _ in exchange.headers]
    if b"expect" in names or names.count(_AUTHORIZATION) > 1:
        return None
    try:
        json_length = header_length_of(exchange.headers)
    except InvalidInput:
        return None
    headers = KnownHeaders(exchange.headers, json_length, dict(exchange.headers).get(_AUTHORIZATION))
    return KnownHead(head, exchange.target, headers, exchange.length)
