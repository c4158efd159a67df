"""What a call leaves behind on the thread that made it, when it has returned: its stack, and small freed blocks.

Matrix kernels copy parts of the weights into buffers on the stack (64 KiB at a time in MLAS), and nothing overwrites a
stack but the next call that goes as deep. So does the dynamic linker, with what the vector registers hold, when a
function of a library is called for the first time. A thread that waits for work keeps all of that for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import platform
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from blindai.enclave.allocator import wipe_cached_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

# How deep below the present call the stack is wiped. ONNX Runtime's calls need about 100 KiB, and some more for each
# graph within a graph.
_DEPTH_BYTES: Final = 1 << 20

# What wiping itself needs of the stack: the frames of ctypes, libffi and memset, which overwrite what was there.
_OWN_BYTES: Final = 1 << 10

# Where getcontext(3) writes the stack pointer: `uc_mcontext.gregs[REG_RSP]` and `uc_mcontext.sp` of <sys/ucontext.h>.
_STACK_POINTER: Final = {"x86_64": 160, "aarch64": 432}

# Larger than any ucontext_t (aarch64 has 4560 bytes), and than any pthread_attr_t (64).
_CONTEXT_BYTES: Final = 8192
_ATTRIBUTES_BYTES: Final = 256


def wipe_thread() -> bool:
    """Overwrite what ended calls have left on this thread; whether its stack could be.

    The stack is wiped below the caller's frame and down to `_DEPTH_BYTES`, on Linux with glibc, on x86-64 and aarch64.
    """
    wipe_cached_blocks()
    return _wipe_stack()


async def wipe_threads(executor: ThreadPoolExecutor, threads: int) -> None:
    """`wipe_thread` on each thread of `executor`, when it has ended what it does, and on that of the event loop.

    Args:
        executor: whose threads. Where it is shut down before all of them have come, those that have are let go.
        threads: how many it may have.
    """
    wipe_thread()
    # A thread that is through waits for the others, so that each of them gets one of these.
    together = threading.Barrier(threads)

    def wipe_one() -> None:
        wipe_thread()
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()

    wiping = [executor.submit(wipe_one) for _ in range(threads)]
    for one in wiping:
        # Whoever shuts the executor down joins its threads, and may well be the event loop: nobody else could end this.
        one.add_done_callback(lambda done: together.abort() if done.cancelled() else None)
    try:
        await asyncio.gather(*map(asyncio.wrap_future, wiping))
    except BaseException:
        together.abort()  # or those that wait would do so for ever
        raise


def _wipe_stack() -> bool:
    found = _functions()
    if found is None:
        return False
    getcontext, memset, offset, lowest = found
    bottom = lowest()
    if bottom is None:
        return False
    context = ctypes.create_string_buffer(_CONTEXT_BYTES)
    # Twice, because the first call of a function may run the dynamic linker. Both calls are alike, and so are their
    # frames: what one of them finds as the top of the stack holds for the other.
    for length in (0, _DEPTH_BYTES):
        getcontext(ctypes.addressof(context), 0, 0)
        top = int.from_bytes(context.raw[offset : offset + 8], sys.byteorder) - _OWN_BYTES
        start = max(top - length, bottom)
        memset(start, 0, max(top - start, 0))
    return True


@cache
def _functions() -> tuple[Callable[..., Any], Callable[..., Any], int, Callable[[], int | None]] | None:
    """getcontext, memset, where the first one puts the stack pointer, and what gives the lowest address of a stack."""
    offset = _STACK_POINTER.get(platform.machine())
    if sys.platform != "linux" or offset is None:
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "getcontext"):
        return None
    call = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    myself = ctypes.CFUNCTYPE(ctypes.c_void_p)(("pthread_self", library))
    attributes_of = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(("pthread_getattr_np", library))
    stack_of = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
        ("pthread_attr_getstack", library)
    )
    forget = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("pthread_attr_destroy", library))

    def lowest() -> int | None:
        attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
        address, size = ctypes.c_void_p(), ctypes.c_size_t()
        if attributes_of(myself(), attributes):
            return None
        stack_of(attributes, ctypes.byref(address), ctypes.byref(size))
        forget(attributes)
        return address.value

    return call(("getcontext", library)), call(("memset", library)), offset, lowest
