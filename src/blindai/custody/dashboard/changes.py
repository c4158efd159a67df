"""Telling browsers that something has changed, so that they look again (server-sent events).

Every change of a lease is an entry in its log, whichever process or enclave made it. One task looks at the lengths of
all logs in one query, as long as anybody is listening, and wakes those whose lease has grown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

from blindai.errors import BlindAIError, QuotaExceeded

# Between a change and the moment that it is seen here.
POLL_SECONDS: Final = 0.1

# Pages are not asked to look again more often: people read no faster.
GAP_SECONDS: Final = 0.4

# A line that says nothing is cut by whatever is between; and it is asked whether the session still lasts.
PING_SECONDS: Final = 15.0

# Pages that are open at once, of all operators together.
MAX_LISTENERS: Final = 200

# While the database does not answer.
BACK_OFF_SECONDS: Final = 2.0


class Changes:
    """Who listens to which lease. Belongs to one event loop; its task runs while somebody listens.

    Args:
        lengths: of the logs of all leases, by lease.
    """

    def __init__(self, lengths: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        self._read = lengths
        self._lengths: Mapping[str, int] = {}
        self._seen = asyncio.Condition()
        self._listeners = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    def require_room(self) -> None:
        """Refuse one page more than may be open.

        Raises:
            QuotaExceeded: `quota.listeners`.
        """
        if self._listeners >= MAX_LISTENERS:
            raise QuotaExceeded("too many pages are open at once", code="quota.listeners", hint="close some")

    async def events(self, lease: str | None, allowed: Callable[[], Awaitable[bool]]) -> AsyncGenerator[bytes]:
        """The stream for one page: `changed` when `lease` (None: any) has changed, until `allowed` says no.

        Raises:
            QuotaExceeded: as `require_room`.
            BlindAIError: the database does not answer.
        """
        self.require_room()
        self._listeners += 1
        try:
            known = self._of(lease, await self._read())
            if self._task is None:
                self._task = asyncio.create_task(self._look())
            # Whatever has changed between the page and this stream is not lost: the page looks once at the beginning.
            yield b"retry: 1000\nevent: changed\ndata: 0\n\n"
            while not self._closed.is_set():
                changed = await self._changed(lease, known)
                if self._closed.is_set() or not await allowed():
                    return
                if changed is None:
                    yield b": still here\n\n"
                else:
                    known = changed
                    yield b"event: changed\ndata: 0\n\n"
                    await asyncio.sleep(GAP_SECONDS)
        finally:
            self._listeners -= 1
            if self._listeners == 0 and self._task is not None:
                self._task.cancel()
                self._task = None

    async def close(self) -> None:
        """End all streams: the server stops."""
        self._closed.set()
        async with self._seen:
            self._seen.notify_all()

    async def _changed(self, lease: str | None, known: Mapping[str, int]) -> Mapping[str, int] | None:
        """The lengths once they are not `known`; None after `PING_SECONDS`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_SECONDS), self._seen:
                await self._seen.wait_for(
                    lambda: self._closed.is_set() or (self._lengths and self._of(lease, self._lengths) != known)
                )
                return self._of(lease, self._lengths)
        return None

    async def _look(self) -> None:
        while True:
            try:
                lengths = await self._read()
            except BlindAIError:
                # Whoever loads a page is told; here there is nobody to tell.
                await asyncio.sleep(BACK_OFF_SECONDS)
                continue
            if lengths != self._lengths:
                async with self._seen:
                    self._lengths = lengths
                    self._seen.notify_all()
            await asyncio.sleep(POLL_SECONDS)

    @staticmethod
    def _of(lease: str | None, lengths: Mapping[str, int]) -> Mapping[str, int]:
        return dict(lengths) if lease is None else {lease: lengths.get(lease, 0)}
