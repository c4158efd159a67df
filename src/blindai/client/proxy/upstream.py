"""The attested side of one client's connection, on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final, TypeVar

from blindai.attestation.result import AttestationResult
from blindai.channel.client import AttestedChannel
from blindai.channel.duplex import Duplex
from blindai.channel.flow import READ, READ_BYTES, Flow
from blindai.channel.opened import server_name
from blindai.channel.relying_party import RelyingParty
from blindai.client.profile import Address
from blindai.errors import Unavailable

T = TypeVar("T")

# To connect, shake hands and attest: as long as the enclave itself waits for it, and a connection that needs retries.
OPENING_SECONDS: Final = 30.0
# The enclave takes nothing of a request, or says nothing of an answer: it answers an upload once the model is built.
STALLED_SECONDS: Final = 600.0


class Upstream:
    """One connection to the enclave, attested before this object exists.

    Attributes:
        result: the verdict.
    """

    def __init__(self, duplex: Duplex, result: AttestationResult, wire: _Wire, authority: str) -> None:
        """`open` makes one."""
        self.result = result
        self._duplex = duplex
        self._wire = wire
        self._authority = authority
        self._ahead: asyncio.Task[bytes] | None = None

    @classmethod
    async def open(cls, party: RelyingParty, address: Address) -> Upstream:
        """Connect and attest.

        Raises:
            AttestationError: the enclave is refused.
            Unavailable: it cannot be reached, or takes too long.
        """
        channel = AttestedChannel(party, server_name=server_name(address.host))
        wire: _Wire | None = None
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                wire = _Wire(*await asyncio.open_connection(address.host, address.port, limit=READ_BYTES))
                result = await wire.run(channel.open())
                return cls(channel.duplex(), result, wire, address.authority)
        except BaseException as error:
            if wire is not None:
                wire.abort()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"no answer from {address.authority} in time", code="unavailable.timeout") from error
            if isinstance(error, OSError):
                raise Unavailable(
                    f"cannot connect to {address.authority}: {error.strerror or error}", code="unavailable.connect"
                ) from error
            raise

    def fit(self, party: RelyingParty) -> bool:
        """Whether a request may be sent on it now: its verdict still counts, and the enclave has not ended it."""
        silent = self._ahead is None or not self._ahead.done()
        return silent and not self._duplex.ended and not self.result.has_expired(party.now())

    async def send(self, data: bytes) -> None:
        """Send plaintext.

        Raises:
            Unavailable: `unavailable.protocol`, `unavailable.timeout`, `unavailable.closed`.
        """
        for wire in self._duplex.send(data):
            await self._write(wire)

    async def receive(self) -> Iterator[bytes]:
        """The plaintext that arrives next, record by record.

        Raises:
            Unavailable: the connection has ended, or nothing came in `STALLED_SECONDS`.
        """
        if self._duplex.ended:
            raise self._closed("ended the TLS connection")
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                data = await (self._ahead or self._wire.reader.read(READ_BYTES))
        except TimeoutError as error:
            raise self._stalled() from error
        except OSError as error:
            raise self._closed("cut the connection") from error
        finally:
            self._ahead = None
        if not data:
            raise self._closed("closed the connection")
        plaintexts = list(self._duplex.receive(data))
        if wire := self._duplex.outgoing():
            await self._write(wire)
        return iter(plaintexts)

    def rest(self) -> None:
        """No exchange is under way; what arrives until the next one ends the connection."""
        self._ahead = asyncio.ensure_future(self._wire.reader.read(READ_BYTES))
        self._ahead.add_done_callback(_looked_at)

    def close(self) -> None:
        """Say that all was sent, and end the connection."""
        self._stop_reading()
        with contextlib.suppress(OSError):
            self._wire.writer.write(self._duplex.close())
        self._wire.writer.close()

    def abort(self) -> None:
        """Cut the connection: the enclave must not take what it has for a whole request."""
        self._stop_reading()
        self._wire.abort()

    def _stop_reading(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None

    async def _write(self, wire: bytes) -> None:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                self._wire.writer.write(wire)
                await self._wire.writer.drain()
        except TimeoutError as error:
            raise self._stalled() from error
        except OSError as error:
            raise self._closed("cut the connection") from error

    def _closed(self, what: str) -> Unavailable:
        return Unavailable(f"{self._authority} {what} before its answer was complete", code="unavailable.closed")

    def _stalled(self) -> Unavailable:
        return Unavailable(f"{self._authority} did not go on in time", code="unavailable.timeout")


class _Wire:
    """The TCP connection below."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow of the channel to its end."""
        received = b""
        try:
            action = next(flow)
            while True:
                if action is READ:
                    try:
                        received = await self.reader.read(READ_BYTES)
                    except OSError:
                        received = b""  # reset: the end of the stream for whoever reads it
                else:
                    self.writer.write(action)
                action = flow.send(received)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            flow.close()

    def abort(self) -> None:
        self.writer.transport.abort()


def _looked_at(ahead: asyncio.Task[bytes]) -> None:
    """A connection that broke while nobody used it is no error of anybody."""
    if not ahead.cancelled():
        ahead.exception()
