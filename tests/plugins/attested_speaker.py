"""An attested server that says what a test wants it to: behind the gate, a coroutine has the plaintext."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Self, SupportsIndex

from blindai.attestation.attesters.simulated import SimulatedAttester
from blindai.channel.end import AttestedEnd
from blindai.channel.server import AttestedProtocols

PATIENCE_SECONDS = 20.0

Speech = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class AttestedSpeaker:
    """Listens on loopback, in a thread with its own event loop. A context manager.

    Attributes:
        connections: how many have passed the gate.
        heard: all plaintext that came past the gate, of all connections.
    """

    def __init__(self, speech: Speech, attester: SimulatedAttester) -> None:
        """`speech` is run for each connection whose gate is open; with its end the connection ends."""
        self._speech = speech
        self._attester = attester
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._port = 0
        self.connections = 0
        self.heard = bytearray()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self._port}"

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
        protocols = AttestedProtocols(AttestedEnd(self._attester, {}))
        server = await self._loop.create_server(lambda: protocols(self._inner), "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready.set()
        await self._stop.wait()
        server.close()
        protocols.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _inner(self) -> asyncio.Protocol:
        self.connections += 1
        reader = _Listening(self.heard)

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._speak(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return asyncio.StreamReaderProtocol(reader, connected)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._speech(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side left
        finally:
            writer.close()


class _Listening(asyncio.StreamReader):
    """Keeps what it is fed."""

    def __init__(self, heard: bytearray) -> None:
        super().__init__()
        self._heard = heard

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self._heard.extend(data)
        super().feed_data(data)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next request; a body in chunks is given as it came, framing included."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return head, body
    length = int(lower.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
    return head, await reader.readexactly(length)
