"""Futures that give their result at once."""

from __future__ import annotations

import asyncio

import pytest

from blindai.enclave.running.prompt import Prompt, listen


def test_the_listener_hears_of_a_result_before_it_is_set_for_others() -> None:
    async def scene() -> None:
        heard: list[asyncio.Future[int]] = []
        future: Prompt[int] = Prompt()
        future.listen(heard.append)
        future.set_result(1)
        assert heard == [future]
        assert await future == 1
        await asyncio.sleep(0)
        assert heard == [future]

    asyncio.run(scene())


def test_an_exception_is_heard_of_in_the_next_turn() -> None:
    async def scene() -> None:
        heard: list[asyncio.Future[int]] = []
        future: Prompt[int] = Prompt()
        future.listen(heard.append)
        future.set_exception(OSError("gone"))
        assert heard == []
        with pytest.raises(OSError, match="gone"):
            await future
        await asyncio.sleep(0)
        assert heard == [future]

    asyncio.run(scene())


def test_a_cancellation_is_heard_of_in_the_next_turn_and_once() -> None:
    async def scene() -> None:
        heard: list[str] = []
        future: Prompt[int] = Prompt()
        future.listen(lambda _: heard.append("listener"))
        future.dropped = lambda: heard.append("dropped")
        assert future.cancel()
        assert not future.cancel()
        assert heard == []
        await asyncio.sleep(0)
        assert heard == ["dropped", "listener"]

    asyncio.run(scene())


def test_one_that_has_a_result_cannot_be_dropped() -> None:
    async def scene() -> None:
        heard: list[str] = []
        future: Prompt[int] = Prompt()
        future.dropped = lambda: heard.append("dropped")
        future.set_result(1)
        assert not future.cancel()
        await asyncio.sleep(0)
        assert heard == []

    asyncio.run(scene())


@pytest.mark.parametrize("kind", [Prompt, asyncio.Future])
def test_any_future_can_be_listened_to(kind: type[asyncio.Future[int]]) -> None:
    async def scene() -> None:
        heard: list[int] = []
        early, late = kind(), kind()
        early.set_result(1)
        for future in (early, late):
            listen(future, lambda done: heard.append(done.result()))
        assert heard == []
        late.set_result(2)
        await asyncio.sleep(0)
        assert sorted(heard) == [1, 2]

    asyncio.run(scene())
