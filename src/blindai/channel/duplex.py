"""An attested connection taken over: plaintext in both directions at once, sans I/O, for whoever speaks HTTP on it."""

from __future__ import annotations

from collections.abc import Iterator

from blindai.channel.tls import TLSFailure, TLSPipe, pieces
from blindai.errors import Unavailable


class Duplex:
    """The plaintext of one connection whose peer is attested. `AttestedChannel.duplex` makes it.

    Attributes:
        ended: the peer has said in good order that nothing follows (close_notify).
    """

    def __init__(self, pipe: TLSPipe, address: str) -> None:
        self._pipe = pipe
        self._address = address
        self.ended = False

    def send(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """The bytes to put on the wire for `data`, in portions.

        Raises:
            Unavailable: `unavailable.protocol`, the connection has failed.
        """
        try:
            for piece in pieces((data,)):
                self._pipe.write(piece)
                yield self._pipe.outgoing()
        except TLSFailure as error:
            raise self._broken(error) from error

    def receive(self, wire: bytes) -> Iterator[bytes]:
        """The plaintext that `wire` completes, record by record. `outgoing` may have something for the peer then.

        Raises:
            Unavailable: `unavailable.protocol`, a record did not authenticate.
        """
        self._pipe.feed(wire)
        try:
            while plaintext := self._pipe.read():
                yield plaintext
        except TLSFailure as error:
            raise self._broken(error) from error
        if plaintext == b"":
            self.ended = True

    def outgoing(self) -> bytes:
        """What TLS itself has for the peer, such as an update of keys."""
        return self._pipe.outgoing()

    def close(self) -> bytes:
        """The bytes that say to the peer that all was sent (close_notify)."""
        self._pipe.close()
        return self._pipe.outgoing()

    def _broken(self, error: TLSFailure) -> Unavailable:
        return Unavailable(f"the connection to {self._address} broke off: {error}", code="unavailable.protocol")
