"""The files through which a kernel or a library OS hands out evidence, on a root that can be exchanged."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

# The largest is a firmware's boot log, with some hundred KB.
MAX_FILE_BYTES = 4 << 20

_CHUNK_BYTES = 1 << 16


class Files(Protocol):
    """Files of the machine by absolute POSIX path. Every method but `exists` raises `OSError` as the kernel answers."""

    def read(self, path: str) -> bytes:
        """Read to the end of file, whatever size the file claims to have.

        Raises:
            OSError: among others EFBIG, above `MAX_FILE_BYTES`.
        """

    def write(self, path: str, data: bytes) -> None:
        """Hand all of `data` to an existing file in one call, then close it.

        Raises:
            OSError: among others EIO, where less than `data` was taken.
        """

    def mkdir(self, path: str) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def listdir(self, path: str) -> list[str]:
        """The names in a folder, sorted."""

    def exists(self, path: str) -> bool:
        """Whether this process can see that there is such a file or folder."""


class HostFiles:
    """The files of this machine, or what lies under `root` in place of them."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self, path: str) -> bytes:
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            content = bytearray()
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_FILE_BYTES:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        finally:
            os.close(descriptor)
        return bytes(content)

    def write(self, path: str, data: bytes) -> None:
        descriptor = os.open(self._at(path), os.O_WRONLY)
        try:
            taken = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if taken != len(data):
            raise OSError(errno.EIO, f"short write, {taken} of {len(data)} bytes", path)

    def mkdir(self, path: str) -> None:
        self._at(path).mkdir()

    def rmdir(self, path: str) -> None:
        self._at(path).rmdir()

    def listdir(self, path: str) -> list[str]:
        return sorted(entry.name for entry in self._at(path).iterdir())

    def exists(self, path: str) -> bool:
        # Not Path.exists: that raises where a folder on the way may not be entered.
        return os.path.exists(self._at(path))  # noqa: PTH110  # as said above

    def _at(self, path: str) -> Path:
        return self._root / path.removeprefix("/")
