"""Stops runs that take too long, from a thread of its own: the event loop may be what such a run blocks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from blindai.enclave.engine import Cancellation

# How late a run may be stopped. Looking more often would cost more than it saves.
_PERIOD_SECONDS: Final = 0.02


class Watchdog:
    """Watches runs and cancels those past their deadline.

    Attributes:
        inline: the run on the event loop, where there is one, and its deadline by `time.perf_counter_ns`. There is one
            at most, and it is set without a call: a small model runs in the time of a few.
    """

    def __init__(self) -> None:
        self.inline: tuple[Cancellation, int] | None = None
        self._runs: dict[Cancellation, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def watch(self, cancellation: Cancellation, seconds: float) -> None:
        """Cancel the run in `seconds` from now unless it is released before."""
        self._runs[cancellation] = time.monotonic() + seconds

    def release(self, cancellation: Cancellation) -> None:
        """Watch this run no longer."""
        del self._runs[cancellation]

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_SECONDS):
            inline = self.inline
            if inline is not None and time.perf_counter_ns() > inline[1]:
                inline[0].cancel()
            now = time.monotonic()
            for cancellation, deadline in self._runs.copy().items():
                if now > deadline:
                    cancellation.cancel()
