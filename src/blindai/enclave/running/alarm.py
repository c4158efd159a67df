"""A timer that is set often and rings seldom."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Alarm:
    """Rings once after it was set. To set it and to unset it costs no entry in the event loop's heap of timers.

    Args:
        loop: whose time it keeps.
        ring: what it calls.
    """

    __slots__ = ("_at", "_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        self._loop = loop
        self._ring = ring
        self._at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in so many seconds, and not when it would have."""
        self._at = at = self._loop.time() + seconds
        handle = self._handle
        if handle is None or handle.when() > at:
            if handle is not None:
                handle.cancel()
            self._handle = self._loop.call_at(at, self._look)

    def unset(self) -> None:
        """Do not ring."""
        self._at = math.inf

    def close(self) -> None:
        """Do not ring, and leave nothing on the event loop."""
        self._at = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        """The handle's time has come; that of the alarm may have been put off meanwhile."""
        self._handle = None
        if self._at == math.inf:
            return
        if self._loop.time() < self._at:
            self._handle = self._loop.call_at(self._at, self._look)
            return
        self._at = math.inf
        self._ring()
