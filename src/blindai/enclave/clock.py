"""The only clock of leases and assertions: time since the machine started, those hours included in which it slept.

Nobody can set it, so no wall clock decides how long one is good. Linux counts the time of a suspended machine in
CLOCK_BOOTTIME (clock_gettime(2)); where there is no such clock, the monotonic one has to do.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NS_PER_MS: Final = 1_000_000
NS_PER_SECOND: Final = 1_000_000_000


def _boot_clock() -> Callable[[], int]:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return time.monotonic_ns
    return partial(time.clock_gettime_ns, clock)


elapsed_ns: Final = _boot_clock()
"""Nanoseconds since an arbitrary moment. Never goes back."""
