"""What ended calls leave on a stack is gone after a wipe, on the thread that asks and on those of an executor."""

from __future__ import annotations

import asyncio
import ctypes
import platform
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from blindai.enclave import residue
from blindai.enclave.residue import wipe_thread, wipe_threads

MARK = 0x5A
MARKED_BYTES = 256 << 10
# Below this, calls between the marking and the reading leave their own words.
SHALLOW_BYTES = 32 << 10


def mark_stack() -> int:
    """Leave a mark on this thread's stack where no call is in progress, as a call that returned would; its address."""
    functions = residue._functions()
    assert functions is not None
    getcontext, memset, offset, _ = functions
    context = ctypes.create_string_buffer(8192)
    getcontext(ctypes.addressof(context), 0, 0)
    top = int.from_bytes(context.raw[offset : offset + 8], sys.byteorder)
    start = top - SHALLOW_BYTES - MARKED_BYTES
    memset(start, MARK, MARKED_BYTES)
    return start


def marks(address: int) -> int:
    """How many of the marked bytes are still there."""
    return ctypes.string_at(address, MARKED_BYTES).count(MARK)


def test_the_stack_of_this_thread_is_wiped() -> None:
    address = mark_stack()
    assert marks(address) > MARKED_BYTES // 2
    assert wipe_thread()
    assert marks(address) == 0


def test_a_small_stack_is_wiped_to_its_end() -> None:
    results: list[tuple[int, bool, int]] = []

    def work() -> None:
        address = mark_stack()
        before = marks(address)
        results.append((before, wipe_thread(), marks(address)))

    before = threading.stack_size(MARKED_BYTES * 2)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    ((marked, wiped, left),) = results
    assert marked > MARKED_BYTES // 2
    assert (wiped, left) == (True, 0)


def test_each_thread_of_an_executor_is_wiped() -> None:
    threads = 3

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(threads) as executor:
            together = threading.Barrier(threads)

            def mark() -> int:
                together.wait(20)
                return mark_stack()

            addresses = await asyncio.gather(*(loop.run_in_executor(executor, mark) for _ in range(threads)))
            addresses.append(mark_stack())
            assert len(set(addresses)) == threads + 1
            assert all(marks(address) for address in addresses)
            busy = loop.run_in_executor(executor, time.sleep, 0.05)
            await wipe_threads(executor, threads)
            assert busy.done()
            assert [marks(address) for address in addresses] == [0] * (threads + 1)

    asyncio.run(main())


def test_threads_do_not_wait_for_ever_when_nobody_does() -> None:
    async def main() -> None:
        with ThreadPoolExecutor(2) as executor:
            leave = threading.Event()
            asyncio.get_running_loop().run_in_executor(executor, leave.wait, 20)
            wiping = asyncio.ensure_future(wipe_threads(executor, 2))
            await asyncio.sleep(0.01)
            wiping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wiping
            leave.set()

    asyncio.run(main())


def test_an_executor_that_is_shut_down_meanwhile_lets_them_go() -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(2)
        leave = threading.Event()
        executor.submit(leave.wait, 20)
        wiping = asyncio.ensure_future(wipe_threads(executor, 2))
        await asyncio.sleep(0.01)
        threading.Timer(0.1, leave.set).start()
        # On the event loop, as the enclave does it at its end: nothing else runs there until this returns.
        executor.shutdown(cancel_futures=True)
        with pytest.raises(asyncio.CancelledError):
            await wiping

    asyncio.run(main())


@pytest.fixture
def afresh() -> None:
    residue._functions.cache_clear()


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(("what", "value"), [("machine", "riscv64"), ("system", "darwin"), ("library", None)])
def test_stacks_of_other_systems_are_said_not_to_be_wiped(
    monkeypatch: pytest.MonkeyPatch, what: str, value: str | None
) -> None:
    if what == "machine":
        monkeypatch.setattr(platform, "machine", lambda: value)
    elif what == "system":
        monkeypatch.setattr(sys, "platform", value)
    else:
        monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    try:
        assert not wipe_thread()
    finally:
        residue._functions.cache_clear()


def test_a_stack_without_known_bounds_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = residue._functions()
    assert functions is not None
    monkeypatch.setattr(residue, "_functions", lambda: (*functions[:3], lambda: None))
    assert not wipe_thread()
