"""Watches: answered at once when something has changed, and otherwise at no cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from structlog.testing import capture_logs

from blindai.custody import watching
from blindai.custody.watching import Watches
from blindai.errors import Unavailable


class Versions:
    """The versions of leases, and who has asked for them."""

    def __init__(self) -> None:
        self.now = {"a": 1, "b": 1}
        self.reads = 0
        self.broken = False

    async def __call__(self) -> dict[str, int]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.broken:
            raise Unavailable("gone", code="unavailable.database")
        return dict(self.now)


def _run(test: Callable[[Versions, Watches], Awaitable[Any]], *, seconds: float = 0.005) -> None:
    async def main() -> None:
        versions = Versions()
        watches = Watches(versions, seconds=seconds)
        running = asyncio.create_task(watches.run())
        await watches.look()
        async with asyncio.timeout(20):
            await test(versions, watches)
        watches.close()
        await running

    asyncio.run(main())


def test_a_change_by_another_process_is_seen() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        waiting = asyncio.create_task(watches.changed("a", 1, 60))
        other = asyncio.create_task(watches.changed("b", 1, 60))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        versions.now["a"] = 2
        await waiting
        assert not other.done()
        versions.now["b"] = 5
        await other
        assert len(watches) == 0

    _run(test)


def test_a_change_that_was_missed_is_told_at_once() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        await watches.changed("a", 0, 60)

    _run(test, seconds=60)


def test_an_earlier_version_is_another_one() -> None:
    """A ledger that was restored has an earlier one; whoever has seen more must hear of it."""

    async def test(versions: Versions, watches: Watches) -> None:
        await watches.changed("a", 7, 60)

    _run(test, seconds=60)


def test_a_process_that_is_behind_looks_before_it_answers() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        versions.now["a"] = 2
        waiting = asyncio.create_task(watches.changed("a", 2, 60))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert len(watches) == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert len(watches) == 0

    _run(test, seconds=60)


def test_an_unknown_lease_is_answered_at_once() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        await watches.changed("none", 0, 60)

    _run(test, seconds=60)


def test_a_lease_that_goes_is_told() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        waiting = asyncio.create_task(watches.changed("a", 1, 60))
        await asyncio.sleep(0.02)
        del versions.now["a"]
        await waiting

    _run(test)


def test_a_watch_ends_by_itself() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        await watches.changed("a", 1, 0.01)
        assert len(watches) == 0

    _run(test)


def test_a_change_of_our_own_is_seen_at_once() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        waiting = asyncio.create_task(watches.changed("a", 1, 600))
        await asyncio.sleep(0.02)
        versions.now["a"] = 2
        # From a thread, as the dashboard's do.
        await asyncio.to_thread(watches.wake)
        await waiting

    _run(test, seconds=600)


def test_thousands_wait_at_the_price_of_one() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        waiting = [asyncio.create_task(watches.changed("a", 1, 60)) for _ in range(5000)]
        await asyncio.sleep(0.05)
        assert len(watches) == 5000
        reads = versions.reads
        await watches.look()
        assert versions.reads == reads + 1
        versions.now["a"] = 2
        await asyncio.gather(*waiting)

    _run(test)


def test_the_end_answers_everybody() -> None:
    async def test(versions: Versions, watches: Watches) -> None:
        waiting = asyncio.create_task(watches.changed("a", 1, 60))
        await asyncio.sleep(0.02)
        watches.close()
        await waiting
        await watches.changed("a", 1, 60)  # and whoever comes later

    _run(test)


def test_a_database_that_does_not_answer_is_said_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(watching, "BACK_OFF_SECONDS", 0.005)

    async def test(versions: Versions, watches: Watches) -> None:
        waiting = asyncio.create_task(watches.changed("a", 1, 60))
        await asyncio.sleep(0.01)
        versions.broken = True
        reads = versions.reads
        while versions.reads < reads + 5:
            await asyncio.sleep(0.005)
        versions.broken = False
        versions.now["a"] = 2
        await waiting

    with capture_logs() as logs:
        _run(test)
    assert [entry["event"] for entry in logs] == ["versions_not_read"]


def test_waking_after_the_end_harms_nobody() -> None:
    async def main() -> Watches:
        return Watches(Versions())

    asyncio.run(main()).wake()
