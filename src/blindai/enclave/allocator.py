"""One setting of the C library's allocator, without which large requests pay for fresh memory each time."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

# The largest that glibc accepts on 64-bit systems (HEAP_MAX_SIZE / 2). Blocks below it come from memory in hand.
_MMAP_THRESHOLD_BYTES: Final = 32 << 20

# Freed memory kept in hand: the body of one large request, its copies, and its answer.
_KEPT_BYTES: Final = 256 << 20


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed instead of returning it to the system; whether it could be told.

    By default glibc gives the memory of a request's body back as soon as it is freed, and the next request of that
    size faults every page in again. In a virtual machine that takes several times as long as the inference's own
    work: with it kept, a request of 4 MB took about a third of the time. Elsewhere than on glibc nothing is changed.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has no such setting
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
