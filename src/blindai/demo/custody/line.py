"""The borrower's network between enclave and custodian: bytes pass, until the borrower cuts or bends the line."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Final, Self

_HOST: Final = "127.0.0.1"
_READ_BYTES: Final = 1 << 16

# Longer than anything here takes on a machine that is busy.
_PATIENCE_SECONDS: Final = 10.0


class Line:
    """A relay on loopback, in a thread of its own. A context manager.

    Attributes:
        port: where it listens; it stays the same wherever the line leads.
    """

    def __init__(self, target: int | None = None) -> None:
        """`target` is the port that connections are led to; without one they are cut at once."""
        self.port = 0
        self._target = target
        self._carriers: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="line")

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def bend(self, target: int) -> None:
        """Lead to another port from now on. What was open is cut."""
        self._turn(target)

    def cut(self) -> None:
        """Lead nowhere."""
        self._turn(None)

    def _turn(self, target: int | None) -> None:
        async def turn() -> None:
            self._target = target
            for carrier in self._carriers:
                carrier.cancel()

        asyncio.run_coroutine_threadsafe(turn(), self._loop).result(_PATIENCE_SECONDS)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accepted, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        carriers = list(self._carriers)
        for carrier in carriers:
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carrier = asyncio.create_task(self._carry(reader, writer))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)
        # Also of one that was cut before it began.
        carrier.add_done_callback(lambda _: writer.transport.abort())

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._target is None:
            return
        try:
            other_reader, other_writer = await asyncio.open_connection(_HOST, self._target)
        except OSError:
            return  # nobody is there
        there = asyncio.create_task(_pump(reader, other_writer))
        back = asyncio.create_task(_pump(other_reader, writer))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there.cancel()
            back.cancel()
            other_writer.transport.abort()
            await asyncio.gather(there, back, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
