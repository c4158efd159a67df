"""The custodian's time: how long ago a grant was given, by a clock that nobody can set.

The wall clock decides nothing; it may be moved by a year in either direction. What counts is the time since this
machine started. It means something only until the machine starts again, so that every deadline names its boot: one of
another boot has passed when this process itself has known it for its whole length.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

# Linux gives each start of the machine a random name, and shares it with containers (random(4)) ...
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# ... which may have their own offset to its clock (time_namespaces(7)).
_TIME_NAMESPACE: Final = Path("/proc/self/ns/time")

# Two crystals differ by less than 200 parts in a million, and time synchronisation turns a clock by at most 500
# (adjtimex(2)): an enclave that thinks it has a minute has at most this much more by our clock.
DRIFT_PER_MILLE: Final = 1


class LedgerClock(Protocol):
    """What the ledger needs to know about time."""

    @property
    def boot(self) -> str:
        """Names the start of the machine that `elapsed_ms` counts from."""
        ...

    def elapsed_ms(self) -> int:
        """Milliseconds since `boot`, those in which the machine slept too. Never goes back."""
        ...

    def now(self) -> datetime:
        """The wall clock, in UTC: for people to read."""
        ...


class SystemLedgerClock:
    """The clocks of this machine.

    Where the system does not name its boots, each process counts as one: after a restart of the custodian, a grant
    counts as running for its whole length once more.
    """

    def __init__(self) -> None:
        try:
            self._boot = f"{_BOOT_ID.read_text().strip()} {_TIME_NAMESPACE.readlink()}"
            self._clock: int | None = time.CLOCK_BOOTTIME
        except (OSError, AttributeError):
            self._boot = f"process {secrets.token_hex(16)}"
            self._clock = None

    @property
    def boot(self) -> str:
        return self._boot

    def elapsed_ms(self) -> int:
        nanoseconds = time.monotonic_ns() if self._clock is None else time.clock_gettime_ns(self._clock)
        return nanoseconds // 1_000_000

    def now(self) -> datetime:
        return datetime.now(UTC)


SYSTEM_LEDGER_CLOCK: Final = SystemLedgerClock()


@dataclass(frozen=True)
class Deadline:
    """When something has run out for certain.

    Attributes:
        boot, at_ms: as `LedgerClock` counts.
        length_ms: from when it was set until then.
    """

    boot: str
    at_ms: int
    length_ms: int


# Two machines on one database meet each other's grants, a new one at every renewal.
MAX_MET: Final = 10_000


class Deadlines:
    """Sets deadlines, and says of those of any boot what is left of them. Thread-safe."""

    def __init__(self, clock: LedgerClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # When this process first heard of a deadline of another boot; the oldest are forgotten, which only means that
        # they would be waited for once more.
        self._met: dict[Deadline, int] = {}

    def after(self, ttl_ms: int) -> Deadline:
        """The moment at which a grant of now, valid for `ttl_ms`, has run out by the clock of whoever holds it."""
        length = ttl_ms + -(-ttl_ms * DRIFT_PER_MILLE // 1000)
        return Deadline(self._clock.boot, self._clock.elapsed_ms() + length, length)

    def left_ms(self, deadline: Deadline) -> int:
        """Milliseconds until then, at the most; 0 once it has passed."""
        now = self._clock.elapsed_ms()
        if deadline.boot == self._clock.boot:
            return max(0, deadline.at_ms - now)
        with self._lock:
            met = self._met.setdefault(deadline, now)
            if len(self._met) > MAX_MET:
                del self._met[next(iter(self._met))]
        return max(0, met + deadline.length_ms - now)

    def passed(self, deadline: Deadline) -> bool:
        return self.left_ms(deadline) == 0

    def by(self, deadline: Deadline) -> datetime:
        """For people: the deadline on the wall clock of now."""
        return self._clock.now() + timedelta(milliseconds=self.left_ms(deadline))
