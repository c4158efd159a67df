"""Time, injected: tests move it, and nothing else in the channel reads a clock."""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """What the channel needs to know about time."""

    def now(self) -> float:
        """Seconds since the epoch, UTC: compared with dates in certificates and collateral."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward: ages."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM_CLOCK: Final = SystemClock()
