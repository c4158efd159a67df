"""A line between two programs that somebody owns who wishes them ill: it cuts, delays, goes silent, repeats, and stops.

It sees TLS and nothing inside. Bytes in one direction up to the first in the other are a turn; the handshake and the
messages of a connection are told apart by counting these.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

PATIENCE_SECONDS: Final = 30.0

_CHUNK_BYTES: Final = 1 << 16

# Turns of a connection of an enclave to its custodian. Behind them every message and every answer is one more.
TURNS: Final = {
    1: "the client's hello",
    2: "the server's hello",
    3: "the request for a challenge",
    4: "the challenge",
    5: "the evidence",
    6: "the verdict on it",
    7: "a message",
    8: "its answer",
    9: "the next message",
    10: "its answer",
}


@dataclass(frozen=True)
class Turn:
    """Where a connection is.

    Attributes:
        connection: from 1, in the order in which they were opened.
        number: of the turn, from 1.
        up: from who called to who was called.
    """

    connection: int
    number: int
    up: bool


@dataclass
class Hold:
    """Bytes that wait in the line.

    Attributes:
        at: which turns are held; the first one is.
        reached: set once it waits.
        turn: the one that does.
    """

    at: Callable[[Turn], bool]
    reached: threading.Event = field(default_factory=threading.Event)
    turn: Turn | None = None


class LossyLine:
    """Listens on loopback and passes on to one of `targets`, in a thread of its own. A context manager.

    Attributes:
        port: where it listens. It stays the same whatever becomes of the targets.
        targets: ports to pass on to; each connection takes one by chance.
        refusing: new connections are closed at once.
        silent: nothing is passed on, and nobody is told.
        delay_seconds: before each chunk.
        repeating: what comes up is sent to a second connection too, as somebody would who has recorded it.
        connections, cuts: how many there were.
    """

    def __init__(self, *targets: int, chance: random.Random) -> None:
        self.port = 0
        self.targets = list(targets)
        self.refusing = False
        self.silent = False
        self.delay_seconds = 0.0
        self.repeating = False
        self.connections = 0
        self.cuts = 0
        self._chance = chance
        self._holds: list[Hold] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def hold(self, at: Callable[[Turn], bool]) -> Hold:
        """Stop the first turn for which `at` is true, and with it its connection, until `release` or `cut`."""
        hold = Hold(at)
        self._holds.append(hold)
        return hold

    def release(self) -> None:
        """Pass on what was held, and hold nothing any more."""
        self._holds.clear()

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        """A good line from now on."""
        self.refusing = self.silent = self.repeating = False
        self.delay_seconds = 0.0
        self.release()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        self._cut()
        # Connections that are being given up end by themselves.
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _cut(self) -> None:
        self.cuts += len(self._open) // 2
        for writer in self._open:
            writer.transport.abort()

    async def _accept(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = _Connection(self, self.connections)
        try:
            far, far_writer = await self._far()
        except OSError:
            near_writer.transport.abort()
            return
        second = await self._second()
        self._open |= {near_writer, far_writer}
        pumps = [
            asyncio.create_task(connection.pump(near, far_writer, second, up=True)),
            asyncio.create_task(connection.pump(far, near_writer, None, up=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.ALL_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._open -= {near_writer, far_writer}
            for writer in filter(None, (near_writer, far_writer, second)):
                writer.transport.abort()

    async def _far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.refusing or not self.targets:
            raise ConnectionRefusedError
        return await asyncio.open_connection("127.0.0.1", self._chance.choice(self.targets))

    async def _second(self) -> asyncio.StreamWriter | None:
        if not self.repeating:
            return None
        with contextlib.suppress(OSError):
            _, writer = await self._far()
            return writer
        return None

    async def let_pass(self, turn: Turn) -> None:
        """Return when the next bytes of this turn may go on."""
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        for hold in self._holds.copy():
            if hold.turn is None and hold.at(turn):
                hold.turn = turn
                hold.reached.set()
        while self.silent or any(
            hold.turn is not None and hold.turn.connection == turn.connection for hold in self._holds
        ):
            await asyncio.sleep(0.01)


class _Connection:
    """One connection that is passed on."""

    def __init__(self, line: LossyLine, number: int) -> None:
        self._line = line
        self._turn = Turn(number, 0, up=False)

    async def pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        second: asyncio.StreamWriter | None,
        *,
        up: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._turn.up is not up:
                    self._turn = Turn(self._turn.connection, self._turn.number + 1, up)
                await self._line.let_pass(self._turn)
                if writer.is_closing():
                    return
                writer.write(data)
                if second is not None and not second.is_closing():
                    second.write(data)
                await writer.drain()
            if not writer.is_closing():
                writer.write_eof()
