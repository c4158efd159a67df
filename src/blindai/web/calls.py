"""Calls that take long, each kind in a few threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread

from blindai.errors import Unavailable
from blindai.web.passwords import MAX_CONCURRENT

P = ParamSpec("P")
T = TypeVar("T")

# Transactions about one thing come one after the other, those of SQLite all do. More threads would only wait.
THREADS: Final = 8

# What waits for a thread. At a few hundred transactions a second, the last has its answer within seconds; enclaves
# repeat what was refused.
MAX_WAITING: Final = 1024


# Who waits to have a password checked. Each takes a tenth of a second or so.
MAX_WAITING_PASSWORDS: Final = 50


class DatabaseCalls:
    """Runs functions in threads, and refuses what would wait for too long.

    Args:
        threads: that run at once.
        max_waiting: calls under way or waiting.
    """

    def __init__(self, *, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="database")
        self._free = max_waiting

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function`.

        A caller who goes away does not end it: a transaction that has begun is finished.

        Raises:
            Unavailable: `busy`.
        """
        if not self._free:
            raise Unavailable("the server has as much to do as it may", code="busy", hint="try again")
        self._free -= 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        future.add_done_callback(self._done)
        return await future

    def close(self) -> None:
        """Wait for the calls under way."""
        self._executor.shutdown(wait=True)

    def _done(self, _: object) -> None:
        self._free += 1


class PasswordCalls:
    """Runs what hashes passwords. Strangers who try some must keep nobody from a page that needs none."""

    def __init__(self) -> None:
        self._limiter = CapacityLimiter(MAX_CONCURRENT)

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function`.

        Raises:
            Unavailable: `busy`.
        """
        if self._limiter.statistics().tasks_waiting >= MAX_WAITING_PASSWORDS:
            raise Unavailable("too many people sign in at this moment", code="busy", hint="try again")
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._limiter)
