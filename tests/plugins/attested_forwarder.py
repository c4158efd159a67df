"""A plain loopback port to an attested enclave, for clients that know neither attestation nor TLS.

Each connection accepted there gets an attested connection of its own, and then bytes go both ways exactly as they
come. It is a tool for tests: whoever reaches the port speaks with the enclave's trust and without its protection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from blindai.attestation.policy import Policy
from blindai.channel.client import AttestedChannel
from blindai.channel.flow import READ, READ_BYTES, Flow
from blindai.channel.relying_party import RelyingParty
from blindai.channel.tls import TLSFailure, TLSPipe
from blindai.errors import BlindAIError

T = TypeVar("T")

PATIENCE_SECONDS: Final = 30.0


class AttestedForwarder:
    """Listens on loopback, in a thread with its own event loop. A context manager.

    Attributes:
        port: where it listens.
        refusals: why connections were closed before a byte was forwarded.
    """

    def __init__(self, address: str, policy: Policy) -> None:
        """`address` is the enclave's, `https://host:port`; `policy` is what it must meet."""
        authority = address.removeprefix("https://")
        host, _, port = authority.rpartition(":")
        self._enclave = (host, int(port))
        self._party = RelyingParty(authority, policy)
        self.port = 0
        self.refusals: list[BlindAIError] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._connection(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=READ_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain = End(reader, writer)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                wire = End(*await asyncio.open_connection(*self._enclave, limit=READ_BYTES))
            try:
                channel = AttestedChannel(self._party)
                await _run(channel.open(), wire)
                await _forward(channel._pipe, plain, wire)
            finally:
                wire.writer.close()
        except BlindAIError as error:
            self.refusals.append(error)
        finally:
            writer.close()


class End(NamedTuple):
    """One side of a forwarded connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def _run(flow: Flow[T], wire: End) -> T:
    """Run a flow of the channel; this file has its own way to, since it goes on reading where the flow stops."""
    action = next(flow)
    try:
        while True:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if action is READ:
                    action = flow.send(await wire.reader.read(READ_BYTES))
                else:
                    wire.writer.write(action)
                    await wire.writer.drain()
                    action = next(flow)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        flow.close()


async def _forward(pipe: TLSPipe, plain: End, wire: End) -> None:
    """Carry bytes between both ends until the enclave has ended the connection, or either end broke it."""
    outward = asyncio.create_task(_outward(pipe, plain.reader, wire.writer))
    try:
        await _inward(pipe, wire, plain.writer)
    except (ConnectionError, TLSFailure):
        plain.writer.transport.abort()
    finally:
        outward.cancel()
        await asyncio.gather(outward, return_exceptions=True)


async def _outward(pipe: TLSPipe, plain: asyncio.StreamReader, wire: asyncio.StreamWriter) -> None:
    try:
        while data := await plain.read(READ_BYTES):
            pipe.write(data)
            wire.write(pipe.outgoing())
            await wire.drain()
        pipe.close()
        wire.write(pipe.outgoing())
    except (ConnectionError, TLSFailure):
        # Cut here, cut there: no close_notify, which would say that all was sent.
        wire.transport.abort()


async def _inward(pipe: TLSPipe, wire: End, plain: asyncio.StreamWriter) -> None:
    plaintext: bytes | None = None
    while plaintext != b"" and (data := await wire.reader.read(READ_BYTES)):
        pipe.feed(data)
        while plaintext := pipe.read():
            plain.write(plaintext)
        if outgoing := pipe.outgoing():
            wire.writer.write(outgoing)
        with contextlib.suppress(ConnectionError):  # whoever left the plain end may have asked for nothing more
            await plain.drain()
