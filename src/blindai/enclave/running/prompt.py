"""Futures that give their result at once.

What waits for an ordinary future hears of its result in the next turn of the event loop. A request that runs in another
process passes three futures on its way back, and three turns cost as much time as a small model.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


class Prompt(asyncio.Future[_Result]):
    """A future with one listener that hears of a result before `set_result` returns.

    Whoever sets a result must be done with what the listener may use. Of exceptions and of cancellation it hears in the
    next turn of the event loop, as of any future: they are set in the middle of other work.

    Attributes:
        dropped: called in the next turn when this is cancelled; None where nobody cares.
    """

    dropped: Callable[[], object] | None = None
    _listener: Callable[[asyncio.Future[_Result]], object] | None = None

    def listen(self, listener: Callable[[asyncio.Future[_Result]], object]) -> None:
        """Call `listener` with this when it is done; in the next turn where it is done already. Once only."""
        if self.done():
            self.get_loop().call_soon(listener, self)
        else:
            self._listener = listener

    def set_result(self, result: _Result, /) -> None:
        super().set_result(result)
        listener = self._listener
        if listener is not None:
            self._listener = self.dropped = None
            listener(self)

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        super().set_exception(exception)
        self._tell_later()

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        if self.dropped is not None:
            self.get_loop().call_soon(self.dropped)
        self._tell_later()
        return True

    def _tell_later(self) -> None:
        listener = self._listener
        self._listener = self.dropped = None
        if listener is not None:
            self.get_loop().call_soon(listener, self)


def listen(future: asyncio.Future[_Result], listener: Callable[[asyncio.Future[_Result]], object]) -> None:
    """Call `listener` with a future of any kind when it is done: at once where that can be."""
    if isinstance(future, Prompt):
        future.listen(listener)
    else:
        future.add_done_callback(listener)
