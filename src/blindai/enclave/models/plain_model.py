"""A model in clear, for as long as it is being loaded: in a file in memory, which another process may read.

The file is whole before anybody else sees it, and sealed then (memfd_create(2), F_ADD_SEALS): the process that loads it
can neither change nor lengthen it. When the load has ended the server cuts it to nothing: a process that keeps it
mapped keeps no memory, and is ended by the kernel where it looks at it again.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from typing import TYPE_CHECKING, Self, TypeAlias

from blindai.crypto.wipe import wipe
from blindai.errors import QuotaExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blindai.errors import BlindAIError


class MemoryBuffer:
    """A model in this process's own memory, for systems that have no files in memory; see `runner.Plain`.

    Args:
        size: its bytes.
        bundle: whether it is a bundle.
    """

    def __init__(self, size: int, *, bundle: bool) -> None:
        self.size = size
        self.bundle = bundle
        self._buffer = bytearray(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def view(self) -> memoryview:
        """As `runner.Plain.view`."""
        return memoryview(self._buffer).toreadonly()

    def fileno(self) -> int:
        """There is no file. Raises OSError."""
        raise OSError(errno.ENOTSUP, "this system has no files in memory")

    def read(self) -> bytearray:
        """A copy of its bytes; whoever asked for it wipes it."""
        return bytearray(self._buffer)

    @contextlib.contextmanager
    def filling(self) -> Iterator[memoryview]:
        """What its bytes are written to, once, before anybody sees it."""
        with memoryview(self._buffer) as target:
            yield target

    def close(self) -> None:
        """Overwrite it; harmless when repeated."""
        wipe(self._buffer)


class MemoryFile:
    """A model in a sealed file that is in memory alone (Linux); see `runner.Plain`.

    Args:
        size: its bytes, 1 at least.
        bundle: whether it is a bundle.
    """

    def __init__(self, size: int, *, bundle: bool) -> None:
        if sys.platform != "linux":
            raise OSError(errno.ENOTSUP, "this system has no files in memory")
        self.size = size
        self.bundle = bundle
        self._mapped: mmap.mmap | None = None
        self._descriptor = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # All of its memory now: a lack of it has no other answer than a signal once it is mapped.
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def view(self) -> memoryview:
        """As `runner.Plain.view`. Only where no other process has the file: by cutting it, it would end this one."""
        if self._mapped is None:
            self._mapped = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return memoryview(self._mapped)

    def fileno(self) -> int:
        """As `runner.Plain.fileno`."""
        return self._descriptor

    def read(self) -> bytearray:
        """As `MemoryBuffer.read`; shorter where somebody cut the file."""
        copied = bytearray(self.size)
        with memoryview(copied) as target:
            length = os.preadv(self._descriptor, [target], 0)
        del copied[length:]
        return copied

    @contextlib.contextmanager
    def filling(self) -> Iterator[memoryview]:
        """As `MemoryBuffer.filling`; sealed at the end."""
        mapped = mmap.mmap(self._descriptor, self.size)
        try:
            with memoryview(mapped) as target:
                yield target
        except BaseException:
            _unmap(mapped)
            raise
        mapped.close()  # what can be written to cannot be sealed
        _seal(self._descriptor)

    def close(self) -> None:
        """Free its memory, whoever else has it; harmless when repeated."""
        if self._mapped is not None:
            _unmap(self._mapped)
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


PlainModel: TypeAlias = MemoryBuffer | MemoryFile


def in_memory(size: int, *, bundle: bool) -> PlainModel:
    """Memory for a model of `size` bytes.

    Raises:
        QuotaExceeded: `quota.memory`.
        Unavailable: `busy`, as many files are open as may be.
    """
    try:
        return (MemoryFile if sys.platform == "linux" else MemoryBuffer)(size, bundle=bundle)
    except MemoryError as error:
        raise _no_memory() from error
    except OSError as error:
        if error.errno in {errno.ENOMEM, errno.ENOSPC}:
            raise _no_memory() from error
        raise Unavailable("the enclave has too many files open", code="busy", hint="try again soon") from error


def _unmap(mapped: mmap.mmap) -> None:
    # An error on its way up may refer to a part of it, which then goes with the error.
    with contextlib.suppress(BufferError):
        mapped.close()


def _seal(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _no_memory() -> BlindAIError:
    return QuotaExceeded("the enclave has no memory left for this model", code="quota.memory")
