from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import threading

import pytest
from structlog.testing import capture_logs

from blindai.crypto.wipe import fresh_bytes
from blindai.enclave import allocator
from blindai.enclave.allocator import use_huge_pages, wipe_cached_blocks, wiping_freed_memory


def test_glibc_takes_the_setting() -> None:
    """In a process of its own: the setting is the whole process's."""
    program = "from blindai.enclave.allocator import keep_freed_memory; print(keep_freed_memory())"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(platform.libc_ver()[0] == "glibc")


class Heap:
    """malloc and free themselves."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        self.library.malloc.restype = ctypes.c_void_p
        self.library.malloc.argtypes = (ctypes.c_size_t,)
        self.library.free.argtypes = (ctypes.c_void_p,)

    def used_and_freed(self, size: int) -> bytes:
        """What is at the place of a block that was filled and freed, without the allocator's own words in it."""
        block = self.library.malloc(size)
        guard = self.library.malloc(size)  # so that the block is not joined with what follows, and stays mapped
        ctypes.memset(block, 0x5A, size)
        self.library.free(block)
        content = ctypes.string_at(block + 32, size - 32)
        self.library.free(guard)
        return content


@pytest.mark.parametrize("size", [2048, 100_000, 1 << 20])
def test_freed_memory_is_overwritten_until_the_last_block_has_ended(size: int) -> None:
    heap = Heap()
    with wiping_freed_memory() as wiping:
        assert wiping
        assert heap.used_and_freed(size).count(0x5A) == 0
        with wiping_freed_memory():
            assert heap.used_and_freed(size).count(0x5A) == 0
        assert heap.used_and_freed(size).count(0x5A) == 0
    assert heap.used_and_freed(2048).count(0x5A) > 1000


def test_blocks_on_several_threads_may_overlap() -> None:
    heap = Heap()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with wiping_freed_memory():
            inside.set()
            assert leave.wait(20)

    thread = threading.Thread(target=other)
    with wiping_freed_memory():
        thread.start()
        assert inside.wait(20)
    assert heap.used_and_freed(4096).count(0x5A) == 0
    leave.set()
    thread.join()
    assert heap.used_and_freed(4096).count(0x5A) > 1000


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError), wiping_freed_memory():
        raise RuntimeError
    assert Heap().used_and_freed(4096).count(0x5A) > 1000


def test_small_blocks_are_overwritten_on_demand() -> None:
    heap = Heap()
    sizes = range(64, 1025, 48)
    blocks = [(heap.library.malloc(size), size) for size in sizes]
    for block, size in blocks:
        ctypes.memset(block, 0x5A, size)
        heap.library.free(block)
    wipe_cached_blocks()
    assert [ctypes.string_at(block + 32, size - 32).count(0x5A) for block, size in blocks] == [0] * len(blocks)


@pytest.fixture
def other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library that has no mallopt, as musl."""
    monkeypatch.setattr(allocator, "_glibc", lambda *_: None)
    monkeypatch.setattr(allocator, "_windows", allocator._Windows())


@pytest.mark.usefixtures("other_library")
def test_other_c_libraries_are_named_in_the_log_once() -> None:
    with capture_logs() as logs:
        for _ in range(2):
            with wiping_freed_memory() as wiping:
                assert not wiping
        wipe_cached_blocks()
        assert not allocator.keep_freed_memory()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("freed_memory_not_wiped", "warning")]


def test_other_systems_have_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator._glibc.__wrapped__("mallopt", None) is None


@pytest.mark.parametrize("size", [2, (2 << 20) + 5, 9 << 20])
def test_a_buffer_on_huge_pages_holds_what_is_written(size: int) -> None:
    made, view = fresh_bytes(size)
    use_huge_pages(view)
    view[:] = bytes([0x5A]) * size
    assert made.count(0x5A) == size


@pytest.mark.usefixtures("other_library")
def test_a_buffer_without_huge_pages_too() -> None:
    buffer = bytearray(4 << 20)
    use_huge_pages(memoryview(buffer))
    assert not any(buffer)
