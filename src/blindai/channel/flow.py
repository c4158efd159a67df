"""Flows: the client's protocol steps as generators, so that blocking and asyncio callers share every line of them.

A flow yields bytes that must be written, or `READ` when it wants bytes; it is sent what was read, `b""` at the
end of the stream. It returns its value. Nothing in a flow touches a socket, a thread or an event loop.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Generator
from typing import Final, TypeVar, cast

from blindai.errors import Unavailable

T = TypeVar("T")

READ: Final = None
Flow = Generator[bytes | None, bytes, T]

# A 4 MB tensor arrives in few system calls, a 4 KB one costs no large allocation.
READ_BYTES = 1 << 18

# What may have arrived before a flow asks for it; beyond it the peer has to wait.
_MAX_WAITING_BYTES = 1 << 20


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
        except TimeoutError:
            raise
        except OSError:
            # Reset, or no route any more: the end of the stream for whoever reads it.
            return b""

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            # A peer that refuses an upload answers, then closes: what it said can still be read.
            return

    def is_stale(self) -> bool:
        """Whether the peer has closed, or spoken out of turn, while the connection was idle."""
        return _is_readable(self._socket)

    def close(self) -> None:
        self._socket.close()


class AsyncStream(asyncio.Protocol):
    """Drives the same flows on asyncio."""

    def __init__(self, seconds: float | None) -> None:
        """`connect` makes a connected one."""
        self._seconds = seconds
        self._transport: asyncio.Transport
        self._received: deque[bytes] = deque()
        self._received_bytes = 0
        self._ended = False
        self._full = False  # the transport has more to send than it likes to hold
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    async def connect(cls, host: str, port: int, *, connect_seconds: float, seconds: float | None) -> AsyncStream:
        """Connect; `seconds` bounds each read and write from then on.

        Raises:
            Unavailable: `unavailable.connect` or `unavailable.timeout`.
        """
        try:
            async with asyncio.timeout(connect_seconds):
                _, stream = await asyncio.get_running_loop().create_connection(lambda: cls(seconds), host, port)
        except OSError as error:
            raise _unreachable(host, port, error) from error
        return stream

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
                if action is READ:
                    received = await self._read(patience)
                else:
                    await self._write(action, patience)
                action = flow.send(received)
        except StopIteration as stop:
            value: T = stop.value
            return value
        except TimeoutError as error:
            raise _timeout() from error
        finally:
            flow.close()

    async def _read(self, patience: float | None) -> bytes:
        while not self._received:
            if self._ended:
                return b""
            await self._wait(patience)
        data = self._received.popleft()
        if self._received_bytes > _MAX_WAITING_BYTES >= self._received_bytes - len(data):
            self._transport.resume_reading()
        self._received_bytes -= len(data)
        return data

    async def _write(self, data: bytes, patience: float | None) -> None:
        if self._ended:
            return  # as with a blocking socket: what the peer said before it closed can still be read
        self._transport.write(data)
        while self._full and not self._ended:
            await self._wait(patience)

    async def _wait(self, patience: float | None) -> None:
        """Until asyncio calls one of the methods below."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience):
                await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface of asyncio's without descending from it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._received_bytes <= _MAX_WAITING_BYTES < self._received_bytes + len(data):
            self._transport.pause_reading()
        self._received.append(data)
        self._received_bytes += len(data)
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def is_stale(self) -> bool:
        """Whether the peer has closed, or spoken out of turn, while the connection was idle."""
        if self._ended or self._received or self._transport.is_closing():
            return True
        # What has arrived since the event loop looked last: it may have been busy, or stopped, for long.
        return _is_readable(self._transport.get_extra_info("socket"))

    def close(self) -> None:
        """Close at once: what the peer has not taken by now is not waited for."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()


def _is_readable(connection: socket.socket) -> bool:
    if hasattr(select, "poll"):  # select() knows only the first 1024 descriptors of a process
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable)


def _unreachable(host: str, port: int, error: OSError) -> Unavailable:
    if isinstance(error, TimeoutError):
        return Unavailable(f"no answer from {host}:{port} in time", code="unavailable.timeout")
    # asyncio puts words of its own, with the address once more, in place of the system's.
    if error.errno is None or isinstance(error, socket.gaierror):
        reason = error.strerror or str(error)
    else:
        reason = os.strerror(error.errno)
    return Unavailable(
        f"cannot connect to {host}:{port}: {reason}",
        code="unavailable.connect",
        hint="check the address, and that `blindai serve` is running there",
    )


def _timeout() -> Unavailable:
    return Unavailable(
        "the server did not answer in time",
        code="unavailable.timeout",
        hint="pass a larger `timeout` if the model is slow",
    )
