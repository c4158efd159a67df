"""What of all models is in memory, within one budget; where there is no room, those used longest ago leave.

A model that left is on disk still, and comes back with the next request to it. What counts is what models really hold:
an estimate stands in for one that is being loaded, and is replaced by what was measured.

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Protocol

from blindai.errors import QuotaExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine

# How long a load waits for others to end their runs, in seconds: as long as a client waits without a word.
PATIENCE_SECONDS: Final = 10.0

# Models in memory at once, whatever their size: each has a process with a few files.
MAX_RESIDENTS: Final = 512


class Resident(Protocol):
    """A model in memory that may leave it.

    Attributes:
        runs: how many requests need it; with one, it stays.
    """

    runs: int

    def leave(self) -> tuple[Claim, Coroutine[None, None, None]]:
        """Take it out of sight now; and what frees it, with what is given back then."""


class Claim:
    """A part of the budget that one model holds."""

    __slots__ = ("_residency", "amount", "held")

    def __init__(self, residency: Residency, amount: int) -> None:
        self._residency = residency
        self.amount = amount
        self.held = True

    def resize(self, amount: int) -> None:
        """Hold `amount` bytes from now on, though it may be more than there is: it was measured, and others leave."""
        if self.held:
            self._residency.used += amount - self.amount
            self.amount = amount
            self._residency.settle()

    def release(self) -> None:
        """Give everything back; harmless when repeated."""
        if self.held:
            self.held = False
            self._residency.used -= self.amount
            self._residency.claims -= 1
            self._residency.settle()


class Residency:
    """The budget of memory for models, and who holds it.

    Args:
        total: the budget, in bytes.
        most: models in memory at once.

    Attributes:
        used: bytes held, loads under way included.
        claims: how many hold some.
        evictions: how many models left to make room.
        order: models that may leave, the one used longest ago first. Whoever uses one moves it to the end.
        pressed: whether somebody waits for room or there is less than none; then `settle` is to be called when a model
            has no runs any more.
    """

    def __init__(self, total: int, *, most: int = MAX_RESIDENTS) -> None:
        self.total = total
        self.used = 0
        self.claims = 0
        self.evictions = 0
        self.order: OrderedDict[Resident, None] = OrderedDict()
        self.pressed = False
        self._most = most
        self._leaving: dict[asyncio.Task[None], Claim] = {}
        self._leaving_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def claim(self, amount: int, *, seconds: float = PATIENCE_SECONDS) -> Claim:
        """Take `amount` bytes, as soon as there is room; first come, first served.

        Args:
            amount: bytes.
            seconds: how long to wait for models that others use.

        Raises:
            QuotaExceeded: `quota.memory`, it is more than the whole budget.
            Unavailable: `busy`, all models in memory were in use for too long.
        """
        self.refuse_too_large(amount)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, granted))
        self.settle()
        try:
            async with asyncio.timeout(seconds):
                await granted
        except TimeoutError:
            self._give_up(amount, granted)
            raise Unavailable(
                "all models in memory are in use, and there is no room for this one", code="busy", hint="try again soon"
            ) from None
        except asyncio.CancelledError:
            self._give_up(amount, granted)
            raise
        return Claim(self, amount)

    def refuse_too_large(self, amount: int) -> None:
        """Raises QuotaExceeded `quota.memory` for what could never fit."""
        if amount > self.total:
            raise QuotaExceeded(
                f"the enclave has {self.total} bytes of memory for models, and this one needs {amount}",
                code="quota.memory",
            )

    def settle(self) -> None:
        """Serve those who wait, as far as there is room, and send models away as far as there is not."""
        while self._waiting:
            amount, granted = self._waiting[0]
            if granted.done():
                self._waiting.popleft()
            elif self.used + amount <= self.total and self.claims < self._most:
                self._waiting.popleft()
                self.used += amount
                self.claims += 1
                granted.set_result(None)
            else:
                break
        wanted = self._waiting[0][0] if self._waiting else 0
        while self._short(wanted) and self._send_away():
            pass
        self.pressed = bool(self._waiting) or self.used > self.total

    async def close(self) -> None:
        """Wait for the models that leave."""
        while self._leaving:
            await asyncio.wait([*self._leaving])

    def _short(self, wanted: int) -> bool:
        """Whether there will be no room for `wanted` when all that leave have left."""
        staying = self.claims - len(self._leaving) + (1 if wanted else 0)
        return self.used - self._leaving_bytes + wanted > self.total or staying > self._most

    def _send_away(self) -> bool:
        """Let the model leave that was used longest ago, of those without runs; whether there was one."""
        for resident in self.order:
            if not resident.runs:
                del self.order[resident]
                claim, leave = resident.leave()
                self.evictions += 1
                task = asyncio.get_running_loop().create_task(leave)
                self._leaving[task] = claim
                self._leaving_bytes += claim.amount
                task.add_done_callback(self._left)
                return True
        return False

    def _left(self, task: asyncio.Task[None]) -> None:
        claim = self._leaving.pop(task)
        self._leaving_bytes -= claim.amount
        claim.release()
        if not task.cancelled():
            task.exception()  # a process that cannot be ended is gone already

    def _give_up(self, amount: int, granted: asyncio.Future[None]) -> None:
        """Let nothing come of a request for room that nobody waits for any more."""
        if granted.cancelled() or not granted.done():
            granted.cancel()
            self.settle()
        else:
            Claim(self, amount).release()
