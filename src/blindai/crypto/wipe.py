"""Overwriting secrets where they lie in memory, instead of waiting for somebody else to need the place.

Python never overwrites what it frees, and a copy of a `bytes` object is easily made and never found again. So secrets
are held in buffers that can be overwritten, and those that only come as `bytes` are overwritten in place: CPython keeps
the bytes of such an object inside it, at an address that its C interface gives out. That is right only for whoever
holds the last reference, since others would see their constant change.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Final, TypeAlias

Wipeable: TypeAlias = "bytearray | memoryview | mmap.mmap | bytes"

# CPython has one object for all empty bytes and one for each single byte: these belong to everybody.
_LONGEST_SHARED: Final = 1


def wipe(buffer: Wipeable) -> None:
    """Overwrite `buffer` with zeros.

    Args:
        buffer: a writable buffer, which stays as long as it is; or `bytes` that nobody else holds a reference to, that
            are no constant of a program and no key of a dict. Bytes of length 0 and 1 are left as they are.

    Raises:
        TypeError: a read-only view, a view with gaps, or `bytes` on another implementation of Python than CPython.
    """
    if isinstance(buffer, bytes):
        if sys.implementation.name != "cpython":
            raise TypeError("only CPython keeps the content of bytes at a known address")
        if len(buffer) > _LONGEST_SHARED:
            ctypes.memset(_address_of(buffer), 0, len(buffer))
        return
    with memoryview(buffer) as view:
        if view.nbytes:
            ctypes.memset((ctypes.c_char * view.nbytes).from_buffer(view), 0, view.nbytes)


def fresh_bytes(size: int) -> tuple[bytes, memoryview]:
    """A new `bytes` object, and the view to fill it through before anyone else sees it.

    For interfaces that take `bytes` alone: what is decrypted into the view needs no copy, and can be wiped afterwards.
    CPython allows this until the object is first shared ("Bytes Objects", PyBytes_FromStringAndSize with NULL). The
    content is undefined before it is filled. The view keeps the object alive.

    Raises:
        ValueError: `size` is below 2, where CPython shares its objects.
        TypeError: another implementation of Python than CPython.
        MemoryError: there is no room for it.
    """
    if sys.implementation.name != "cpython":
        raise TypeError("only CPython makes bytes that can be filled")
    if size <= _LONGEST_SHARED:
        raise ValueError("bytes of length 0 and 1 are shared and cannot be filled")
    made: bytes = _new_bytes(None, size)
    array = (ctypes.c_ubyte * size).from_address(_address_of(made))
    array.owner = made  # type: ignore[attr-defined]  # ctypes objects take attributes; this one keeps `made` alive
    return made, memoryview(array).cast("B")


def _address_of(data: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0


# A prototype of its own: those of `ctypes.pythonapi` belong to everybody in the process.
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
