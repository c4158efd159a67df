"""The ledger's calls in threads: bounded, and finished once begun."""

from __future__ import annotations

import asyncio
import threading

import pytest

from blindai.errors import InvalidInput, Unavailable
from blindai.web.calls import DatabaseCalls


def test_what_is_asked_is_answered_and_what_fails_is_raised() -> None:
    async def main() -> None:
        calls = DatabaseCalls()

        def fail() -> None:
            raise InvalidInput("no", code="lease.unknown")

        assert await calls(divmod, 7, 2) == (3, 1)
        with pytest.raises(InvalidInput):
            await calls(fail)
        calls.close()

    asyncio.run(main())


def test_one_too_many_is_told_to_come_back() -> None:
    async def main() -> None:
        calls = DatabaseCalls(threads=1, max_waiting=2)
        gate = threading.Event()
        waiting = [asyncio.create_task(calls(gate.wait, 20)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await calls(int)
        assert caught.value.code == "busy"
        gate.set()
        assert await asyncio.gather(*waiting) == [True, True]
        assert await calls(int) == 0
        calls.close()

    asyncio.run(main())


def test_who_goes_away_ends_nothing_that_has_begun() -> None:
    async def main() -> None:
        calls = DatabaseCalls(threads=1, max_waiting=1)
        begun, gate, done = threading.Event(), threading.Event(), threading.Event()

        def transaction() -> None:
            begun.set()
            gate.wait(20)
            done.set()

        asking = asyncio.create_task(calls(transaction))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait([asking])
        gate.set()
        await asyncio.to_thread(calls.close)
        assert done.is_set()

    asyncio.run(main())
