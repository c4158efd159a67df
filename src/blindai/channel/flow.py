"""Flows: the client's protocol steps as generators, so that blocking and asyncio callers share every line of them.

A flow yields bytes that must be written, or `READ` when it wants bytes; it is sent what was read, `b""` at the
end of the stream. It returns its value. Nothing in a flow touches a socket, a thread or an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Generator
from typing import Final, TypeVar

from blindai.errors import Unavailable

T = TypeVar("T")

READ: Final = None
Flow = Generator[bytes | None, bytes, T]

# A 4 MB tensor arrives in few system calls, a 4 KB one costs no large allocation.
READ_BYTES = 1 << 18


class BlockingStream:
    """Drives flows over a blocking socket."""

    def __init__(self, host: str, port: int, *, connect_seconds: float, seconds: float | None) -> None:
        """Connect; `seconds` bounds each read and write from then on.

        Raises:
            Unavailable: `unavailable.connect` or `unavailable.timeout`.
        """
        try:
            self._socket = socket.create_connection((host, port), timeout=connect_seconds)
        except OSError as error:
            raise _unreachable(host, port, error) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(seconds)
        self._seconds = seconds

    def run(self, flow: Flow[T], *, seconds: float | None = None) -> T:
        """Run `flow` to its end; `seconds` bounds its reads and writes in place of the stream's own bound.

        Raises:
            Unavailable: `unavailable.timeout`; and whatever the flow raises.
        """
        received = b""
        if seconds is not None:
            self._socket.settimeout(seconds)
        try:
            action = next(flow)
            while True:
                if action is READ:
                    received = self._read()
                else:
                    self._write(action)
                action = flow.send(received)
        except StopIteration as stop:
            value: T = stop.value
            return value
        except TimeoutError as error:
            raise _timeout() from error
        finally:
            flow.close()
            if seconds is not None:
                self._socket.settimeout(self._seconds)

    def _read(self) -> bytes:
        try:
            return self._socket.recv(READ_BYTES)
        except ConnectionError:
            return b""

    def _write(self, data: bytes) -> None:
        # A peer that refuses an upload answers, then closes: what it said can still be read.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def is_stale(self) -> bool:
        """Whether the peer has closed, or spoken out of turn, while the connection was idle."""
        if hasattr(select, "poll"):  # select() knows only the first 1024 descriptors of a process
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def close(self) -> None:
        self._socket.close()


class AsyncStream:
    """Drives the same flows on asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float | None) -> None:
        self._reader = reader
        self._writer = writer
        self._seconds = seconds

    @classmethod
    async def connect(cls, host: str, port: int, *, connect_seconds: float, seconds: float | None) -> AsyncStream:
        """Connect; `seconds` bounds each read and write from then on.

        Raises:
            Unavailable: `unavailable.connect` or `unavailable.timeout`.
        """
        try:
            async with asyncio.timeout(connect_seconds):
                reader, writer = await asyncio.open_connection(host, port, limit=READ_BYTES)
        except OSError as error:
            raise _unreachable(host, port, error) from error
        return cls(reader, writer, seconds)

    async def run(self, flow: Flow[T], *, seconds: float | None = None) -> T:
        """Run `flow` to its end; `seconds` bounds its reads and writes in place of the stream's own bound.

        Raises:
            Unavailable: `unavailable.timeout`; and whatever the flow raises.
        """
        received = b""
        patience = self._seconds if seconds is None else seconds
        try:
            action = next(flow)
            while True:
                async with asyncio.timeout(patience):
                    if action is READ:
                        received = await self._read()
                    else:
                        await self._write(action)
                action = flow.send(received)
        except StopIteration as stop:
            value: T = stop.value
            return value
        except TimeoutError as error:
            raise _timeout() from error
        finally:
            flow.close()

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""

    async def _write(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    def is_stale(self) -> bool:
        """Whether the peer has closed while the connection was idle."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()


def _unreachable(host: str, port: int, error: OSError) -> Unavailable:
    if isinstance(error, TimeoutError):
        return Unavailable(f"no answer from {host}:{port} in time", code="unavailable.timeout")
    return Unavailable(
        f"cannot connect to {host}:{port}: {error.strerror or error}",
        code="unavailable.connect",
        hint="check the address, and that `blindai serve` is running there",
    )


def _timeout() -> Unavailable:
    return Unavailable(
        "the server did not answer in time",
        code="unavailable.timeout",
        hint="pass a larger `timeout` if the model is slow",
    )
