"""One exchange in parts: the request as it is made, the answer as it comes. Flows, as `channel.flow` drives them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from blindai.channel.answer_stream import AnswerHead, AnswerPart, AnswerStream, End
from blindai.channel.duplex import Duplex
from blindai.channel.flow import READ, Flow
from blindai.channel.http1 import MalformedAnswer
from blindai.errors import Unavailable


class Conversation:
    """Send the request, then ask for `head`, then for each `part` until it is empty. `AttestedChannel.converse`."""

    def __init__(
        self, duplex: Duplex, address: str, *, to_head: bool, sent: Callable[[int], None], done: Callable[[bool], None]
    ) -> None:
        """`sent` is told of the bytes that leave; `done`, at the end of the answer, whether the connection lives on."""
        self._duplex = duplex
        self._address = address
        self._answer = AnswerStream(to_head=to_head)
        self._parts: deque[AnswerPart] = deque()
        self._sent = sent
        self._done = done
        self._keep_alive = False

    def send(self, data: bytes | bytearray | memoryview) -> Flow[None]:
        """Send the next bytes of the request, its head included.

        Raises:
            Unavailable: `unavailable.protocol`.
        """
        for wire in self._duplex.send(data):
            self._sent(len(wire))
            yield wire

    def head(self) -> Flow[AnswerHead]:
        """Status and fields of the answer; interim ones are passed over.

        Raises:
            Unavailable: `unavailable.closed` or `unavailable.protocol`.
        """
        while True:
            part = yield from self._next()
            if isinstance(part, AnswerHead) and not part.interim:
                self._keep_alive = part.keep_alive
                return part

    def part(self) -> Flow[bytes]:
        """The next bytes of the body; none at its end.

        Raises:
            Unavailable: `unavailable.closed`, the answer was cut; `unavailable.protocol`.
        """
        while True:
            part = yield from self._next()
            if isinstance(part, bytes):
                return part
            if isinstance(part, End):
                self._done(self._keep_alive and not self._duplex.ended)
                return b""

    def _next(self) -> Flow[AnswerPart]:
        while not self._parts:
            if self._duplex.ended:
                raise self._cut("ended the TLS connection")
            received = yield READ
            if not received:
                raise self._cut("closed the connection")
            try:
                for plaintext in self._duplex.receive(received):
                    self._parts.extend(self._answer.feed(plaintext))
            except MalformedAnswer as error:
                raise Unavailable(
                    f"the exchange with {self._address} broke off: {error}", code="unavailable.protocol"
                ) from error
            if wire := self._duplex.outgoing():
                yield wire
        return self._parts.popleft()

    def _cut(self, what: str) -> Unavailable:
        return Unavailable(f"{self._address} {what} before its answer was complete", code="unavailable.closed")
