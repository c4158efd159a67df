"""Telling enclaves of changes at once: they ask, and are answered when there is something to say.

Each process looks at the versions of all leases, in one query, ten times a second: a change may have been made by
another process, or at the command line. Of a change of its own it is told by `wake`. A watch costs a future and an
entry in a table, however many there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from blindai.errors import BlindAIError

# Between a change by another process and the moment that it is seen here.
POLL_SECONDS: Final = 0.1

# While the database does not answer, it is not asked ten times a second.
BACK_OFF_SECONDS: Final = 1.0

_log = structlog.get_logger("blindai.custody")


class Watches:
    """Who waits for which lease. All methods but `wake` belong to the event loop.

    Args:
        versions: the version of every lease, read from the database.
        seconds: between two looks.
    """

    def __init__(self, versions: Callable[[], Awaitable[dict[str, int]]], *, seconds: float = POLL_SECONDS) -> None:
        self._read = versions
        self._seconds = seconds
        self._versions: dict[str, int] = {}
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        self._woken = asyncio.Event()
        self._looking = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._closed = False

    async def run(self) -> None:
        """Look for changes until `close`."""
        failing = False
        while not self._closed:
            self._woken.clear()
            try:
                await self.look()
                failing = False
            except BlindAIError as error:
                if not failing:
                    _log.error("versions_not_read", code=error.code, reason=error.message)
                failing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(BACK_OFF_SECONDS if failing else self._seconds):
                    await self._woken.wait()

    async def look(self) -> None:
        """Read the versions, and answer those who wait for what has changed.

        Raises:
            BlindAIError: the database does not answer.
        """
        async with self._looking:
            before, self._versions = self._versions, await self._read()
        for lease in self._waiting.keys() & (before.keys() | self._versions.keys()):
            version = self._versions.get(lease)
            if version == before.get(lease):
                continue
            for future, known in self._waiting[lease].items():
                if version != known and not future.done():
                    future.set_result(None)

    async def changed(self, lease: str, known: int, seconds: float) -> None:
        """Return when the lease has another version than `known`, or after `seconds`.

        Another, not only a later one: a ledger that was restored from a backup has an earlier one.

        Raises:
            BlindAIError: the database does not answer.
        """
        if self._versions.get(lease, -1) < known:
            await self.look()  # the other side has seen more than this process
        if self._closed or self._versions.get(lease) != known:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        waiting = self._waiting.setdefault(lease, {})
        waiting[future] = known
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await future
        finally:
            del waiting[future]
            if not waiting and self._waiting.get(lease) is waiting:
                del self._waiting[lease]

    def wake(self) -> None:
        """Look now: this process has changed a lease. From any thread, also when all is over."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    def close(self) -> None:
        """Answer everybody, and look no more."""
        self._closed = True
        self._woken.set()
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
