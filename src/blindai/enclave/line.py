"""A connection to a custodian or control plane that is made anew whenever it breaks. Each is attested from scratch.

Nothing that they or the host do keeps a caller waiting for longer than it said: a line that is silent, half open or
slower than a message is worth is cut.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from blindai.errors import Unavailable
from blindai.wire import custody as wire
from blindai.wire.problems import error_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from blindai.channel.http1 import Answer

Message = TypeVar("Message", bound=msgspec.Struct)

# Tries to reach somebody who is not there: often enough for a restart to go unnoticed, seldom enough for one who
# comes back to many enclaves.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

_MAX_PROBLEM_OR_ANSWER: Final = wire.MAX_MESSAGE_BYTES


class Connection(Protocol):
    """An open one: `channel.calling.CalledConnection`."""

    @property
    def usable(self) -> bool:
        """Whether another exchange can be made."""

    async def post(self, path: str, body: bytes, *, max_answer_bytes: int) -> Answer:
        """Exchange one JSON message."""

    def cut(self) -> None:
        """Close at once."""


class Line:
    """One connection at a time; a request waits for the one before it.

    Args:
        connect: connects and attests, in bounded time.
        peer: what errors call the other end.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], peer: str = "the custodian") -> None:
        self._connect = connect
        self._peer = peer
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect, unless there is a connection already.

        Raises:
            BlindAIError: as the connecting does.
        """
        async with self._lock:
            await self._connected()

    async def ask(self, path: str, message: msgspec.Struct, kind: type[Message], *, seconds: float) -> Message:
        """Send `message` to `path` and read the answer as `kind`.

        Args:
            seconds: for the whole exchange, on top of what connecting takes.

        Raises:
            Unavailable: `unavailable.*`, the other end cannot be reached, is slow, or answers what cannot be read.
            BlindAIError: it refuses; the class and code are those of the refusal.
        """
        body = await self.fetch(path, message, max_bytes=_MAX_PROBLEM_OR_ANSWER, seconds=seconds)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.cut()
            raise Unavailable(
                f"the answer of {self._peer} cannot be read: {error}", code="unavailable.protocol"
            ) from error

    async def fetch(self, path: str, message: msgspec.Struct, *, max_bytes: int, seconds: float) -> bytes:
        """As `ask`, for the bare bytes of an answer of up to `max_bytes`."""
        body = msgspec.json.encode(message)
        async with self._lock:
            connection = await self._connected()
            try:
                async with asyncio.timeout(seconds):
                    answer = await connection.post(path, body, max_answer_bytes=max_bytes)
            except BaseException as error:
                # Also when the caller goes away: what comes now would be taken for the next answer.
                self.cut()
                if isinstance(error, TimeoutError):
                    raise Unavailable(f"{self._peer} did not answer in time", code="unavailable.timeout") from error
                raise
        if answer.status >= 400:
            raise error_from(answer.status, answer.body)
        return answer.body

    async def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.usable:
            self.cut()
        if self._connection is None:
            self._connection = await self._connect()
        return self._connection

    def cut(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.cut()
            self._connection = None


# Spreads load, and keeps no secret. Of its own: what others draw from the generator of all can be repeated by a seed.
_jitter: Final = random.Random()  # noqa: S311 - as said above


class Backoff:
    """Pauses between tries: longer each time, and never the same for two enclaves that lost the same one."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE

    def reset(self) -> None:
        """A try has succeeded."""
        self._pause = _FIRST_PAUSE

    def next(self) -> float:
        """Seconds to wait now."""
        pause, self._pause = self._pause, min(self._pause * 2, _LONGEST_PAUSE)
        return pause * _jitter.uniform(0.5, 1.0)
