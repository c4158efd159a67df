"""What the C library's allocator does with freed memory: keep it, so that requests are quick, or overwrite it.

Both are settings of glibc's malloc (mallopt(3)) and hold for the whole process. Other C libraries have neither. And a
word to the kernel about large buffers.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4
_M_PERTURB: Final = -6

# The largest that glibc accepts on 64-bit systems (HEAP_MAX_SIZE / 2). Blocks below it come from memory in hand.
_MMAP_THRESHOLD_BYTES: Final = 32 << 20

# Freed memory kept in hand: the body of one large request, its copies, and its answer.
_KEPT_BYTES: Final = 256 << 20

# What freed memory is overwritten with. New memory is filled with its complement, which is zeros.
_FREED: Final = 0xFF

# How many blocks malloc may take from the system one by one: glibc's default (DEFAULT_MMAP_MAX).
_MMAP_MAX: Final = 65536

# glibc keeps freed blocks of up to so many bytes for each thread without overwriting them, in steps of 16 bytes and up
# to 16 of each size (malloc.c: MAX_TCACHE_SMALL_SIZE, TCACHE_FILL_COUNT; 7 before glibc 2.42).
_CACHED_BYTES: Final = 1032
_CACHED_STEP: Final = 16
_CACHED_COUNT: Final = 16

# Of x86-64, and of aarch64 with pages of 4 KiB.
_HUGE_PAGE_BYTES: Final = 2 << 20

_log = structlog.get_logger("blindai.enclave")


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed instead of returning it to the system; whether it could be told.

    By default glibc gives the memory of a request's body back as soon as it is freed, and the next request of that
    size faults every page in again. In a virtual machine that takes several times as long as the inference's own
    work: with it kept, a request of 4 MB took about a third of the time. Elsewhere than on glibc nothing is changed.
    """
    mallopt = _glibc("mallopt", ctypes.c_int, ctypes.c_int, ctypes.c_int)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))


def use_huge_pages(buffer: memoryview) -> None:
    """Ask the kernel to back a large new buffer with huge pages: filling it then costs a fault for each 2 MiB only.

    Args:
        buffer: writable. Without effect where it is small, or the system has no such pages.
    """
    madvise = _glibc("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if madvise is None or advice is None or buffer.nbytes < _HUGE_PAGE_BYTES:
        return
    address = ctypes.addressof((ctypes.c_char * buffer.nbytes).from_buffer(buffer))
    start = -(-address // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    end = (address + buffer.nbytes) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if start < end:
        madvise(start, end - start, advice)


class _Windows:
    """How many `wiping_freed_memory` are open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = 0
        self.warned = False


_windows: Final = _Windows()


@contextmanager
def wiping_freed_memory() -> Iterator[bool]:
    """Until the end of the block, whatever any thread frees is overwritten first; whether that is so.

    For the time in which a model that was lent is loaded and dropped: ONNX Runtime's own copies of the weights,
    protobuf's, and those that its kernels pack for themselves are all given to free(3). For as long, large blocks too
    come from the heap: those that malloc takes from the system one by one go back to it as they are. At the end, whole
    pages are given back.

    The small blocks that glibc keeps for each thread are the exception; `residue.wipe_thread` sees to them.

    Blocks may overlap, on one thread or several: it ends with the last one. Elsewhere than on glibc nothing is
    overwritten, and the log says so once.
    """
    mallopt = _glibc("mallopt", ctypes.c_int, ctypes.c_int, ctypes.c_int)
    trim = _glibc("malloc_trim", ctypes.c_int, ctypes.c_size_t)
    if mallopt is None or trim is None:
        with _windows.lock:
            warned, _windows.warned = _windows.warned, True
        if not warned:
            _log.warning("freed_memory_not_wiped", reason="the C library is not glibc")
        yield False
        return
    with _windows.lock:
        _windows.open += 1
        if _windows.open == 1:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_PERTURB, _FREED)
    try:
        yield True
    finally:
        with _windows.lock:
            _windows.open -= 1
            if _windows.open == 0:
                mallopt(_M_PERTURB, 0)
                mallopt(_M_MMAP_MAX, _MMAP_MAX)
        trim(0)


def wipe_cached_blocks() -> None:
    """Overwrite the small freed blocks that the C library keeps for this thread. Without effect but on glibc."""
    malloc = _glibc("malloc", ctypes.c_void_p, ctypes.c_size_t)
    free = _glibc("free", None, ctypes.c_void_p)
    if malloc is None or free is None:
        return
    for size in range(_CACHED_STEP + 8, _CACHED_BYTES + 1, _CACHED_STEP):
        blocks = [malloc(size) for _ in range(_CACHED_COUNT)]
        for block in blocks:
            if block:
                ctypes.memset(block, 0, size)
        for block in blocks:
            free(block)


@cache
def _glibc(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """A function of glibc; None with another C library. musl has malloc, but no mallopt."""
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return None
    function: Callable[..., Any] = ctypes.CFUNCTYPE(result, *arguments)((name, library))
    return function
