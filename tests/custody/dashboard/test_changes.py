"""Telling browsers that something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from blindai.custody.dashboard import changes
from blindai.custody.dashboard.changes import Changes
from blindai.errors import QuotaExceeded, Unavailable

CHANGED = b"event: changed"


class Logs:
    """The lengths of all logs, and how often they were asked for."""

    def __init__(self) -> None:
        self.lengths = {"a": 1, "b": 1}
        self.asked = 0
        self.broken = False
        self.allowed = True

    async def read(self) -> dict[str, int]:
        self.asked += 1
        if self.broken:
            raise Unavailable("the database does not answer")
        return dict(self.lengths)

    async def may(self) -> bool:
        return self.allowed


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    monkeypatch.setattr(changes, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(changes, "GAP_SECONDS", 0.001)
    monkeypatch.setattr(changes, "BACK_OFF_SECONDS", 0.001)
    return Logs()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


async def next_of(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)


def test_a_page_is_told_at_the_beginning_and_at_each_change_of_its_lease(logs: Logs) -> None:
    async def test() -> None:
        heard = Changes(logs.read)
        async with aclosing(heard.events("a", logs.may)) as stream:
            assert CHANGED in await next_of(stream)
            waiting = asyncio.ensure_future(next_of(stream))
            logs.lengths["b"] += 1
            asked = logs.asked
            while logs.asked < asked + 3:
                await asyncio.sleep(0.001)
            assert not waiting.done()
            logs.lengths["a"] += 1
            assert CHANGED in await waiting

    run(test)


def test_the_list_is_told_of_any_lease_and_of_new_ones(logs: Logs) -> None:
    async def test() -> None:
        async with aclosing(Changes(logs.read).events(None, logs.may)) as stream:
            await next_of(stream)
            logs.lengths["b"] += 1
            assert CHANGED in await next_of(stream)
            logs.lengths["c"] = 1
            assert CHANGED in await next_of(stream)

    run(test)


def test_a_change_between_the_page_and_the_stream_is_not_lost(logs: Logs) -> None:
    async def test() -> None:
        heard = Changes(logs.read)
        async with aclosing(heard.events("a", logs.may)) as first:
            await next_of(first)
            logs.lengths["a"] += 1
            async with aclosing(heard.events("a", logs.may)) as second:
                assert CHANGED in await next_of(second)

    run(test)


def test_whoever_is_signed_out_hears_nothing_more(logs: Logs) -> None:
    async def test() -> None:
        async with aclosing(Changes(logs.read).events("a", logs.may)) as stream:
            await next_of(stream)
            logs.allowed = False
            logs.lengths["a"] += 1
            with pytest.raises(StopAsyncIteration):
                await next_of(stream)

    run(test)


def test_a_quiet_line_is_kept_open_and_the_session_looked_at(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PING_SECONDS", 0.01)

    async def test() -> None:
        async with aclosing(Changes(logs.read).events("a", logs.may)) as stream:
            await next_of(stream)
            assert (await next_of(stream)).startswith(b":")
            logs.allowed = False
            with pytest.raises(StopAsyncIteration):
                await next_of(stream)

    run(test)


def test_a_server_that_stops_ends_all_streams(logs: Logs) -> None:
    async def test() -> None:
        heard = Changes(logs.read)
        async with aclosing(heard.events("a", logs.may)) as stream:
            await next_of(stream)
            waiting = asyncio.ensure_future(next_of(stream))
            await asyncio.sleep(0.01)
            await heard.close()
            with pytest.raises(StopAsyncIteration):
                await waiting

    run(test)


def test_nobody_asks_the_database_when_nobody_listens(logs: Logs) -> None:
    async def test() -> None:
        heard = Changes(logs.read)
        async with aclosing(heard.events("a", logs.may)) as stream:
            await next_of(stream)
        asked = logs.asked
        await asyncio.sleep(0.05)
        assert logs.asked <= asked + 1
        async with aclosing(heard.events("a", logs.may)) as stream:
            await next_of(stream)
            logs.lengths["a"] += 1
            assert CHANGED in await next_of(stream)

    run(test)


def test_a_database_that_comes_back_is_listened_to_again(logs: Logs) -> None:
    async def test() -> None:
        async with aclosing(Changes(logs.read).events("a", logs.may)) as stream:
            await next_of(stream)
            waiting = asyncio.ensure_future(next_of(stream))
            logs.broken = True
            asked = logs.asked
            while logs.asked < asked + 3:
                await asyncio.sleep(0.001)
            logs.broken = False
            logs.lengths["a"] += 1
            assert CHANGED in await waiting

    run(test)


def test_a_database_that_does_not_answer_is_said_at_once(logs: Logs) -> None:
    async def test() -> None:
        logs.broken = True
        async with aclosing(Changes(logs.read).events("a", logs.may)) as stream:
            with pytest.raises(Unavailable):
                await next_of(stream)

    run(test)


def test_there_is_an_end_to_the_pages_that_are_open(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_LISTENERS", 1)

    async def test() -> None:
        heard = Changes(logs.read)
        async with aclosing(heard.events("a", logs.may)) as first:
            await next_of(first)
            async with aclosing(heard.events("a", logs.may)) as second:
                with pytest.raises(QuotaExceeded) as caught:
                    await next_of(second)
            with pytest.raises(QuotaExceeded):
                heard.require_room()
        assert caught.value.code == "quota.listeners"
        async with aclosing(heard.events("a", logs.may)) as third:
            assert CHANGED in await next_of(third)

    run(test)
